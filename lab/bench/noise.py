"""What disturbed a measurement, and whether it was so much that the figure must not decide anything.

Seen on a virtual machine of two CPUs, with programs of 70 ns in batches of 0.1 ms, of windows of 0.4 s:

| beside the measurement | waited | device interrupts/s | slow batches | the median was off by |
| --- | --- | --- | --- | --- |
| nothing | 0 to 0.2 % | 0 to 2 | 0.6 to 1.1 % | 0.3 % |
| a busy thread on the other CPU | 0 | 0 to 2 | 0.4 % | 2 % |
| a thread that copies memory on the other CPU | 0.4 to 1.1 % | 0 to 5 | 0.6 to 0.7 % | 0.3 % |
| a busy thread on the same CPU, in bursts | 1.2 % | 0 | 0.6 % | 2 % |
| a busy thread on the same CPU, no bursts | 50 % | 2 | 1.8 to 2.3 % | 0.5 %, the mean by 50 to 67 % |
| one on the same CPU for 1 ms in 11, no bursts | 9 % | 27 | 1.8 % | 0.6 %, the mean by 6 % |
| a disk that is written to, its interrupts on this CPU | 0 | 13,900 | 0.5 % | 39 % |
| the hypervisor slows down (a loop of Python: 43 %) | 0 | 2 | 1.1 % | 34 % |
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from lab.bench.isolation import Core
from lab.kernel import disturbance

MOST_WAITED = 0.05
MOST_STOLEN = 0.02
MOST_INTERRUPTS_PER_S = 1000
"""Each costs the measurement some 20 µs on a virtual machine."""
MOST_SPEED_CHANGE = 0.05
SLOW = 1.5
"""Times the median of its series: a batch that something came into."""
MOST_SLOW = 0.03
MOST_DRIFT = 0.1
FEWEST_TICKS = 2
"""Steal in steps of 10 ms: a single step says nothing of a short window."""
FEWEST_BATCHES = 8
SPINS, SPIN_LENGTH = 60, 500


@dataclass(frozen=True)
class _Reading:
    """Everything that counts up, at one moment."""

    clock_s: float
    thread: disturbance.ThreadTime
    cpu: disturbance.CpuTime
    interrupts: int
    softirqs: int
    throttled_s: float
    too_hot: int
    frequency_khz: int | None
    spin_ns: int


class Watch:
    """The counters before a measurement and after it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._before = _read(core.cpu)
        self._after: _Reading | None = None

    def stop(self) -> None:
        """The measurement is over: what comes now disturbs nothing."""
        self._after = self._after or _read(self._core.cpu)

    def noise(self, *series: Sequence[float]) -> dict[str, Any]:
        """For `Measurement.noise`: shares of the time, numbers a second, and "sentence", empty when all was quiet.

        `series` are durations of batches that should take equally long, in the order in which they ran, one series for
        each kind of batch.
        """
        self.stop()
        assert self._after is not None
        found = {"core": self._core.sentence, **_between(self._before, self._after), **_of_batches(series)}
        return {**found, "sentence": sentence(found, self._core.cpu)}


@contextmanager
def watched(core: Core) -> Iterator[Watch]:
    """Looks at what disturbs the block; its `noise()` is known afterwards. About 1 ms before and after it."""
    watch = Watch(core)
    try:
        yield watch
    finally:
        watch.stop()


def sentence(found: dict[str, Any], cpu: int) -> str:
    """Why a figure with this noise must not decide anything, "" when it may."""
    reasons = list(_reasons(found, cpu))
    return f"too noisy: {', '.join(reasons)}" if reasons else ""


