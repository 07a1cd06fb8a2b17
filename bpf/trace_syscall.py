"""trace_syscall: which processes make which system calls, how long they take, and what the network's are asked for.

with Loader() as bpf:
    program = load(bpf, pid=1234)
    with attached(program):
        ...
    for line in lines(program):
        print(line)           # curl(1234) connect: 3 calls, 1 error, 0.112 ms in all
    for event in drain(program):
        print(event)          # curl(1234) connect(5, 10.0.0.1:80) = -1 ECONNREFUSED, 0.021 ms
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab.bpf.kernel_types import call_registers, offsets
from lab.bpf.syscalls import names, numbers
from lab.errors import FeatureMissing, LoadError, WaitTimeout
from lab.kernel import libbpf
from lab.kernel.bpf import map_batches
from lab.model.table import Table

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.bpf.loader import Loader
    from lab.bpf.program import Program
    from lab.host.place import Place

HOOKS = ("raw_tp/sys_enter", "raw_tp/sys_exit", "raw_tp/sched_process_exit")
SOURCE = Path(__file__).with_name("trace_syscall.bcc.c")
LONGEST = 3
"""The place of longest_ns in struct stats."""
Hooking = Literal["raw", "tracepoint", "kprobe"]
Order = Literal["calls", "time", "errors"]
FUNCTIONS = {
    "raw": ("raw_tracepoint__sys_enter", "raw_tracepoint__sys_exit"),
    "tracepoint": ("tracepoint__raw_syscalls__sys_enter", "tracepoint__raw_syscalls__sys_exit"),
    "kprobe": ("kprobe__call", "kretprobe__call"),
}
MACROS = {"raw": {}, "tracepoint": {"BY_TRACEPOINT": 1}, "kprobe": {"BY_KPROBE": 1}}
ON_EXIT = "raw_tracepoint__sched_process_exit"
WRAPPERS = {"x86_64": "__x64_sys_", "aarch64": "__arm64_sys_"}
MEMBERS = {
    "TASK_FILES": "task_struct.files",
    "FILES_TABLE": "files_struct.fdt",
    "TABLE_FILES": "fdtable.fd",
    "FILE_INODE": "file.f_inode",
    "INODE_MODE": "inode.i_mode",
}


class Total(IntEnum):
    """`enum total`: BCC leaves no names of it behind."""

    EVENT_LOST = 0
    NO_ROOM_THREAD = 1
    NO_ROOM_STATS = 2
    NO_ROOM_ERROR = 3


@dataclass(frozen=True)
class Line:
    """What one process, or all, did of one system call, or of all.

    `slots[n]` is how many took from 2^n to 2^(n+1) ns; `error_names` how often each errno came.
    """

    pid: int
    comm: str
    call: str
    calls: int
    errors: int
    total_ns: int
    longest_ns: int
    slots: tuple[int, ...]
    error_names: Mapping[str, int]

    def within_ns(self, share: float) -> int:
        """So long, or less, did this share of the calls take: the end of a slot, so at most twice the truth."""
        wanted, seen = share * self.calls, 0
        for slot, count in enumerate(self.slots):
            seen += count
            if count and seen >= wanted:
                return min(int(2 << slot), self.longest_ns)
        return self.longest_ns

    def __str__(self) -> str:
        calls = f"{self.calls:,} call{'s' * (self.calls != 1)}"
        errors = f"{self.errors:,} error{'s' * (self.errors != 1)}"
        return f"{self.comm}({self.pid}) {self.call}: {calls}, {errors}, {self.total_ns / 1e6:.3f} ms in all"


@dataclass(frozen=True)
class Address:
    """What a struct sockaddr says: `port` is 0 and `host` a path, "" for none, of a Unix socket."""

    family: str
    host: str
    port: int

    def __str__(self) -> str:
        if self.family == "AF_INET6":
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}" if self.family == "AF_INET" else f"{self.family} {self.host}".rstrip()


@dataclass(frozen=True)
class Event:
    """A call of the network, returned. `arguments` are in the call's order, as text; `result` is -1 where it failed."""

    comm: str
    pid: int
    thread: int
    call: str
    arguments: tuple[str, ...]
    address: Address | None
    result: int
    error: str
    took_ns: int

    def __str__(self) -> str:
        result = f"{self.result} {self.error}".rstrip()
        arguments = ", ".join(self.arguments)
        return f"{self.comm}({self.pid}) {self.call}({arguments}) = {result}, {self.took_ns / 1e6:.3f} ms"


