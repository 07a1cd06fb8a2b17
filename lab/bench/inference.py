"""From repetitions to an interval: Student's t over what was made afresh each time (Kalibera & Jones, 2013).

The repetition is the unit that varies: a fresh load, a fresh network. Batches inside of one repetition only tell how
well that one is known, and give intervals that are far too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, sqrt
from statistics import fmean, stdev


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


def estimate(repetitions: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean and its t interval; a single repetition leaves everything open.

    >>> estimate([1.0, 2.0, 3.0]).value
    2.0
    """
    mean, count = fmean(repetitions), len(repetitions)
    if count < 2:
        return Estimate(mean, -inf, inf, count)
    half = t_quantile(confidence, count - 1) * stdev(repetitions) / sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


@cache
def t_quantile(confidence: float, degrees: int) -> float:
    """Two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit  # a tenth of the time that scipy.stats takes to import

    return float(stdtrit(degrees, (1 + confidence) / 2))
