"""log_tcp_connect: who opened a TCP connection to where, how long it took, and why it failed if it did.

with Loader() as bpf:
    program = load(bpf, pid=1234)
    with attached(program):
        ...
    for connection in drain(program):
        print(connection)     # curl(1234) 10.0.0.1:43210 -> 10.0.1.2:80 connected in 0.231 ms
    lost(program)             # connections that were not told; 0 unless it was overrun
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.bpf.kernel_types import call_registers, offsets
from lab.errors import WaitTimeout
from lab.kernel import tracefs

if TYPE_CHECKING:
    from lab.bpf.loader import Loader
    from lab.bpf.program import Program

HOOKS = (
    "raw_tp/inet_sock_set_state",
    "raw_tp/tcp_receive_reset",
    "raw_tp/tcp_retransmit_skb",
    "tracepoint/syscalls/sys_enter_connect",
    "tracepoint/syscalls/sys_exit_connect",
)
SOURCE = Path(__file__).with_name("log_tcp_connect.bcc.c")
TRACERS = tuple(
    f"raw_tracepoint__{each}" for each in ("inet_sock_set_state", "tcp_receive_reset", "tcp_retransmit_skb")
)
ON_CONNECT = ("tracepoint__syscalls__sys_enter_connect", "tracepoint__syscalls__sys_exit_connect")
ON_EVERY_CALL = ("raw_tracepoint__sys_enter", "raw_tracepoint__sys_exit")
MEMBERS = {
    "SOCK_PROTOCOL": "sock.sk_protocol",
    "SOCK_ERR": "sock.sk_err",
    "SOCK_FAMILY": "sock.__sk_common.skc_family",
    "SOCK_SOURCE4": "sock.__sk_common.skc_rcv_saddr",
    "SOCK_DEST4": "sock.__sk_common.skc_daddr",
    "SOCK_SOURCE6": "sock.__sk_common.skc_v6_rcv_saddr",
    "SOCK_DEST6": "sock.__sk_common.skc_v6_daddr",
    "SOCK_DEST_PORT": "sock.__sk_common.skc_dport",
    "SOCK_SOURCE_PORT": "inet_sock.inet_sport",
    "SOCK_NETNS": "sock.__sk_common.skc_net.net",
    "NETNS_INODE": "net.ns.inum",
    "TASK_FILES": "task_struct.files",
    "FILES_TABLE": "files_struct.fdt",
    "TABLE_FILES": "fdtable.fd",
    "FILE_PRIVATE": "file.private_data",
    "SOCKET_STATE": "socket.state",
    "SOCKET_SOCK": "socket.sk",
}
"""Where the kernel's structures have what the program reads: a macro each."""


class Total(IntEnum):
    """`enum total`: BCC leaves no names of it behind. The first six are how a connection's opening can end."""

    CONNECTED = 0
    RESET = 1
    TIMEOUT = 2
    UNREACHABLE = 3
    REFUSED_HERE = 4
    GIVEN_UP = 5
    STARTED = 6
    EVENT_LOST = 7
    NO_ROOM = 8


WORDS = {
    Total.CONNECTED: "connected in {time}",
    Total.RESET: "reset after {time}",
    Total.TIMEOUT: "no answer for {time}",
    Total.UNREACHABLE: "unreachable after {time}",
    Total.REFUSED_HERE: "refused by this machine after {time}",
    Total.GIVEN_UP: "given up after {time}",
}


@dataclass(frozen=True)
class Connection:
    """One connection's opening, ended. `error` is an errno's name, "" where there is none.

    Ports are 0 where none had been chosen yet; `netns` is the inode of the network namespace (`lsns -t net`).
    """

    ended: str
    comm: str
    pid: int
    thread: int
    uid: int
    netns: int
    source: IPv4Address | IPv6Address
    source_port: int
    dest: IPv4Address | IPv6Address
    dest_port: int
    ending: Total
    error: str
    took_ns: int
    syns: int

    def __str__(self) -> str:
        what = WORDS[self.ending].format(time=f"{self.took_ns / 1e6:.3f} ms")
        more = ", ".join(filter(None, (self.error, f"{self.syns} SYNs" if self.syns > 1 else "")))
        ends = f"{_end(self.source, self.source_port)} -> {_end(self.dest, self.dest_port)}"
        return f"{self.ended} {self.comm}({self.pid}) uid {self.uid} {ends} {what}{f' ({more})' if more else ''}"