def _reasons(found: dict[str, Any], cpu: int) -> Iterator[str]:
    if found["waited_share"] > MOST_WAITED:
        yield f"other threads had CPU {cpu} for {found['waited_share']:.0%} of the time"
    if found["stolen_share"] > MOST_STOLEN:
        yield f"the hypervisor took {found['stolen_share']:.0%} of the time"
    if found["device_interrupts_per_s"] > MOST_INTERRUPTS_PER_S:
        yield f"devices interrupted it {found['device_interrupts_per_s']:,.0f} times a second"
    if found["throttled_share"] > 0:
        yield "a CPU quota stopped it"
    if found["too_hot"] > 0:
        yield "the CPU grew too hot and slowed down"
    if abs(change := found["speed_change"]) > MOST_SPEED_CHANGE:
        yield f"the CPU became {abs(change):.0%} {'slower' if change < 0 else 'faster'}"
    if (slow := found.get("slow_share", 0)) > MOST_SLOW:
        yield f"{slow:.0%} of the batches took half as long again"
    if abs(drift := found.get("drift", 0)) > MOST_DRIFT:
        yield f"later batches took {abs(drift):.0%} {'longer' if drift > 0 else 'less'}"


def _read(cpu: int) -> _Reading:
    return _Reading(
        clock_s=time.monotonic(),
        thread=disturbance.thread_time(),
        cpu=disturbance.cpu_time(cpu),
        interrupts=disturbance.device_interrupts().get(cpu, 0),
        softirqs=disturbance.softirqs(cpu),
        throttled_s=disturbance.throttled_s(),
        too_hot=disturbance.too_hot(cpu),
        frequency_khz=disturbance.frequency_khz(cpu),
        spin_ns=min(_spin() for _ in range(SPINS)),
    )


def _spin() -> int:
    """ns for a loop that is always the same: some 7 µs."""
    start, count = time.perf_counter_ns(), 0
    while count < SPIN_LENGTH:
        count += 1
    return time.perf_counter_ns() - start


def _between(before: _Reading, after: _Reading) -> dict[str, Any]:
    passed = max(after.clock_s - before.clock_s, 1e-6)
    stolen = after.cpu.stolen - before.cpu.stolen
    ran = (after.thread.ran_ns - before.thread.ran_ns) / 1e9
    others = after.cpu.busy - before.cpu.busy - ran
    found: dict[str, Any] = {
        "duration_s": round(passed, 3),
        "waited_share": round((after.thread.waited_ns - before.thread.waited_ns) / 1e9 / passed, 4),
        "stolen_share": round(stolen / passed, 4) if stolen > (FEWEST_TICKS - 0.5) * disturbance.TICK_S else 0.0,
        "others_share": round(max(0.0, others - FEWEST_TICKS * disturbance.TICK_S) / passed, 4),
        "involuntary_switches": after.thread.pushed_off - before.thread.pushed_off,
        "voluntary_switches": after.thread.slept - before.thread.slept,
        "major_faults": after.thread.major_faults - before.thread.major_faults,
        "device_interrupts_per_s": round((after.interrupts - before.interrupts) / passed, 1),
        "softirqs_per_s": round((after.softirqs - before.softirqs) / passed, 1),
        "irq_share": round((after.cpu.irq - before.cpu.irq) / passed, 4),
        "softirq_share": round((after.cpu.softirq - before.cpu.softirq) / passed, 4),
        "throttled_share": round((after.throttled_s - before.throttled_s) / passed, 4),
        "too_hot": after.too_hot - before.too_hot,
        "speed_change": round(before.spin_ns / after.spin_ns - 1, 4),
    }
    if before.frequency_khz and after.frequency_khz:
        found["frequency_khz"] = [before.frequency_khz, after.frequency_khz]
    return found


def _of_batches(series: Sequence[Sequence[float]]) -> dict[str, float]:
    """The share of slow batches of all, and the drift of the series that drifted most."""
    batches = [each for each in series if len(each) >= FEWEST_BATCHES and median(each) > 0]
    if not batches:
        return {}
    slow = sum(sum(batch > SLOW * middle for batch in each) for each in batches for middle in [median(each)])
    drifts = [median(each[len(each) // 2 :]) / median(each[: len(each) // 2]) - 1 for each in batches]
    most = max((abs(drift), drift) for drift in drifts)[1]
    return {"slow_share": round(slow / sum(map(len, batches)), 4), "drift": round(most, 4)}
