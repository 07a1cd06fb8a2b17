"""The place of a worker: PID, mount and network namespaces of its own, so that what is found there is ours.

The worker is the first process of its PID namespace. What a victim leaves running becomes its child, and when the
worker ends, however it ends, the kernel ends everything.
"""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.kernel.netlink import LINK, NEW, NLM_F_REQUEST, RTM_NEWLINK, Request, RouteSocket, attribute, nested, text

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x20000000, 0x40000000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 2
PR_SET_PDEATHSIG, SIGKILL = 1, 9
IFF_UP = 1
FIRST, SECOND = 101, 102

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Room:
    """What a worker has."""

    control: RouteSocket
    proc: int
    """The machine's own /proc, as a folder."""


def enter(work: Callable[[Room], int]) -> int:
    """Runs `work` in a child that is the first process of new namespaces; its exit status."""
    _checked(_libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET), "unshare")
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        mount("proc", "/proc", "proc")
        mount("bpf", "/sys/fs/bpf", "bpf")
        status = work(Room(_interfaces(), proc))
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def mount(source: str | None, place: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    words = [None if each is None else each.encode() for each in (source, place, kind)]
    _checked(_libc.mount(*words, flags, options.encode() or None), f"mount {place}")


def unmount(place: Path) -> None:
    _checked(_libc.umount2(os.fsencode(place), MNT_DETACH), f"unmount {place}")


def _interfaces() -> RouteSocket:
    """eth0 and eth1, joined, up; they stay when a victim dies."""
    control = RouteSocket()
    peer = _link(SECOND) + text(3, "eth1")
    info = nested(18, text(1, "veth"), nested(2, attribute(1, peer)))
    control.batch([Request(RTM_NEWLINK, NEW, _link(FIRST) + text(3, "eth0") + info, ("make interfaces",))])
    up = [_link(each, IFF_UP) for each in (FIRST, SECOND)]
    control.batch([Request(RTM_NEWLINK, NLM_F_REQUEST, each, ("set up interfaces",)) for each in up])
    return control


def _link(ifindex: int, flags: int = 0) -> bytes:
    return LINK.pack(0, 0, ifindex, flags, flags)


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