def load(
    bpf: Loader,
    *,
    pid: int | None = None,
    comm: str = "",
    call: tuple[str, ...] = (),
    own: bool = False,
    network: bool = True,
    hooks: Hooking = "raw",
    entries: int = 16_384,
    ring_pages: int = 1024,
) -> Program:
    """The program, with what it traces narrowed down in the kernel.

    pid: only this process
    comm: only processes of this name
    call: only this system call; may be said several times
    own: trace this process as well
    network: tell each call of the network besides counting it
    hooks: raw tracepoints; plain ones where there is no BTF; kprobes on the chosen calls, so that others cost nothing
    entries: room for so many lines of process and call
    ring_pages: size of the ring buffer of calls of the network, a power of two
    """
    macros: dict[str, Any] = {"ENTRIES": entries, "RING_PAGES": ring_pages, **MACROS[hooks]}
    macros |= _where(hooks)
    macros |= {} if own else {"SELF": os.getpid()}
    macros |= {} if pid is None else {"PID": pid}
    macros |= {} if network else {"NO_EVENTS": 1}
    if comm:
        low, high = struct.unpack("=QQ", comm.encode()[:15].ljust(16, b"\0"))
        macros |= {"COMM_LOW": f"{low}ULL", "COMM_HIGH": f"{high}ULL"}
    wanted = [f"(number)=={_number(each)}" for each in call]
    cflags = [f"-DWANTED(number)=({'||'.join(wanted)})"] if wanted else []
    if hooks == "kprobe" and not call:
        raise LoadError("trace every call by kprobes", mend="choose some: --call connect; or --hooks raw for all")
    first, second = FUNCTIONS[hooks]
    section = "kprobe/call" if hooks == "kprobe" else ""
    return bpf.load_bcc(SOURCE, first, section, also=(second, ON_EXIT), cflags=cflags, **macros)


def _where(hooks: Hooking) -> dict[str, int]:
    """Where the kernel's structures have what is read: a macro each. Plain tracepoints do without."""
    try:
        found = offsets(*MEMBERS.values())
        registers = {} if hooks == "tracepoint" else call_registers()
    except FeatureMissing:
        if hooks != "tracepoint":
            raise
        return {}
    where = {name: found[member] for name, member in MEMBERS.items()}
    return where | {f"REGISTER_{role}": offset for role, offset in registers.items()}


def _number(call: str) -> int:
    try:
        return int(call) if call.isdigit() else numbers()[call]
    except KeyError as error:
        raise LoadError(f"trace {call}: there is no such system call here", mend="as asm/unistd.h names it") from error


def attachments(program: Program, call: Iterable[str] = ()) -> Iterator[Attachment]:
    """Its hooks, each attached when it is asked for; kprobes are put on those calls, and need them."""
    for name, each in program.programs.items():
        if name not in FUNCTIONS["kprobe"]:
            yield each.attach()
    for name in FUNCTIONS["kprobe"]:
        if name in program.programs:
            wrapped = WRAPPERS[platform.machine()]
            yield from (program.programs[name].attach(event=f"{wrapped}{each}") for each in call)


@contextmanager
def attached(program: Program, call: Iterable[str] = ()) -> Iterator[None]:
    """All its hooks, for the length of the block."""
    with ExitStack() as stack:
        for each in attachments(program, tuple(call)):
            stack.enter_context(each)
        yield


# ---------------------------------------------------------------- reading


def lines(program: Program) -> list[Line]:
    """A line for each process and system call, those first that took longest together."""
    comms = {pid: process.comm for pid, process in program.maps["processes"].items()}
    failed = _errors(program.maps["errors"])
    made = [
        _line(pid, comms.get(pid, "?"), number, row, failed.get((pid, number), Counter()))
        for (pid, number), row in _rows(program.maps["stats"]).items()
    ]
    return sorted(made, key=lambda line: -line.total_ns)


def by_process(every: Iterable[Line]) -> list[Line]:
    """A line for each process, all its calls together; `call` is ""."""
    return _merged(every, lambda line: (line.pid, line.comm, ""))


def by_call(every: Iterable[Line]) -> list[Line]:
    """A line for each system call, of all processes; `pid` is 0 and `comm` ""."""
    return _merged(every, lambda line: (0, "", line.call))


def drain(program: Program) -> list[Event]:
    """The calls of the network that returned and were not yet read, in order; without waiting."""
    return [_event(each) for each in program.maps["events"].drain()]


def totals(program: Program) -> Counter[Total]:
    """What found no room since it was loaded."""
    return Counter({each: program.maps["totals"].total(each) for each in Total})


def lost(program: Program) -> int:
    """Calls that were not counted or not told somewhere, and runs that the kernel skipped."""
    return sum(totals(program).values()) + sum(each.misses for each in program.programs.values())


def clear(program: Program) -> None:
    """Forgets what was counted; what processes do meanwhile may be lost."""
    for name in ("stats", "errors", "processes"):
        program.maps[name].clear()


