"""Numbers, figures and curves of the report."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from lab.model import statistics
from lab.model.measurement import Limit, Trial
from lab.report.curves import PAGE_SAMPLES, curve, embedded, sample_limit, thinned
from lab.report.figures import headline_figure, quantile_interval, telling_figure
from lab.report.plots import axis
from lab.report.quantity import plain, quantity, seconds, span
from tests.unit import sample_run as sample


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (183, "ns", "183 ns"),
        (1210, "ns", "1.21 µs"),
        (10_000, "ns", "10 µs"),
        (-484, "ns", "\N{MINUS SIGN}484 ns"),
        (0, "ns", "0 ns"),
        (0.42, "ns", "0.420 ns"),
        (94.26, "ns/packet", "94.3 ns/packet"),
        (3_421_000, "packets/s", "3.42 M packets/s"),
        (341_234.4, "packets/s", "341,234 packets/s"),
        (4.95e9, "bit/s", "4.95 Gbit/s"),
        (65_536, "furlongs", "65,536 furlongs"),
        (7, "", "7"),
    ],
)
def test_quantities_read_as_people_write_them(value: float, unit: str, text: str) -> None:
    """A number has three significant digits, the unit that fits and commas between thousands."""
    assert quantity(value, unit) == text.replace("µ", "\N{MICRO SIGN}")


@pytest.mark.parametrize(
    ("interval", "unit", "text"),
    [
        ((816.0, 1124.0), "ns", "0.82 to 1.12 µs"),
        ((40.0, 41.94), "ns", "40.0 to 41.9 ns"),
        ((115.8, 116.5), "ns", "115.8 to 116.5 ns"),
        ((-3.0, 5.0), "ns", "\N{MINUS SIGN}3 to 5 ns"),
        ((0.0, 0.0), "ns", "0 to 0 ns"),
    ],
)
def test_both_ends_of_an_interval_share_unit_and_decimals(interval: tuple[float, float], unit: str, text: str) -> None:
    """An interval is written once in one unit, precisely enough to tell its ends apart."""
    assert span(interval, unit) == text.replace("µ", "\N{MICRO SIGN}")


def test_durations_turn_to_minutes() -> None:
    """Seconds are scaled both ways."""
    assert [seconds(value) for value in (0.0001, 0.012, 3.414, 125)] == ["under 1 ms", "12 ms", "3.41 s", "2 min 5 s"]
    assert plain(1_048_576) == "1,048,576"


def test_limit_on_another_statistic_gets_an_interval_of_its_own() -> None:
    """The stored interval belongs to the headline: a promise about p99 is shown with one computed from the trials."""
    measured = sample.latency("xdp_filter", random.Random(3))
    about_median = sample.with_headline(measured, "p50")

    told = telling_figure(about_median)

    assert (told.statistic, told.kept) == ("p99", True)
    assert told.interval not in ("", headline_figure(about_median).interval)


def test_quantile_interval_covers_the_truth() -> None:
    """Of 200 samples of 1,000 uniform numbers, about 95 % have the true p90 in their interval."""
    dice = random.Random(11)
    held = 0
    for _ in range(200):
        low, high = quantile_interval([dice.random() for _ in range(1000)], 0.9)
        held += low <= 0.9 <= high
    assert 182 <= held <= 200


@pytest.mark.parametrize(
    ("limit", "below", "verdict"),
    [
        (9.0, True, "broken"),
        (11.0, True, "undecided"),
        (12.0, True, "undecided"),
        (12.1, True, "kept"),
        (9.0, False, "kept"),
    ],
)
def test_a_limit_is_decided_by_the_interval(limit: float, below: bool, verdict: str) -> None:
    """Kept or broken where all of it is on one side, the limit itself being beyond; else nobody knows."""
    measured = replace(sample.latency("x", random.Random(1), 200), headline="mean", summary={"mean": 11.0})
    told = telling_figure(replace(measured, interval=(10.0, 12.0), limit=Limit("mean", limit, below)))

    assert told.verdict == verdict
    assert (told.of_limit > 1.0) is ((limit < 11.0) is below)


def test_curves_hold_the_quantiles_exactly() -> None:
    """The points of a curve are values that were measured, at the shares that the percentiles are quoted for."""
    dice = random.Random(5)
    samples = [float(round(dice.lognormvariate(8, 1))) for _ in range(20_000)]

    drawn = curve(samples)

    by_share = dict(zip(drawn["share"], drawn["value"], strict=True))
    assert by_share[0.5] == float(f"{statistics.quantile(samples, 0.5):.6g}")
    assert by_share[0.99] == float(f"{statistics.quantile(samples, 0.99):.6g}")
    assert by_share[1.0] == float(f"{max(samples):.6g}")
    assert drawn["value"] == sorted(drawn["value"])
    assert len(drawn["share"]) < 400


def test_embedded_samples_stay_within_the_budget() -> None:
    """However many samples were stored, the page carries a bounded part and says which."""
    measured = sample.latency("xdp_filter", random.Random(2), 15_000)
    many = [measured] * 60

    most = sample_limit(many)
    carried = embedded(measured, most)

    assert sum(len(trial["samples"]) for trial in carried["trials"]) * 60 <= PAGE_SAMPLES
    assert carried["trials"][0]["taken"] == 15_000
    assert carried["trials"][0]["samples"] == thinned(measured.trials[0].samples, most)
    assert len(thinned(range(10), 4)) <= 4


def test_few_samples_are_carried_whole() -> None:
    """Small measurements are not thinned because a large one stands beside them."""
    small = sample.cost("x", random.Random(0), 1)
    large = sample.latency("x", random.Random(0), 5_000)

    most = sample_limit([small] + [large] * 100)

    assert embedded(small, most)["trials"][0]["samples"] == list(small.trials[0].samples)


@pytest.mark.parametrize("values", [[1.0, 3.0], [2.4e6, 2.41e6], [5.0], [0.0], [-3.0, 4.0], [1e-9, 2e9], [7.0, 7.0]])
def test_an_axis_holds_all_values_between_round_ends(values: list[float]) -> None:
    """No value lies outside, equal values still give an axis, and there are few ticks."""
    across = axis(values)

    assert all(0 <= across.share(value) <= 100 for value in values)
    assert across.low < across.high
    assert 2 <= len(across.ticks) <= 8


def test_an_arm_without_samples_is_no_arm() -> None:
    """An empty trial is kept in the data and drawn nowhere."""
    measured = sample.with_trials(sample.cost("x", random.Random(0), 1), Trial("with", ()))

    assert embedded(measured, 10)["curves"] == {}
