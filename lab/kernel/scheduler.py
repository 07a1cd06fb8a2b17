"""The CPUs of this machine and how threads get them: sched(7), and the kernel's lists under /sys/devices/system/cpu."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.errors import WaitTimeout
from lab.wait import wait_until

CPUS = Path("/sys/devices/system/cpu")
PERIOD_S = 1.0
"""Of real-time throttling: kernel.sched_rt_period_us where nobody changed it."""
FIFO_PRIORITY = 50


def cpus_in(text: str) -> set[int]:
    """The CPUs of a list as the kernel prints it.

    >>> cpus_in("0-2,5")
    {0, 1, 2, 5}
    """
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def listed(name: str) -> set[int]:
    """The CPUs in a list of /sys/devices/system/cpu ("online", "isolated", "nohz_full"); none without such a list."""
    try:
        return cpus_in((CPUS / name).read_text())
    except (OSError, ValueError):  # a kernel without nohz_full has no file, one with it may print "(null)"
        return set()


def usable() -> set[int]:
    """The CPUs that this thread may use, and the isolated ones where nobody restricted it further.

    A task starts without the CPUs of isolcpus=, but may ask for them (sched_setaffinity(2)).
    """
    allowed, isolated = os.sched_getaffinity(0), listed("isolated")
    return allowed | isolated if allowed == listed("online") - isolated else allowed


def lease(cpu: int) -> int | None:
    """A descriptor that holds the CPU until it is closed, or None while another measurement holds it.

    An flock on the CPU's folder in sysfs: no file of ours, and it ends with the process, however that ends.
    """
    return _flock(CPUS / f"cpu{cpu}")


def is_leased(cpu: int) -> bool:
    """Whether another measurement holds the CPU just now."""
    held = lease(cpu)
    if held is not None:
        os.close(held)
    return held is None


@contextmanager
def one_chooses() -> Iterator[None]:
    """The processes that choose a CPU do so one after the other; after a second this one waits no longer."""
    held: list[int] = []

    def is_next() -> bool:
        held.extend(filter(None, [_flock(CPUS)]))
        return bool(held)

    with suppress(WaitTimeout):
        wait_until(is_next, within_s=1.0, what="the other processes to have chosen their CPUs")
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def _flock(folder: Path) -> int | None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def time_lost(cpu: int, within_s: float) -> float:
    """The share of that time in which this thread, moved there, did not run: somebody else or the hypervisor did.

    It yields all the while, since a thread that arrives may run out its slice, some ms, before others have theirs. It
    stays on the CPU. OSError when it may not go there.
    """
    start, own = time.perf_counter(), time.thread_time()
    os.sched_setaffinity(0, {cpu})
    while (passed := time.perf_counter() - start) < within_s:
        os.sched_yield()
    return max(0.0, 1 - (time.thread_time() - own) / passed)


@contextmanager
def first_in_first_out() -> Iterator[None]:
    """This thread at SCHED_FIFO, before all that is not real-time; its children are not. PermissionError without right.

    A block longer than kernel.sched_rt_runtime_us (0.95 s of each) is interrupted by the kernel.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(FIFO_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def realtime_refusal() -> str:
    """Why this thread cannot be real-time, "" where it can."""
    try:
        with first_in_first_out():
            return ""
    except OSError as error:  # EPERM: no CAP_SYS_NICE, or a cgroup without real-time runtime
        return f"SCHED_FIFO: {error.strerror}"
