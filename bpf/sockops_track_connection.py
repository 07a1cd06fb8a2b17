"""What user space does with sockops_track_connection: reads its connections, and looks at those that existed before.

with Cgroup() as group, program.attach(group), group.entered():
    look(program, group)                            # sockets made earlier; and numbers of now for all
    for each in connections(program.maps):
        print(each)                                 # ACTIVE 10.0.0.1:40000 -> 10.0.0.2:80 ESTABLISHED, 312 B out, ...
    program.maps["events"].drain()                  # those that closed meanwhile, with their last numbers
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lab.bpf.iterate import iterate
from lab.kernel import cgroup
from lab.model.table import Table

NS_PER_MS = 1e6


@dataclass(frozen=True)
class Connection:
    """A socket as it was when its last callback came; times are CLOCK_MONOTONIC (`time.monotonic_ns()`).

    `ending` is "OPEN" while it lives. Bytes are of the stream, without SYN and FIN; `bytes_sent` are acknowledged ones.
    """

    cookie: int
    cgroup_id: int
    role: str
    state: str
    ending: str
    local: str
    remote: str
    opened_ns: int
    established_ns: int
    entered_ns: dict[str, int]
    bytes_sent: int
    bytes_received: int
    retransmits: int
    srtt_us: int
    rtt_min_us: int
    rtt_max_us: int
    rtt_samples: int
    error: int

    @property
    def handshake_ms(self) -> float | None:
        """From connect() to the end of the handshake; None where one of them was not seen."""
        if self.role != "ACTIVE" or not self.established_ns:
            return None
        return (self.established_ns - self.opened_ns) / NS_PER_MS

    def __str__(self) -> str:
        how = self.state if self.ending == "OPEN" else self.ending
        if self.role == "LISTENER":
            return f"LISTENER {self.local} {how}"
        return (
            f"{self.role} {self.local} -> {self.remote} {how}, {self.bytes_sent} B out, {self.bytes_received} B in, "
            f"srtt {self.srtt_us} us, {self.retransmits} retransmits"
        )


def connection_of(cookie: int, entry: Any) -> Connection:
    """A `struct connection` of the map, or of an event."""
    states = type(entry.state)
    entered = {states(number).name: each for number, each in enumerate(entry.entered_ns) if each}
    return Connection(
        cookie,
        entry.cgroup_id,
        entry.role.name,
        entry.state.name,
        entry.ending.name,
        _end(entry.local, entry.local_port),
        _end(entry.remote, entry.remote_port),
        entry.opened_ns,
        entry.established_ns,
        entered,
        entry.bytes_sent,
        entry.bytes_received,
        entry.retransmits,
        entry.srtt_us,
        entry.rtt_min_us,
        entry.rtt_max_us,
        entry.rtt_samples,
        entry.error,
    )


def connections(maps: Mapping[str, Any]) -> Iterator[Connection]:
    """The sockets that live, listeners among them."""
    for cookie, entry in maps["connections"].items():
        yield connection_of(cookie, entry)


def ended(maps: Mapping[str, Any]) -> Iterator[Connection]:
    """The sockets that closed since the last call, in that order."""
    for event in maps["events"].drain():
        if event.kind.name == "KIND_CLOSED":
            yield connection_of(event.cookie, event.connection)


def look(program: Any, group: Any = None) -> None:
    """Reads all numbers afresh, and tracks the sockets that existed before: of this thread's network namespace.

    From the first call with a `group` (anything with a `cgroup_fd`) on, only its sockets and those below are taken.
    AttachError where the kernel has no iterators (before 5.9).
    """
    if group:
        program.globals["looked_at_cgroup"] = os.fstat(group.cgroup_fd).st_ino
    iterate(program.programs["look"])


def changes(maps: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """How often a socket went from one state to another."""
    return {(each.before.name, each.after.name): times.total() for each, times in maps["transitions"].items()}


def happened(maps: Mapping[str, Any]) -> dict[str, int]:
    """How often each enum happening."""
    return {kind.name: times.total() for kind, times in maps["happenings"].items()}


# ---- For a person: lab attach, lab sockops_track_connection ----


def attach(program: Any, place: Any) -> Iterator[Any]:
    """On the cgroup, and on the sockets of the namespace that it has already."""
    yield from place.attach(program)
    look(program, place.cgroup)


def view(program: Any, *, top: int = 20, by: Literal["bytes", "rtt", "retransmits", "age"] = "bytes") -> list[Table]:
    """The connections that live, and the sums of each cgroup.

    Options:
        top: rows shown
        by: what they are sorted by
    """
    look(program)
    living = [each for each in connections(program.maps) if each.role != "LISTENER"]
    shown = sorted(living, key=SORTED_BY[by], reverse=True)[:top]
    now_ns = time.monotonic_ns()
    return [
        Table(
            f"{len(living)} connections",
            ("role", "local", "remote", "state", "age s", "bytes out", "bytes in", "srtt us", "retransmits"),
            [_row(each, now_ns) for each in shown],
            note=_note(program),
        ),
        by_cgroup(program.maps),
    ]


SORTED_BY: dict[str, Callable[[Connection], float]] = {
    "bytes": lambda each: each.bytes_sent + each.bytes_received,
    "rtt": lambda each: each.srtt_us,
    "retransmits": lambda each: each.retransmits,
    "age": lambda each: -each.opened_ns,
}


def _row(each: Connection, now_ns: int) -> tuple[Any, ...]:
    age_s = round((now_ns - each.opened_ns) / 1e9, 1)
    numbers = (each.bytes_sent, each.bytes_received, each.srtt_us, each.retransmits)
    return (each.role.lower(), each.local, each.remote, each.state, age_s, *numbers)


def _note(program: Any) -> str:
    times = happened(program.maps)
    said = f"{times['ENDED']} ended"
    if times["NOT_TRACKED"]:
        said += f"; {times['NOT_TRACKED']} not tracked: no room"
    if times["EVENT_LOST"]:
        said += f"; {times['EVENT_LOST']} events lost"
    return said


def by_cgroup(maps: Mapping[str, Any]) -> Table:
    """A row for each cgroup: opened, open now, ends, and bytes and retransmits of living and ended connections."""
    living: dict[int, list[Connection]] = defaultdict(list)
    for each in connections(maps):
        if each.role != "LISTENER":
            living[each.cgroup_id].append(each)
    names = cgroup_names()
    rows = []
    for number, sums in maps["cgroups"].items():
        here = living[number]
        active, passive, _, adopted = sums.opened
        rows.append(
            (
                names.get(number, f"id {number}, gone"),
                active,
                passive,
                adopted,
                len(here),
                sums.bytes_sent + sum(each.bytes_sent for each in here),
                sums.bytes_received + sum(each.bytes_received for each in here),
                sums.retransmits + sum(each.retransmits for each in here),
                *sums.ended[1:],
            )
        )
    columns = ("cgroup", "active", "passive", "adopted", "open", "bytes out", "bytes in", "retransmits")
    ends = [end.name.lower() for end in maps["endings"]][1:]
    return Table("by cgroup", (*columns, *ends), sorted(rows))


def cgroup_names() -> dict[int, str]:
    """The path of each cgroup, from the mount of cgroup2 on, by its id, which is its inode's number."""
    root = cgroup.root()
    folders = (Path(folder) for folder, _, _ in os.walk(root))
    return {folder.stat().st_ino: str(folder).removeprefix(str(root)) or "/" for folder in folders}


def summary(program: Any) -> str:
    """What happened, in a sentence."""
    times = happened(program.maps)
    opened = times["OPENED_ACTIVE"] + times["OPENED_PASSIVE"] + times["OPENED_ADOPTED"]
    return f"{opened} connections, {_note(program)}"


def _end(address: ipaddress.IPv6Address, port: int) -> str:
    return f"{address.ipv4_mapped}:{port}" if address.ipv4_mapped else f"[{address}]:{port}"