def load(
    bpf: Loader,
    *,
    pid: int | None = None,
    uid: int | None = None,
    port: int | None = None,
    refusals: bool = True,
    every_call: bool = False,
    connections: int = 65_536,
    ring_pages: int = 1024,
) -> Program:
    """The program, with what it traces narrowed down in the kernel.

    pid: only this process
    uid: only processes of this user
    port: only connections to this port
    refusals: tell connections that this machine refuses before it sends anything; slows all system calls a little
    every_call: hook every system call instead of connect() alone: dearer, but the kernel never skips it
    connections: how many may be under way at once
    ring_pages: size of the ring buffer, a power of two
    """
    chosen = {"PID": pid, "UID": uid, "PORT": port}
    macros: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    also = TRACERS[1:]
    if not refusals:
        macros["NO_SYSCALLS"] = 1
    elif every_call or "syscalls/sys_enter_connect" not in tracefs.events():
        registers = call_registers()
        macros |= {"EVERY_CALL": 1, **{f"REGISTER_{role}": registers[role] for role in ("0", "1", "NUMBER")}}
        also += ON_EVERY_CALL
    else:
        also += ON_CONNECT
    where = offsets(*MEMBERS.values())
    macros |= {name: where[member] for name, member in MEMBERS.items()}
    return bpf.load_bcc(SOURCE, TRACERS[0], also=also, CONNECTIONS=connections, RING_PAGES=ring_pages, **macros)


@contextmanager
def attached(program: Program) -> Iterator[None]:
    """All its hooks, for the length of the block."""
    with ExitStack() as stack:
        for each in program.programs.values():
            stack.enter_context(each.attach())
        yield


def drain(program: Program) -> list[Connection]:
    """Those that have ended and were not yet read, in order; without waiting."""
    return _told(program.maps["events"].drain())


def totals(program: Program) -> Counter[Total]:
    """What is counted since it was loaded."""
    return Counter({each: program.maps["totals"].total(each) for each in Total})


def lost(program: Program) -> int:
    """Connections that were not told, and runs that the kernel skipped, each of which may be one more."""
    counted = totals(program)
    return counted[Total.EVENT_LOST] + counted[Total.NO_ROOM] + sum(each.misses for each in program.programs.values())


# ---------------------------------------------------------------- for a person


def watch(program: Program, *, failed: bool = False, comm: str = "") -> Iterator[Connection | None]:
    """Each connection when its opening has ended.

    failed: only those that failed or were given up
    comm: only processes of this name
    """
    while True:
        try:
            told = _told(program.maps["events"].events(within_s=0.2))
        except WaitTimeout:
            told = []
        for each in told:
            if not (failed and each.ending is Total.CONNECTED) and comm in ("", each.comm):
                yield each
        yield None


def summary(program: Program) -> str:
    """How many ended how, and what was lost."""
    counted = totals(program)
    ended = ", ".join(f"{counted[each]:,} {each.name.lower().replace('_', ' ')}" for each in WORDS if counted[each])
    missing = lost(program)
    return (ended or "no connection") + (f"; {missing:,} LOST" if missing else "; none lost")


def _told(events: list[Any]) -> list[Connection]:
    ahead_ns = time.time_ns() - time.monotonic_ns()
    return [_connection(each, ahead_ns) for each in events]


def _connection(event: Any, ahead_ns: int) -> Connection:
    return Connection(
        ended=_clock(event.at_ns + ahead_ns),
        comm=event.comm,
        pid=event.pid,
        thread=event.thread,
        uid=event.uid,
        netns=event.netns,
        source=_address(event.source),
        source_port=event.source_port,
        dest=_address(event.dest),
        dest_port=event.dest_port,
        ending=Total(event.ending),
        error=errno.errorcode.get(event.error, str(event.error)) if event.error else "",
        took_ns=event.took_ns,
        syns=event.syns,
    )


def _clock(wall_ns: int) -> str:
    """HH:MM:SS.mmm, local time."""
    return time.strftime("%H:%M:%S", time.localtime(wall_ns // 10**9)) + f".{wall_ns // 10**6 % 1000:03}"


def _address(raw: bytes) -> IPv4Address | IPv6Address:
    address = IPv6Address(raw)
    return address.ipv4_mapped or address


def _end(address: IPv4Address | IPv6Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
