"""What this process holds in the kernel: descriptors, threads, children, places; never another process's.

Programs, maps, attachments (links) and namespaces are held by descriptors here, so the table of descriptors tells of
them all; objects are never looked for by the kernel's own ids, which other processes use at the same time.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from lab.kernel import bpf, origin

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KINDS = {
    "anon_inode:bpf-prog": "program",
    "anon_inode:bpf-map": "map",
    "anon_inode:bpf_link": "attachment",
    "anon_inode:btf": "types",
    "anon_inode:[perf_event]": "perf event",
    "net:": "network namespace",
    "socket:": "socket",
}
"""How the target of /proc/self/fd/N begins."""
INFO_BYTES = 256


class Thing(NamedTuple):
    """Something that is held; two of them are one when they are equal, but for numbers that were used again."""

    kind: str
    """"descriptor", "thread", "process", "inside"."""
    number: int
    """Of the descriptor, the thread, the process; 0 for the namespace or cgroup that the process is inside of."""
    name: str
    """What a descriptor stands for, as /proc/self/fd says ("socket:[1234]"), or the thread's name."""

    def __str__(self) -> str:
        """In words, with the kernel's id where it has one: 'map 12 "flows"', "process 4711 sleep 60"."""
        if self.kind == "descriptor":
            return _described(self.number, self.name)
        if self.kind == "process":
            return f"process {self.number}: {_command(self.number)}"
        return f"{self.kind} {self.name}"

    @property
    def origin(self) -> str:
        """Who made it, as lines of a traceback; "" where nothing is known."""
        if self.kind == "descriptor":
            return origin.of_descriptor(self.number)
        if self.kind == "process":
            return origin.of_process(self.number)
        return origin.of_thread(self.number) if self.kind == "thread" else ""


_for_life: set[Thing] = set()


@contextmanager
def for_life() -> Iterator[None]:
    """What is made in the block is meant to last as long as the process, and `now` leaves it out."""
    before = now()
    try:
        yield
    finally:
        _for_life.update(now() - before)


def forget_ended() -> None:
    """What was meant to last and is closed is forgotten: its number will be another's."""
    _for_life.intersection_update(_everything())


def lasting_descriptors() -> frozenset[int]:
    """Those that `for_life` made: the process's own instruments, no business of a scenario's."""
    return frozenset(each.number for each in _for_life if each.kind == "descriptor")


def now() -> frozenset[Thing]:
    """Everything that this process holds, about 0.1 ms; threads of libraries that Python does not know are left out."""
    return _everything() - _for_life


def _everything() -> frozenset[Thing]:
    found = [Thing("descriptor", number, name) for number, name in _descriptors()]
    found += [Thing("thread", each.native_id or 0, each.name) for each in threading.enumerate()]
    found += [Thing("process", pid, "") for pid in _children()]
    found.append(Thing("inside", 0, f"network namespace {_target('/proc/thread-self/ns/net')}"))
    found.append(Thing("inside", 0, f"cgroup {_cgroup()}"))
    return frozenset(found)


def memory_bytes() -> int:
    """Resident memory of this process (statm, proc(5))."""
    return int(_read("/proc/self/statm").split()[1]) * PAGE_BYTES


def _descriptors() -> list[tuple[int, str]]:
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path costs more than the call
        with suppress(OSError):  # the one that lists is closed by now
            found.append((int(name), _target(f"/proc/self/fd/{name}")))
    return found


def _children() -> list[int]:
    """Of every thread; also those that ended and were not waited for."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208
        with suppress(OSError):
            found += map(int, _read(f"/proc/self/task/{thread}/children").split())
    return found


def _cgroup() -> str:
    lines = _read("/proc/self/cgroup").splitlines()
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def _target(path: str) -> str:
    return os.readlink(path)  # noqa: PTH115


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read().decode()


def _described(number: int, target: str) -> str:
    kind = next((word for beginning, word in KINDS.items() if target.startswith(beginning)), "file")
    with suppress(OSError):
        if kind == "attachment":
            _, id_, program = struct.unpack_from("=III", bpf.object_info(number))
            return f"attachment {id_} of program {program}"
        if kind in ("program", "map"):
            info = bpf.object_info(number)
            name = info[64:80] if kind == "program" else info[24:40]
            return f'{kind} {struct.unpack_from("=I", info, 4)[0]} "{name.rstrip(bytes(1)).decode(errors="replace")}"'
    return f"descriptor {number}, {kind} {target}"


def _command(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return words or f"{Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()}, ended and not waited for"
    return "gone"
