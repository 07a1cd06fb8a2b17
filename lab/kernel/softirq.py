"""Knowing that the kernel has handled every frame that was under way, without waiting for time to pass.

A veth hands a frame to the softirq of the CPU that sent it, and each CPU serves its softirq work in turn
(net/core/dev.c, net_rx_action). So a datagram sent to oneself on that CPU afterwards, on a loopback of its own, arrives
behind the frame. That holds on a loaded machine too, where no length of sleep would.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lab.errors import WaitTimeout
from lab.kernel import belongings, netlink, netns
from lab.kernel.netlink import LINK, Request, RouteSocket

LOOPBACK_IFINDEX, IFF_UP = 1, 1
LONGEST_S = 5.0

_lock = threading.Lock()
_canary: socket.socket | None = None
_libc = ctypes.CDLL(None)


def settle() -> None:
    """Returns when every CPU that this thread may use has served the softirq work that was there: about 60 µs for two.

    What a thread or a process handles on the way (a cpumap, a proxy) is not covered. WaitTimeout after 5 s.
    """
    cpus = os.sched_getaffinity(0)
    with _lock:
        canary = _canary_socket()
        try:
            for cpu in cpus:
                if len(cpus) > 1:
                    os.sched_setaffinity(0, {cpu})
                _round_trip(canary)
        finally:
            if len(cpus) > 1:
                os.sched_setaffinity(0, cpus)


@contextmanager
def on_one_cpu() -> Iterator[int]:
    """The thread stays on the CPU where it is, and so do the frames that it sends: gives the CPU's number.

    A veth's ring holds 256 frames. A sender that moves leaves its receiver behind on the other CPU, and overruns it.
    """
    before = os.sched_getaffinity(0)
    cpu = int(_libc.sched_getcpu())
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def _round_trip(canary: socket.socket) -> None:
    try:
        canary.send(b"canary")
        canary.recv(16)
    except TimeoutError as error:
        canary.close()
        raise WaitTimeout(f"waited {LONGEST_S:g} s in vain for: the softirq of a CPU") from error


def _canary_socket() -> socket.socket:
    """One for the process, in a namespace that has nothing but its loopback."""
    global _canary
    if _canary is None or _canary.fileno() < 0:
        with belongings.for_life(), netns.restored():
            netns.unshare()
            _set_up_loopback()
            _canary = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        _canary.bind(("127.0.0.1", 0))
        _canary.connect(_canary.getsockname())
        _canary.settimeout(LONGEST_S)
    return _canary


def _set_up_loopback() -> None:
    body = LINK.pack(0, 0, LOOPBACK_IFINDEX, IFF_UP, IFF_UP)
    control = RouteSocket()
    try:
        control.batch([Request(netlink.RTM_NEWLINK, netlink.NLM_F_REQUEST, body, ("set up", "a loopback"))])
    finally:
        control.close()


def _forget() -> None:
    """A child makes a canary of its own: two processes must not take each other's."""
    global _canary, _lock
    if _canary is not None:
        _canary.close()
    _canary, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
