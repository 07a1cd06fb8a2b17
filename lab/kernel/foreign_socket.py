"""A socket of another process, by its port: found in /proc, and shared by pidfd_getfd(2), Linux 5.6."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError, NeedsRoot

PIDFD_GETFD = 438  # the same on every architecture
TCP_LISTEN, UDP_UNCONNECTED = "0A", "07"
WAITING = {"tcp": TCP_LISTEN, "udp": UDP_UNCONNECTED}

_libc = ctypes.CDLL(None, use_errno=True)


def waiting(protocol: str, port: int) -> socket.socket:
    """A copy of the first socket that waits on the port in this thread's namespace; the caller closes it.

    `protocol` is "tcp" (a listening socket) or "udp" (one that is not connected), of IPv4 or IPv6.
    """
    inodes = {inode for each in (protocol, f"{protocol}6") for inode in _inodes(each, WAITING[protocol], port)}
    if not inodes:
        raise LabError(f"no {protocol} socket waits on port {port} here", mend=f"ss -ln --{protocol} shows them")
    for pid, descriptor in _holders(inodes):
        with suppress(ProcessLookupError):
            return _copy(pid, descriptor)
    raise NeedsRoot(
        f"no process that can be looked into has the {protocol} socket of port {port}", mend="run it as root (sudo)"
    )


def every_waiting(protocol: str, port: int) -> list[tuple[int, socket.socket]]:
    """A copy of each socket that waits on the port, with a process that has it, not this one if another has.

    By process; the caller closes the copies.
    """
    inodes = {inode for each in (protocol, f"{protocol}6") for inode in _inodes(each, WAITING[protocol], port)}
    found: dict[str, tuple[int, socket.socket]] = {}
    for pid, descriptor in sorted(_holders(inodes), key=lambda holder: (holder[0] == os.getpid(), holder)):
        with suppress(OSError):  # it ended, or closed the socket
            inode = str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
            if inode not in found:
                found[inode] = (pid, _copy(pid, descriptor))
    return list(found.values())


def _inodes(table: str, state: str, port: int) -> Iterator[str]:
    with suppress(FileNotFoundError):  # no IPv6
        for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _holders(inodes: set[str]) -> Iterator[tuple[int, int]]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it ended, or is not ours to see
                for descriptor in (process / "fd").iterdir():
                    with suppress(FileNotFoundError):
                        if str(descriptor.readlink()) in wanted:
                            yield int(process.name), int(descriptor.name)


def _copy(pid: int, descriptor: int) -> socket.socket:
    process = os.pidfd_open(pid)
    try:
        copied = _libc.syscall(PIDFD_GETFD, process, descriptor, 0)
        if copied < 0:
            number = ctypes.get_errno()
            raise NeedsRoot(
                f"share a socket of process {pid}", kernel=os.strerror(number), mend="run it as root (sudo)"
            )
    finally:
        os.close(process)
    return socket.socket(fileno=copied)