def _rows(stats: Any) -> dict[tuple[int, int], list[int]]:
    """(pid, number) -> the fields of `struct stats` over all CPUs, without what is empty."""
    import numpy as np

    cpus, fields = libbpf.possible_cpus(), stats.facts.value_bytes // 8
    found: dict[tuple[int, int], list[int]] = {}
    for keys, values, count in map_batches(stats.fd, 8, stats.facts.value_bytes * cpus):
        each = np.frombuffer(values, dtype=np.uint64).reshape(count, cpus, fields)
        whole = each.sum(axis=1)
        whole[:, LONGEST] = each[:, :, LONGEST].max(axis=1)
        for key, row in zip(struct.iter_unpack("=II", keys), whole.tolist(), strict=True):
            found[key] = row
    return found


def _errors(table: Any) -> dict[tuple[int, int], Counter[str]]:
    found: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for key, times in table.items():
        found[key.pid, key.number][errno.errorcode.get(key.error, str(key.error))] += times
    return found


def _line(pid: int, comm: str, number: int, row: list[int], failed: Counter[str]) -> Line:
    calls, errors, total_ns, longest_ns, *slots = row
    return Line(pid, comm, name_of(number), calls, errors, total_ns, longest_ns, tuple(slots), failed)


def name_of(number: int) -> str:
    """ "connect"; "call 463" of what is younger than the machine's headers."""
    return names().get(number, f"call {number}")


def _merged(every: Iterable[Line], key: Callable[[Line], tuple[int, str, str]]) -> list[Line]:
    groups: dict[tuple[int, str, str], list[Line]] = defaultdict(list)
    for line in every:
        groups[key(line)].append(line)
    made = [
        Line(
            *name,
            calls=sum(line.calls for line in group),
            errors=sum(line.errors for line in group),
            total_ns=sum(line.total_ns for line in group),
            longest_ns=max(line.longest_ns for line in group),
            slots=tuple(map(sum, zip(*(line.slots for line in group), strict=True))),
            error_names=sum((Counter(line.error_names) for line in group), Counter()),
        )
        for name, group in groups.items()
    ]
    return sorted(made, key=lambda line: -line.total_ns)


# ---------------------------------------------------------------- events


def _event(event: Any) -> Event:
    call = name_of(event.number)
    address = _address(event.address[: event.address_bytes])
    return Event(
        comm=event.comm,
        pid=event.pid,
        thread=event.thread,
        call=call,
        arguments=tuple(_spelled(call, event.arguments, address)),
        address=address,
        result=max(event.result, -1),
        error=errno.errorcode.get(-event.result, str(-event.result)) if event.result < 0 else "",
        took_ns=event.took_ns,
    )


def _spelled(call: str, arguments: Sequence[int], address: Address | None) -> Iterator[str]:
    """As strace would write them, but for the data, of which only the length is known."""
    shape = SHAPES[call]
    for place, kind in shape:
        if kind is Address:
            yield str(address) if address else "NULL"
        else:
            yield kind(arguments[place])


def _signed(value: int) -> str:
    return str(ctypes.c_int(value).value)


def _bytes(value: int) -> str:
    return f"{value} bytes"


def _family(value: int) -> str:
    return _named(socket.AddressFamily, value)


def _kind(value: int) -> str:
    """SOCK_STREAM|SOCK_CLOEXEC."""
    return "|".join([_named(socket.SocketKind, value & 0xF), *_kind_flags(value).split("|")]).removesuffix("|0")


def _kind_flags(value: int) -> str:
    """SOCK_NONBLOCK|SOCK_CLOEXEC, or 0."""
    return "|".join(name for name in ("SOCK_NONBLOCK", "SOCK_CLOEXEC") if value & getattr(socket, name)) or "0"


def _protocol(value: int) -> str:
    return PROTOCOLS.get(value, str(value))


def _flags(value: int) -> str:
    """MSG_PEEK|MSG_DONTWAIT, or 0."""
    known = [flag for flag in socket.MsgFlag if value & flag]
    rest = value & ~sum(known)
    return "|".join([flag.name or "" for flag in known] + ([hex(rest)] if rest else [])) or "0"


def _named(kind: type[IntEnum], value: int) -> str:
    try:
        return kind(value).name
    except ValueError:
        return str(value)


PROTOCOLS = {
    value: name.removeprefix("IPPROTO_").lower() for name, value in vars(socket).items() if name.startswith("IPPROTO_")
} | {0: "0"}
TO, AT, LENGTH = (0, _signed), (1, Address), (2, _bytes)
SHAPES: dict[str, tuple[tuple[int, Any], ...]] = {
    "socket": ((0, _family), (1, _kind), (2, _protocol)),
    "bind": (TO, AT),
    "listen": (TO, (1, _signed)),
    "connect": (TO, AT),
    "accept": (TO, AT),
    "accept4": (TO, AT, (3, _kind_flags)),
    "sendto": (TO, LENGTH, (3, _flags), (4, Address)),
    "recvfrom": (TO, LENGTH, (3, _flags), (4, Address)),
    "sendmsg": (TO, AT, (2, _flags)),
    "recvmsg": (TO, AT, (2, _flags)),
    "close": (TO,),
}
"""Which arguments are told, in the call's order: their place, and how they are written."""


