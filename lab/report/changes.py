"""Where a series of figures changed its level: change points, found by PELT (Killick et al., 2012; library ruptures).

Figures are taken relative to their median. What a run differs from the next by, without a change, is told by the median
of the differences of neighbours; a figure that lies three such deviations off its five neighbours is a stray one, and
counts as their median. A change costs PENALTY deviations squared, the new level holds for three runs at least, and a
step below half a percent is none.

Simulated (tests/unit/test_changes.py does so again, smaller), with runs that vary by 0.3 %: of flat series of 8 to 100
runs 0.5 to 1.8 % show a change, up to 3.3 % where the noise has long tails. A step of 2 % is found with the third run
in 100 of 100 (94 where each twentieth run is stray), one of 1 % with the fifth in 88 to 96 (81 to 92).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

PENALTY = 14.0
FEWEST = 8
"""Runs below which nothing is said."""
SHORTEST = 3
SMALLEST = 0.005
LEAST_DEVIATION = 0.0005
STRAY = 3.0
NEIGHBOURS = 5
TO_SIGMA = 1.4826 / 2**0.5
"""From the median absolute difference of neighbours to a standard deviation."""


def change_points(figures: Sequence[float]) -> list[int]:
    """The places at which a new level begins, in order; none in a short series or one around zero.

    >>> change_points([1.0, 1.01, 0.99, 1.0, 1.0, 1.5, 1.51, 1.49, 1.5])
    [5]
    """
    middle = abs(median(figures)) if figures else 0
    if len(figures) < FEWEST or not middle:
        return []
    relative = [figure / middle for figure in figures]
    deviation = _deviation(relative)
    found = _pelt([figure / deviation for figure in _without_strays(relative, deviation)])
    levels = [median(relative[start:end]) for start, end in pairwise((0, *found, len(relative)))]
    return [place for place, (old, new) in zip(found, pairwise(levels), strict=True) if abs(new - old) >= SMALLEST]


def _deviation(figures: Sequence[float]) -> float:
    steps = [abs(b - a) for a, b in pairwise(figures)]
    return max(TO_SIGMA * median(steps), LEAST_DEVIATION)


def _without_strays(figures: Sequence[float], deviation: float) -> list[float]:
    kept = []
    for place, figure in enumerate(figures):
        first = max(0, min(place - NEIGHBOURS // 2, len(figures) - NEIGHBOURS))
        around = median(figures[first : first + NEIGHBOURS])
        kept.append(around if abs(figure - around) > STRAY * deviation else figure)
    return kept


def _pelt(scaled: Sequence[float]) -> list[int]:
    import numpy as np
    from ruptures.detection import KernelCPD  # its linear kernel is the squared deviation from a level, in C

    algorithm = KernelCPD(kernel="linear", min_size=SHORTEST).fit(np.array(scaled).reshape(-1, 1))
    return [int(place) for place in algorithm.predict(pen=PENALTY)[:-1]]
