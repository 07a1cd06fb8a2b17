"""The core that a measurement runs on: chosen for its quiet, held alone, and given back as it was.

What may still disturb it (interrupts, the hypervisor) is told by `lab.bench.noise`.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from lab.errors import MeasurementError
from lab.kernel import disturbance, scheduler

TRIED = 8
"""CPUs at most that are tried out, of those with the fewest interrupts so far."""
TRIAL_S = 0.003
EQUAL_SHARE = 0.05
EQUAL_INTERRUPTS_PER_S = 1000
"""Two CPUs that differ by less are equally quiet, and then it is not CPU 0, which most of the kernel's chores go to."""
MOST_REALTIME_S = 0.9 * scheduler.PERIOD_S

_held = threading.local()


@dataclass(frozen=True)
class Core:
    """The CPU that the thread is on; `sentence` says for the report what isolates it."""

    cpu: int
    realtime: bool
    sentence: str
    _bursts: deque[tuple[float, float]] = field(default_factory=deque, repr=False, compare=False)

    @contextmanager
    def burst(self) -> Iterator[None]:
        """This thread before all others on the CPU, for a block of some ms; without real-time it is a plain block.

        Bursts take at most 0.9 s of each second together, so that the kernel never throttles one. What exceeds it runs
        as a plain block, and whoever waited for the CPU gets it.
        """
        if not self.realtime or self._spent_s() > MOST_REALTIME_S:
            yield
            return
        start = time.monotonic()
        try:
            with scheduler.first_in_first_out():
                yield
        finally:
            self._bursts.append((start, time.monotonic()))

    def _spent_s(self) -> float:
        since = time.monotonic() - scheduler.PERIOD_S
        while self._bursts and self._bursts[0][1] < since:
            self._bursts.popleft()
        return sum(end - max(start, since) for start, end in self._bursts)


@contextmanager
def isolated() -> Iterator[Core]:
    """This thread alone on the quietest CPU that it may use, with Python's garbage collector off, until the end.

    On one CPU the softirq that a send raises runs before the send returns: sender, program and receiver follow each
    other without a wake-up. Isolated CPUs (isolcpus=, nohz_full=) come first, and a CPU on which another process
    measures last. Inside of another `isolated()` of this thread it is the same core. About 6 ms.
    """
    outer: Core | None = getattr(_held, "core", None)
    if outer is not None:
        yield outer
        return
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        stack.enter_context(_uncollected())
        core = _chosen(stack)
        os.sched_setaffinity(0, {core.cpu})
        _held.core = core
        stack.callback(setattr, _held, "core", None)
        yield core


@contextmanager
def _uncollected() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _chosen(stack: ExitStack) -> Core:
    """The quietest CPU that no other measurement holds; the stack gives it free again."""
    quiet = scheduler.listed("isolated") | scheduler.listed("nohz_full")
    with scheduler.one_chooses():
        cpus = scheduler.usable()
        free = {cpu for cpu in cpus if not scheduler.is_leased(cpu)}
        cpu = _quietest(free or cpus, quiet)
        held = scheduler.lease(cpu) if free else None
    if held is not None:
        stack.callback(os.close, held)
    return _core(cpu, quiet, alone=held is not None)


def _quietest(cpus: set[int], quiet: set[int]) -> int:
    """As tried just now. MeasurementError when none takes this thread."""
    before, start = disturbance.device_interrupts(), time.monotonic()
    lost = {}
    for cpu in sorted(cpus, key=lambda cpu: (cpu not in quiet, before.get(cpu, 0)))[:TRIED]:
        with suppress(OSError):  # taken offline, or not in this cgroup's cpuset
            lost[cpu] = scheduler.time_lost(cpu, TRIAL_S)
    if not lost:
        raise MeasurementError(f"choose a CPU to measure on: none of {sorted(cpus)} takes this thread")
    after, passed = disturbance.device_interrupts(), time.monotonic() - start

    def unrest(cpu: int) -> tuple[bool, int, int, bool, int]:
        interrupts = (after.get(cpu, 0) - before.get(cpu, 0)) / passed
        noise = int(lost[cpu] / EQUAL_SHARE), int(interrupts / EQUAL_INTERRUPTS_PER_S)
        return (cpu not in quiet, *noise, cpu == 0, cpu)

    return min(lost, key=unrest)


def _core(cpu: int, quiet: set[int], *, alone: bool) -> Core:
    refusal = scheduler.realtime_refusal()
    parts = (
        f"CPU {cpu} of {os.cpu_count()}",
        "" if alone else "shared with another measurement",
        f"no real-time bursts ({refusal})" if refusal else "real-time bursts",
        "isolated by the kernel" if cpu in quiet else "not isolated from interrupts",
    )
    return Core(cpu, not refusal, ", ".join(filter(None, parts)))