def _address(raw: bytes) -> Address | None:
    """A struct sockaddr; None where there is none."""
    if len(raw) < 2:
        return None
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_INET and len(raw) >= 8:
        port, host = struct.unpack_from("!H4s", raw, 2)
        return Address("AF_INET", str(IPv4Address(host)), port)
    if family == socket.AF_INET6 and len(raw) >= 24:
        port, host = struct.unpack_from("!H4x16s", raw, 2)
        mapped = IPv6Address(host).ipv4_mapped
        return Address("AF_INET6", f"::ffff:{mapped}" if mapped else str(IPv6Address(host)), port)
    return Address(_family(family), _path(raw[2:]) if family == socket.AF_UNIX else raw[2:].hex(), 0)


def _path(raw: bytes) -> str:
    """Of a Unix socket; of one without a file "@" and its name."""
    abstract = raw[:1] == b"\0" and len(raw) > 1
    return ("@" if abstract else "") + (raw[1:] if abstract else raw.split(b"\0")[0]).decode(errors="replace")


# ---------------------------------------------------------------- for a person


def attach(program: Program, place: Place, *, call: tuple[str, ...] = ()) -> Iterator[Attachment]:
    """To the whole machine."""
    return attachments(program, call)


def view(program: Program, *, top: int = 12, by: Order = "time", histogram: str = "") -> Iterator[list[Table]]:
    """Processes and system calls since it was attached.

    top: lines shown of each
    by: what their order is by
    histogram: the times of this system call as well
    """
    chosen = {
        "calls": lambda line: -line.calls,
        "time": lambda line: -line.total_ns,
        "errors": lambda line: -line.errors,
    }
    before: dict[Any, int] = {}
    read_at = time.monotonic()
    while True:
        every, now = lines(program), time.monotonic()
        seconds, read_at = now - read_at, now
        tables = []
        for title, all_of_them in (("processes", by_process(every)), ("calls", by_call(every))):
            shown = sorted(all_of_them, key=chosen[by])[:top]
            rows = [_cells(line, (line.calls - before.get(_key(line), 0)) / seconds) for line in shown]
            tables.append(Table(title, COLUMNS[title], rows, f"{len(shown):,} of {len(all_of_them):,}"))
            before |= {_key(line): line.calls for line in all_of_them}
        tables += [_histogram(line) for line in by_call(every) if line.call == histogram]
        yield tables


def summary(program: Program) -> str:
    """How much it saw, and what it lost."""
    every, missing = lines(program), lost(program)
    calls, errors = sum(line.calls for line in every), sum(line.errors for line in every)
    told = f"{calls:,} calls of {len(by_process(every)):,} processes, {errors:,} errors"
    return f"{told}; {missing:,} LOST" if missing else f"{told}; none lost"


def _key(line: Line) -> tuple[int, str]:
    return line.pid, line.call


FIGURES = ("calls", "calls/s", "errors", "total ms", "mean µs", "p50 µs <", "p99 µs <", "longest µs")
COLUMNS = {"processes": ("process", "pid", *FIGURES), "calls": ("call", *FIGURES, "most errors")}


def _cells(line: Line, per_second: float) -> tuple[Any, ...]:
    """A row of either table."""
    figures = (
        line.calls,
        max(0, round(per_second)),
        line.errors,
        round(line.total_ns / 1e6, 3),
        round(line.total_ns / line.calls / 1e3, 3),
        *(round(ns / 1e3, 3) for ns in (line.within_ns(0.5), line.within_ns(0.99), line.longest_ns)),
    )
    if line.call:
        return (line.call, *figures, " ".join(f"{name}:{times}" for name, times in _most(line.error_names)))
    return (line.comm, line.pid, *figures)


def _most(error_names: Mapping[str, int]) -> list[tuple[str, int]]:
    return Counter(error_names).most_common(2)


def _histogram(line: Line) -> Table:
    """Its slots from the first to the last that is not empty."""
    filled = [slot for slot, count in enumerate(line.slots) if count]
    rows = [
        (f"{1 << slot:,}", line.slots[slot], "█" * -(-40 * line.slots[slot] // max(line.slots)))
        for slot in range(filled[0], filled[-1] + 1)
    ]
    return Table(f"{line.call}: how long", ("from ns", "calls", ""), rows)


def watch(program: Program) -> Iterator[Event | None]:
    """Each call of the network as it returns."""
    while True:
        try:
            yield from map(_event, program.maps["events"].events(within_s=0.2))
        except WaitTimeout:
            yield None
