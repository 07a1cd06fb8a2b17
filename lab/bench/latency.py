"""Added latency: what attaching a program adds to a path, as a distribution, and what of that is the hook's.

The same frames go through networks of one topology that take turns (`lab.bench.arms`): one with the program, one with
an empty program at the same hook, and two that are bare. The difference of the bare two, which should be alike, is the
A/A figure: what the instrument sees where nothing is. All four are made afresh several times; a figure is the mean over
these repetitions, and its interval is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.bench import histogram
from lab.bench.arms import AGAIN, HOOK, WARM_UP, WITH, WITHOUT, Arm, Probe, ProbeMaker, Shares, repetition
from lab.bench.inference import Estimate, estimate
from lab.bench.isolation import isolated
from lab.bench.kernel_stamp import SLOTS, KernelStamp
from lab.bench.noise import watched
from lab.bench.path import Path
from lab.bench.socket_stamp import SocketStamp, check_seen
from lab.bench.user_clock import UserClock
from lab.errors import MeasurementError
from lab.model import statistics
from lab.model.measurement import Limit, Measurement, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.bpf.program import Program

METHODS: Mapping[str, Callable[[bytes, Any, Path, str], Probe]] = {
    "kernel_stamp": KernelStamp,
    "socket_stamp": SocketStamp,
    "user_clock": UserClock,
}
FRAMES, REPETITIONS = 16_000, 6
LEAST_FRAMES = 100
MOST_FRAMES = SLOTS - 4 * WARM_UP
"""Of one repetition."""
RAW_SAMPLES = 8192
"""Of an arm that are stored as they are; of more, every n-th. The histogram holds all."""
ADDED = {name: fraction for name, fraction in statistics.QUANTILES.items() if name != "p999"}
"""Quantiles of which the difference means something: p99.9 is interrupts, of 20 µs and more, in every arm."""

BATCH = 25
"""Frames in a row of which the sum should always be the same."""
MEDIAN = statistics.QUANTILES["p50"]
MIDDLE = 0.1
"""To each side of the median: the clock of a virtual machine steps by 10 ns, and the mean of these does not."""

Taken = Sequence[Shares]
"""ns of each frame, by repetition, arm and network."""


@dataclass(frozen=True)
class Trials:
    """How many frames in each arm, over how many fresh networks."""

    frames: int = FRAMES
    repetitions: int = REPETITIONS

    def __post_init__(self) -> None:
        most = MOST_FRAMES * self.repetitions
        if not 2 <= self.repetitions <= 100:
            raise MeasurementError(f"measure latency {self.repetitions} times: 2 to 100 repetitions are possible")
        if not LEAST_FRAMES * self.repetitions <= self.frames <= most:
            raise MeasurementError(
                f"measure latency with {self.frames} frames: {LEAST_FRAMES * self.repetitions} to {most} are possible "
                f"in {self.repetitions} repetitions"
            )

    @property
    def frames_each(self) -> int:
        """Frames in each arm of a repetition."""
        return -(-self.frames // self.repetitions)


def measure_added_latency(
    program: Program,
    path: Path,
    frame: Any,
    *,
    method: str = "kernel_stamp",
    frames: int = FRAMES,
    repetitions: int = REPETITIONS,
    below_ns: float | None = None,
    subject: str = "",
) -> Measurement:
    """The difference in ns, quantile by quantile, between the path with the program and the one without.

    `frame` is bytes, a scapy packet, or a function of the network that gives one. `method` is "kernel_stamp", or one of
    the two that check it: "socket_stamp", "user_clock". `below_ns` is the author's promise for p99. MeasurementError
    when frames were lost in an arm: then the path is not what was meant to be measured.
    """
    make, trials = probe_of(method, frame), Trials(frames, repetitions)
    if method == "socket_stamp":
        check_seen(program, path)
    with ExitStack() as stack:
        taken, noise = take(path, arms_of(program, stack), make, trials)
    return Report("added_latency", method, program.name, subject or path.how, taken, noise).measurement(below_ns)


def probe_of(method: str, frame: Any) -> ProbeMaker:
    """What makes the probes of a method; MeasurementError for one that there is not."""
    if method not in METHODS:
        raise MeasurementError(f"measure latency by {method!r}: there is no such method", mend=f"{', '.join(METHODS)}")

    def make(network: Any, path: Path, sink: str) -> Probe:
        return METHODS[method](bytes(frame(network) if callable(frame) else frame), network, path, sink)

    return make


def arms_of(program: Program, stack: ExitStack) -> list[Arm]:
    """The four arms; no hook's for programs that are neither XDP nor tc."""
    return [Arm(WITH, program), *_hook(program, stack), Arm(WITHOUT), Arm(AGAIN)]


def take(path: Path, arms: Sequence[Arm], make: ProbeMaker, trials: Trials) -> tuple[Taken, dict[str, Any]]:
    """All repetitions, on one core that is held for them, and what disturbed them."""
    path.only_on_veth("added latency", "one clock must stamp both ends of it")
    settings: list[str] = []
    with isolated() as core, watched(core) as watch:
        again = partial(repetition, path, arms, make, trials.frames_each, core)
        taken = [again(silent=count > 0, settings=settings) for count in range(trials.repetitions)]
    return taken, {**watch.noise(_batches(taken)), "path": settings}


def _hook(program: Program, stack: ExitStack) -> list[Arm]:
    """An arm with an empty program of the same kind; none for programs that are neither XDP nor tc."""
    from lab.bench.driver import load_instrument

    try:
        return [Arm(HOOK, stack.enter_context(load_instrument("empty", program)))]
    except MeasurementError:
        return []


