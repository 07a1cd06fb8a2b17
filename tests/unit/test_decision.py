"""Intervals and verdicts, on numbers whose truth is known."""

from __future__ import annotations

import random

import pytest

from lab.bench.decision import Rule, decide
from lab.bench.inference import estimate


def normal(mean: float, sd: float, count: int, seed: int) -> list[float]:
    roll = random.Random(seed)
    return [roll.gauss(mean, sd) for _ in range(count)]


def test_the_interval_is_students() -> None:
    """Below ten repetitions nothing is trimmed: mean 2, s = 1, n = 3, t(2; 0.975) = 4.303."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.half_width == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Of 1,000 intervals of 90 %, over 20 repetitions each, 87 to 93 % hold the truth."""
    held = sum(
        found.low <= 5 <= found.high for seed in range(1000) if (found := estimate(normal(5, 2, 20, seed), 0.90))
    )
    assert 870 <= held <= 930


def test_one_spoiled_repetition_moves_nothing() -> None:
    """An interrupt that makes one of 20 repetitions a thousand times slower shifts the estimate by less than one sd."""
    clean = normal(5, 1, 20, 1)
    spoiled = [5000.0, *clean[1:]]
    assert abs(estimate(spoiled).value - estimate(clean).value) < 0.5
    assert estimate(spoiled).half_width < 2 * estimate(clean).half_width


def test_a_single_repetition_leaves_all_open() -> None:
    """Nothing is known of how far the next one would lie."""
    assert estimate([3.0]).half_width == float("inf")


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [(4.0, "slower"), (-4.0, "faster"), (0.0, "no difference"), (1.0, "no difference")],
)
def test_the_verdict_follows_the_effect(effect: float, verdict: str) -> None:
    """Of 400 ns: 1 % is a difference, a quarter of the resolution is none."""
    decision = decide(normal(effect, 1.0, 100, 3), 400.0, Rule())
    assert decision.verdict == verdict
    assert not decision.is_open


def test_too_few_repetitions_are_inconclusive_and_say_how_many_would_do() -> None:
    """What it asks for is enough: with so many repetitions the same effect has a verdict."""
    few = decide(normal(4.0, 4.0, 8, 5), 400.0, Rule())
    assert few.verdict == "inconclusive"
    assert few.is_open
    enough = decide(normal(4.0, 4.0, 4 * few.repetitions, 5), 400.0, Rule())
    assert enough.verdict == "slower"


def test_a_difference_below_the_instruments_own_is_none() -> None:
    """0.2 ns of 10 are 2 %, but two equal programs may differ by as much."""
    assert decide(normal(0.2, 0.05, 200, 7), 10.0, Rule()).verdict == "no difference"


def test_a_threshold_keeps_the_question_open_until_it_is_answered() -> None:
    """Slower for certain, but by more than 5 %? Not yet: the interval still holds 5 %."""
    differences = normal(20.5, 3.0, 30, 11)
    assert not decide(differences, 400.0, Rule()).is_open
    assert decide(differences, 400.0, Rule(threshold=0.05)).is_open


def test_false_alarms_are_rare_at_any_look() -> None:
    """1,000 comparisons of equals with five looks each, a placement noise of 1.2 ns on 100: not one is a difference."""
    alarms = 0
    for seed in range(1000):
        series = normal(0.0, 1.2, 40, seed)
        looks = (decide(series[:count], 100.0, Rule()).verdict for count in (8, 12, 18, 27, 40))
        alarms += any(verdict in ("slower", "faster") for verdict in looks)
    assert alarms == 0
