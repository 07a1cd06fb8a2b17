"""What user space does with xdp_count_packet: loads either flavour, reads the tables fast, shows who sends most.

program = load(bpf, flavour="bcc", sources=100_000)
for talker in top(program.maps, 10):
    print(talker)                     # 10.0.0.1: 12 packets, 1,176 bytes
counts(program.maps)[Outcome.NO_ROOM_IPV4]
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab.kernel import libbpf
from lab.kernel.bpf import map_batches
from lab.model.table import Table

if TYPE_CHECKING:
    from lab.bpf.loader import Loader
    from lab.bpf.program import Program

Flavour = Literal["core", "bcc"]
Measure = Literal["bytes", "packets"]
BCC_SOURCE = Path(__file__).with_name("xdp_count_packet.bcc.c")
ADDRESS_BYTES = {"sources4": 4, "sources6": 16}
COUNT_BYTES = 16
"""Of `struct count`."""
COLUMNS = ("packets", "bytes", "packets/s", "bit/s")
PROTOCOL_NAMES = {
    value: name.removeprefix("IPPROTO_").lower() for name, value in vars(socket).items() if name.startswith("IPPROTO_")
}


class Outcome(IntEnum):
    """`enum outcome`: BCC leaves no names of it behind."""

    IPV4 = 0
    IPV6 = 1
    NO_ROOM_IPV4 = 2
    NO_ROOM_IPV6 = 3
    TOO_DEEP = 4
    MALFORMED = 5
    NOT_IP = 6


@dataclass(frozen=True)
class Count:
    """Packets, and their bytes as whole frames without FCS; all CPUs together."""

    packets: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.packets:,} packet{'s' * (self.packets != 1)}, {self.bytes:,} bytes"


NONE = Count(0, 0)


@dataclass(frozen=True)
class Talker:
    """A source and what came from it."""

    source: IPv4Address | IPv6Address
    count: Count

    def __str__(self) -> str:
        return f"{self.source}: {self.count}"


def load(bpf: Loader, *, flavour: Flavour = "core", sources: int = 65_536) -> Program:
    """The program with room for so many sources of each family.

    flavour: compiled once (core), or by BCC as it starts (bcc)
    sources: addresses of each family that there is room for
    """
    if flavour == "bcc":
        return bpf.load_bcc(BCC_SOURCE, "xdp_count_packet", "xdp", SOURCES=sources)
    return bpf.load("xdp_count_packet", max_entries=dict.fromkeys(ADDRESS_BYTES, sources))


def counts(maps: Mapping[str, Any]) -> dict[Outcome, Count]:
    """What became of all packets, by outcome; those that never occurred are 0."""
    return {each: _count(maps["outcomes"].total(each)) for each in Outcome}


def by_protocol(maps: Mapping[str, Any]) -> dict[int, Count]:
    """Protocol number -> its packets, of those that had any."""
    totals = ((number, _count(each.total())) for number, each in maps["protocols"].items())
    return {number: count for number, count in totals if count.packets}


def top(maps: Mapping[str, Any], number: int = 10, by: Measure = "bytes") -> list[Talker]:
    """The sources of both families from which most came, the greatest first; fewer where there are not so many."""
    return _Sources.read(maps).greatest(number, by)


def distinct(maps: Mapping[str, Any]) -> int:
    """How many sources have a place in the tables."""
    return len(_Sources.read(maps).addresses)


def clear(maps: Mapping[str, Any]) -> None:
    """Forgets all sources, so that there is room for new ones. What is counted meanwhile may be lost."""
    for name in ADDRESS_BYTES:
        maps[name].clear()


# ---------------------------------------------------------------- for a person


def view(program: Program, *, top: int = 10, by: Measure = "bytes") -> Iterator[list[Table]]:
    """Sources and protocols with totals and rates, and what became of all packets.

    top: sources shown
    by: what the order of sources is by
    """
    before, read_at = _Reading.of(program.maps), time.monotonic()
    while True:
        now, started = _Reading.of(program.maps), time.monotonic()
        yield now.tables(before, started - read_at, top, by)
        before, read_at = now, started


def summary(program: Program) -> str:
    """All that came, from how many, and what had no room."""
    seen = counts(program.maps).values()
    whole = Count(sum(each.packets for each in seen), sum(each.bytes for each in seen))
    left_out = sum(counts(program.maps)[each].packets for each in (Outcome.NO_ROOM_IPV4, Outcome.NO_ROOM_IPV6))
    told = f"{whole} from {distinct(program.maps):,} sources"
    return f"{told}; {left_out:,} packets of sources without a place" if left_out else told


@dataclass(frozen=True)
class _Reading:
    """All tables at one moment."""

    sources: _Sources
    protocols: dict[int, Count]
    outcomes: dict[Outcome, Count]

    @classmethod
    def of(cls, maps: Mapping[str, Any]) -> _Reading:
        return cls(_Sources.read(maps), by_protocol(maps), counts(maps))

    def tables(self, before: _Reading, seconds: float, top: int, by: Measure) -> list[Table]:
        talkers = self.sources.greatest(top, by)
        return [
            Table(
                "sources",
                ("source", *COLUMNS),
                [
                    (str(each.source), *_with_rates(each.count, before.sources.count_of(each.source), seconds))
                    for each in talkers
                ],
                f"{len(talkers):,} of {len(self.sources.addresses):,}",
            ),
            Table(
                "protocols",
                ("protocol", *COLUMNS),
                [
                    (protocol_name(number), *_with_rates(count, before.protocols.get(number, NONE), seconds))
                    for number, count in sorted(self.protocols.items(), key=lambda pair: -pair[1].packets)
                ],
            ),
            Table(
                "outcomes",
                ("outcome", *COLUMNS),
                [
                    (each.name, *_with_rates(count, before.outcomes[each], seconds))
                    for each, count in self.outcomes.items()
                    if count.packets
                ],
            ),
        ]


def _with_rates(now: Count, before: Count, seconds: float) -> tuple[int, int, int, int]:
    """Packets, bytes, and both per second since the reading before; never below 0, should the tables be cleared."""
    return (
        now.packets,
        now.bytes,
        max(0, round((now.packets - before.packets) / seconds)),
        max(0, round((now.bytes - before.bytes) * 8 / seconds)),
    )


def protocol_name(number: int) -> str:
    """ "tcp" of 6, as /etc/protocols or the C library has it; the number itself where it has no name."""
    return PROTOCOL_NAMES.get(number, str(number))


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Sources:
    """Every source's raw address, and a row of (packets, bytes) for each: a million are read in a second."""

    addresses: list[bytes]
    counted: Any

    @classmethod
    def read(cls, maps: Mapping[str, Any]) -> _Sources:
        import numpy as np

        cpus = libbpf.possible_cpus()
        addresses: list[bytes] = []
        counted = [np.zeros((0, 2), dtype=np.uint64)]
        for name, width in ADDRESS_BYTES.items():
            for keys, values, count in map_batches(maps[name].fd, width, COUNT_BYTES * cpus):
                addresses += [keys[at : at + width] for at in range(0, count * width, width)]
                counted.append(np.frombuffer(values, dtype=np.uint64).reshape(count, cpus, 2).sum(axis=1))
        return cls(addresses, np.concatenate(counted))

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {address: place for place, address in enumerate(self.addresses)}

    def count_of(self, source: IPv4Address | IPv6Address) -> Count:
        place = self._places.get(source.packed)
        return NONE if place is None else self._count(place)

    def greatest(self, number: int, by: Measure) -> list[Talker]:
        import numpy as np

        column = self.counted[:, ("packets", "bytes").index(by)]
        candidates = np.argpartition(column, -number)[-number:] if number < len(column) else np.arange(len(column))
        places = candidates[np.argsort(column[candidates])][::-1]
        return [Talker(ip_address(self.addresses[place]), self._count(place)) for place in places]

    def _count(self, place: int) -> Count:
        packets, size = self.counted[place]
        return Count(int(packets), int(size))


def _count(total: Any) -> Count:
    """Of a `struct count`."""
    return Count(total.packets, total.bytes)
