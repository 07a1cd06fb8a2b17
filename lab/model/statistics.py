"""Figures computed from raw trials; pure, so that a report can compute them again years later."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import median

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


def median_interval(samples: Sequence[float], *, confidence: float = 0.95, rounds: int = 500) -> tuple[float, float]:
    """A percentile-bootstrap confidence interval of the median (Efron & Tibshirani, 1993, chapter 13).

    The resampling is seeded, so that the same samples always give the same interval.
    """
    picked = random.Random(0)
    medians = sorted(median(picked.choices(samples, k=len(samples))) for _ in range(rounds))
    tail = (1 - confidence) / 2
    return medians[int(tail * rounds)], medians[min(rounds - 1, int((1 - tail) * rounds))]
