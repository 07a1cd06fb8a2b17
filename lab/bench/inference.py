"""From repetitions to an interval: a trimmed mean and Student's t over what was made afresh each time.

The repetition is the unit that varies: a fresh load, a fresh network (Kalibera & Jones, 2013). Batches inside of one
repetition only tell how well that one is known, and give intervals that are far too narrow. A tenth of the repetitions
is trimmed at each end, so that one that an interrupt spoiled moves nothing (Tukey & McLaughlin, 1963).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, sqrt
from statistics import fmean, stdev

TRIMMED = 0.1
"""Of each end; below ten repetitions nothing is trimmed."""


@dataclass(frozen=True)
class Estimate:
    """A mean with the interval in which it lies, of `repetitions` repetitions."""

    value: float
    low: float
    high: float
    repetitions: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def times(self, factor: float) -> Estimate:
        """The same in another unit."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, low, high, self.repetitions)


def estimate(repetitions: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The trimmed mean and its t interval; a single repetition leaves everything open.

    >>> estimate([1.0, 2.0, 3.0]).value
    2.0
    """
    ordered, count = sorted(repetitions), len(repetitions)
    cut = int(TRIMMED * count)
    kept = ordered[cut : count - cut]
    mean = fmean(kept)
    if count < 2:
        return Estimate(mean, -inf, inf, count)
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = stdev(winsorized) * sqrt(count) / len(kept)
    half = t_quantile(confidence, len(kept) - 1) * error
    return Estimate(mean, mean - half, mean + half, count)


@cache
def t_quantile(confidence: float, degrees: int) -> float:
    """Two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit  # a tenth of the time that scipy.stats takes to import

    return float(stdtrit(degrees, (1 + confidence) / 2))
