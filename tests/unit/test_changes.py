"""Change points: a flat series has none, and a step of a percent or two is found within some commits."""

from __future__ import annotations

import random

import pytest

from lab.report.changes import change_points

SPREAD = 0.003
"""Of the ratio to the reference, from one run to the next."""


def noise(dice: random.Random, count: int, *, strays: bool = False) -> list[float]:
    """Around 1; of strays every twentieth is far off."""
    return [dice.gauss(1, SPREAD * (8 if strays and dice.random() < 0.05 else 1)) for _ in range(count)]


@pytest.mark.parametrize("strays", [False, True])
@pytest.mark.parametrize("count", [8, 20, 100])
def test_flat_series_seldom_raise_an_alarm(count: int, strays: bool) -> None:
    """Under 5 % of them do, whether they are short or long, also when single runs are far off."""
    dice = random.Random(20261121)
    alarms = sum(bool(change_points(noise(dice, count, strays=strays))) for _ in range(200))
    assert alarms < 10


@pytest.mark.parametrize(("step", "commits", "least"), [(0.01, 5, 170), (0.02, 3, 190), (-0.02, 3, 190)])
def test_a_step_is_found_within_some_commits(step: float, commits: int, least: int) -> None:
    """2 % is found with the third commit 95 times of 100, 1 % with the fifth 85 times, at the commit or beside it."""
    dice = random.Random(20261121)
    found = 0
    for _ in range(200):
        old, new = noise(dice, 30), noise(dice, commits)
        places = change_points(old + [figure * (1 + step) for figure in new])
        found += any(abs(place - len(old)) <= 1 for place in places)
    assert found >= least


def test_both_steps_of_a_series_are_found() -> None:
    """Up by 5 % and back again, at their places."""
    dice = random.Random(1)
    series = noise(dice, 15) + [1.05 * figure for figure in noise(dice, 10)] + noise(dice, 10)
    assert change_points(series) == [15, 25]


@pytest.mark.parametrize(
    "series",
    [
        [],
        [1.0] * 7,
        [1.0] * 30,
        [0.0] * 30,
        [1.0] * 10 + [1.004] * 10,
        [1.0] * 20 + [2.0] * 2,
        [1.0] * 10 + [2.0] + [1.0] * 10,
    ],
)
def test_nothing_is_no_change(series: list[float]) -> None:
    """Short, flat and zero series, steps under half a percent, steps that two runs show, and a single stray run."""
    assert change_points(series) == []
