"""Two stored runs against each other, as far as that goes: their costs as ratios to the reference beside them.

Two runs are two moments, often two machines or kernels. Nanoseconds of two moments do not compare; how much more a
program costs than the reference that ran between its turns does, on like machines. Which moment a run was made in is
one draw of the lot, so the interval of each run is widened by what two runs of the same thing differ by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from statistics import median

from lab.bench.store import read_run
from lab.errors import LabError
from lab.model.measurement import Measurement
from lab.model.run import Run

REFERENCE = "reference"
BETWEEN_RUNS = 0.015
"""Half of a 95 % interval of the ratio of two runs of one program on one machine, measured; see docs/measuring.md."""


@dataclass(frozen=True)
class Pair:
    """One figure in both runs: B / A in units of the reference, with a 95 % interval."""

    program: str
    subject: str
    a: float
    b: float
    ratio: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """One of the words of a comparison."""
        _, low, high = self.ratio
        if low > 1:
            return "slower"
        if high < 1:
            return "faster"
        return "no difference" if high - low < 2 * hypot(BETWEEN_RUNS, BETWEEN_RUNS) * 1.5 else "inconclusive"


def pairs(a: Path, b: Path) -> tuple[Run, Run, list[Pair]]:
    """Both runs and what they have in common; LabError where that is nothing."""
    for path in (a, b):
        if not path.is_file():
            raise LabError(f"compare {a} with {b}: there is no file {path}", mend="stored runs are in reports/runs")
    first, second = read_run(a), read_run(b)
    costs = dict(_costs(second))
    found = [_pair(each, costs[key]) for key, each in _costs(first) if key in costs]
    if not found:
        raise LabError(
            f"compare {a} with {b}: no cost with a reference stands in both",
            mend="runs of the same benchmarks, `make bench`, made by this version or a later one",
        )
    return first, second, found


def _costs(run: Run) -> Iterator[tuple[tuple[str, str], Measurement]]:
    for result in run.results:
        for each in result.measurements:
            arms = {trial.arm for trial in each.trials}
            if each.metric == "cost" and REFERENCE in arms and not each.too_noisy:
                yield (each.program, each.subject), each


def _pair(a: Measurement, b: Measurement) -> Pair:
    units = [_in_references(each) for each in (a, b)]
    ratio = units[1][0] / units[0][0]
    spread = ratio * hypot(BETWEEN_RUNS, BETWEEN_RUNS, *(half / abs(value) for value, half in units))
    return Pair(
        a.program, a.subject, a.summary[a.headline], b.summary[b.headline], (ratio, ratio - spread, ratio + spread)
    )


def _in_references(measurement: Measurement) -> tuple[float, float]:
    """The cost, and half of its interval, as multiples of what the reference cost beside it."""
    arms = {trial.arm: trial.samples for trial in measurement.trials}
    unit = median(arms[REFERENCE]) - median(arms["without"])
    low, high = measurement.interval
    return measurement.summary[measurement.headline] / unit, (high - low) / 2 / unit
