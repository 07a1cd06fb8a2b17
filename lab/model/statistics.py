"""Figures computed from raw trials; pure, so that a report can compute them again years later."""

from __future__ import annotations

import math
from collections.abc import Sequence

QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "p999": 0.999}


def quantile(samples: Sequence[float], fraction: float) -> float:
    """The nearest-rank quantile: a value that was really measured (Hyndman & Fan, 1996, definition 1).

    >>> quantile([4, 1, 3, 2], 0.5)
    2
    """
    if not samples:
        raise ValueError("no samples: a quantile needs at least one")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and p999 of the samples, and their number as `n`."""
    ordered = sorted(samples)
    figures = {name: float(quantile(ordered, fraction)) for name, fraction in QUANTILES.items()}
    return {**figures, "n": float(len(ordered))}


def median_interval(samples: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval of the median, whatever the distribution: see `quantile_interval`."""
    return quantile_interval(samples, 0.5, confidence=confidence)


def quantile_interval(samples: Sequence[float], fraction: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval of a quantile by exact order statistics (Conover, 1999, section 3.2).

    How many of n samples lie below the true quantile is binomial, whatever they are samples of: so the interval is
    between two samples. Samples too few to bound an end (below 6 for a median) have the extreme sample there.

    >>> quantile_interval(range(1, 101), 0.5)
    (40, 61)
    """
    if not samples:
        raise ValueError("no samples: an interval needs at least one")
    ordered, count = sorted(samples), len(samples)
    tail = (1 - confidence) / 2
    below = _ranks_in_tail(count, fraction, tail)
    above = _ranks_in_tail(count, 1 - fraction, tail)
    return ordered[max(0, below - 1)], ordered[min(count - 1, count - above)]


def _ranks_in_tail(count: int, fraction: float, tail: float) -> int:
    """The largest rank r for which a binomial of `count` trials stays below r with a chance of at most `tail`."""
    if not 0 < fraction < 1:
        return 0 if fraction <= 0 else count
    odds = fraction / (1 - fraction)
    start = max(0, int(count * fraction - 12 * math.sqrt(count * fraction * (1 - fraction))))  # 1e-30 lies below
    chance = math.exp(
        math.lgamma(count + 1)
        - math.lgamma(start + 1)
        - math.lgamma(count - start + 1)
        + start * math.log(fraction)
        + (count - start) * math.log1p(-fraction)
    )
    total, rank = 0.0, start
    while rank < count and total + chance <= tail:
        total += chance
        chance *= (count - rank) / (rank + 1) * odds
        rank += 1
    return rank