@dataclass(frozen=True)
class Report:
    """The figures of one measurement."""

    metric: str
    method: str
    program: str
    subject: str
    taken: Taken
    noise: Mapping[str, Any] = field(default_factory=dict)

    def measurement(self, below_ns: float | None = None) -> Measurement:
        """Differences by quantile, their intervals, the arms' own figures and histograms."""
        added = {name: self.difference(WITH, fraction) for name, fraction in ADDED.items()}
        return Measurement(
            metric=self.metric,
            method=self.method,
            unit="ns",
            program=self.program,
            subject=self.subject,
            headline="p50",
            summary={**{name: each.value for name, each in added.items()}, **self._more()},
            interval=(added["p50"].low, added["p50"].high),
            trials=tuple(self._trials(added)),
            limit=Limit("p99", below_ns) if below_ns is not None else None,
            remarks=tuple(self._remarks()),
            noise=self.noise,
        )

    def difference(self, arm: str, fraction: float) -> Estimate:
        """What the arm's quantile is above that of the bare path, of which there are two."""
        found = [_level(each[arm], fraction) - _bare(each, fraction) for each in self.taken]
        return estimate(found) if fraction == MEDIAN else _typical(found)

    def alike(self) -> Estimate:
        """The A/A figure: the difference of the medians of two paths without the program."""
        return estimate([_level(each[WITHOUT], MEDIAN) - _level(each[AGAIN], MEDIAN) for each in self.taken])

    def beyond_hook(self) -> Estimate:
        """What the program's median is above that of an empty one: the same path but for what the program does."""
        return estimate([_level(each[WITH], MEDIAN) - _level(each[HOOK], MEDIAN) for each in self.taken])

    @property
    def _arms(self) -> list[str]:
        return list(self.taken[0])

    def samples(self, arm: str) -> NDArray[Any]:
        """ns of all frames of an arm, in order."""
        import numpy

        return numpy.concatenate([share for each in self.taken for share in each[arm]])

    def _more(self) -> dict[str, float]:
        whole, bare = self.samples(WITH), self.samples(WITHOUT)
        more = {"aa_p50": self.alike().value}
        if HOOK in self._arms:
            more["hook_p50"] = self.difference(HOOK, MEDIAN).value
            more["program_p50"] = self.beyond_hook().value
        for name, fraction in (("p50", MEDIAN), ("p99", 0.99), ("p999", 0.999)):
            more[f"{name}_with"], more[f"{name}_without"] = _quantile(whole, fraction), _quantile(bare, fraction)
        return {**more, "n": float(len(whole)), "share_below_10us": float((whole < 10_000).mean())}

    def _trials(self, added: Mapping[str, Estimate]) -> list[Trial]:
        trials = []
        for arm in self._arms:
            samples = self.samples(arm)
            every = -(-len(samples) // RAW_SAMPLES)
            facts = {
                "taken": len(samples),
                "every": every,
                "repetitions": len(self.taken),
                "histogram": histogram.encode(samples),
            }
            if arm == WITH:
                facts["intervals"] = {name: [each.low, each.high] for name, each in added.items()}
            trials.append(Trial(arm, tuple(map(int, samples[::every])), facts))
        return trials

    def _remarks(self) -> list[str]:
        alike = self.alike()
        said = [
            f"A/A: two paths without the program differ by {alike.value:.1f} ns ({alike.low:.1f} to {alike.high:.1f})",
            f"mean over {len(self.taken)} fresh networks; one frame in flight, one CPU",
            "p99.9 is mostly interrupts, in every arm, and is not subtracted",
        ]
        if HOOK in self._arms:
            hook = self.difference(HOOK, MEDIAN)
            own = self.beyond_hook()
            said.insert(
                0,
                f"an empty program at the same hook adds {hook.value:.0f} ns of it; "
                f"the program itself {own.value:.0f} ns ({own.low:.0f} to {own.high:.0f})",
            )
        return said


def _typical(repetitions: Sequence[float]) -> Estimate:
    """The median and its interval: one tail may be anything, if the machine was slow for a while."""
    return Estimate(median(repetitions), *statistics.median_interval(repetitions), len(repetitions))


def _batches(taken: Taken) -> list[float]:
    """ns that so many frames in a row took on the bare path."""
    shares = [share for each in taken for share in each[WITHOUT]]
    whole = [share[: len(share) // BATCH * BATCH].reshape(-1, BATCH).sum(axis=1) for share in shares]
    return [float(batch) for share in whole for batch in share]


def _bare(taken: Shares, fraction: float) -> float:
    return (_level(taken[WITHOUT], fraction) + _level(taken[AGAIN], fraction)) / 2


def _level(shares: Sequence[NDArray[Any]], fraction: float) -> float:
    """A quantile of one arm in one repetition.

    The median is taken in each network by itself, so that what networks differ by leaves the difference of two arms
    that were in the same ones; for others the shares are too small.
    """
    import numpy

    if fraction == MEDIAN:
        return float(numpy.mean([_middle(share) for share in shares]))
    return _quantile(numpy.concatenate(shares), fraction)


def _middle(samples: NDArray[Any]) -> float:
    """The mean of the middle fifth."""
    import numpy

    ordered, count = numpy.sort(samples), len(samples)
    return float(ordered[int((0.5 - MIDDLE) * count) : int((0.5 + MIDDLE) * count) + 1].mean())


def _quantile(samples: NDArray[Any], fraction: float) -> float:
    """Nearest rank, as `lab.model.statistics` has it."""
    import numpy

    return float(numpy.quantile(samples, fraction, method="inverted_cdf"))
