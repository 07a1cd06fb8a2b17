"""The plain values at the bottom of the house."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.effort import effort
from lab.errors import AttachError, LabError, WaitTimeout
from lab.model import statistics
from lab.model.action import Action
from lab.model.delivery import Delivery
from lab.model.journal import journal, note
from lab.model.measurement import Limit, Measurement, Trial
from lab.wait import wait_until

SAMPLES = st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=50)


@given(SAMPLES)
def test_a_quantile_is_a_sample(samples: list[int]) -> None:
    """Nearest rank interpolates nothing, and the ends are the extremes."""
    assert statistics.quantile(samples, 0.5) in samples
    assert statistics.quantile(samples, 0.0) == min(samples)
    assert statistics.quantile(samples, 1.0) == max(samples)


@given(SAMPLES)
def test_the_interval_of_the_median_lies_within_the_samples(samples: list[int]) -> None:
    """Its ends are in order, and the same samples give it again."""
    low, high = statistics.median_interval(samples)
    assert min(samples) <= low <= high <= max(samples)
    assert statistics.median_interval(samples) == (low, high)


def test_the_interval_narrows_with_more_samples() -> None:
    """Ten times the samples of one distribution say more."""
    few = statistics.median_interval([*range(20)])
    many = statistics.median_interval([*range(20)] * 10)
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_interval_is_the_narrowest_that_the_binomial_allows(fraction: float) -> None:
    """Each end leaves out at most 2.5 %, and would leave out more one rank further in."""
    count = 200
    low, high = statistics.quantile_interval(range(1, count + 1), fraction)
    chance = [math.comb(count, k) * fraction**k * (1 - fraction) ** (count - k) for k in range(count + 1)]
    assert sum(chance[:low]) <= 0.025 < sum(chance[: low + 1])
    assert sum(chance[high:]) <= 0.025 < sum(chance[high - 1 :])


def test_few_samples_bound_nothing_beyond_the_extremes() -> None:
    """Five cannot bound a median with 95 %: the interval is all of them."""
    assert statistics.median_interval([3, 1, 2, 5, 4]) == (1, 5)


def test_no_samples_have_no_quantile() -> None:
    """An empty trial is an error, not 0."""
    with pytest.raises(ValueError, match="at least one"):
        statistics.quantile([], 0.5)


def test_a_measurement_survives_json() -> None:
    """What is stored is what is read, raw trials and limit too."""
    kept = Measurement(
        metric="cost",
        method="prog_run",
        unit="ns/packet",
        program="p",
        subject="1 flow",
        headline="p50",
        summary={"p50": 3.0, "p99": 4.0},
        interval=(2.5, 3.5),
        trials=(Trial("with", (3.0, 4.0), {"flows": 1}),),
        limit=Limit("p99", 10.0),
        remarks=("a remark",),
    )
    assert Measurement.from_dict(kept.as_dict()) == kept
    assert kept.p99 == 4.0
    with pytest.raises(AttributeError, match="p50, p99"):
        _ = kept.p75


def test_a_limit_has_a_side() -> None:
    """Latency stays below its limit, throughput above."""
    assert Limit("p99", 10.0).holds_for(9.9)
    assert not Limit("p99", 10.0).holds_for(10.0)
    assert Limit("p50", 1e6, below=False).holds_for(1.1e6)


def test_duplicates_make_up_for_no_loss() -> None:
    """Lost is what never came, however often the rest did."""
    assert Delivery(offered=10, received=8, duplicated=5).lost == 2


def test_a_verdict_is_known_by_its_number_and_its_hook() -> None:
    """2 is XDP_PASS to XDP and TC_ACT_SHOT to tc; 99 is nothing to either."""
    assert Action.of("xdp", 2) is Action.XDP_PASS
    assert Action.of("tc", 2) is Action.TC_ACT_SHOT
    with pytest.raises(ValueError, match="99"):
        Action.of("xdp", 99)


def test_notes_go_to_the_innermost_journal() -> None:
    """Outside of a journal a note is dropped, inside a nested one it stays there."""
    note("delivery", {"offered": 0})
    with journal() as outer:
        with journal() as inner:
            note("delivery", {"offered": 1})
        note("delivery", {"offered": 2})
    assert (inner.of("delivery"), outer.of("delivery")) == ([{"offered": 1}], [{"offered": 2}])


def test_two_empty_journals_are_two() -> None:
    """The inner one ends first, and the outer one goes on listening, though they look alike."""
    with journal() as outer:
        with journal():
            pass
        note("delivery", {"offered": 3})
    assert outer.of("delivery") == [{"offered": 3}]


def test_an_error_crosses_a_process_border_whole() -> None:
    """pytest-xdist pickles exceptions; what, kernel and mend arrive."""
    sent = AttachError("attach x to y: refused", kernel="veth: no", mend="use z")
    arrived = pickle.loads(pickle.dumps(sent))
    assert type(arrived) is AttachError
    assert str(arrived) == str(sent)
    assert isinstance(arrived, LabError)


def test_waiting_gives_the_value_or_says_what_it_waited_for() -> None:
    """The condition's own value comes back; a false one raises at the deadline."""
    answers = iter([None, 0, "there"])
    assert wait_until(lambda: next(answers), what="an answer") == "there"
    with pytest.raises(WaitTimeout, match=r"0\.01 s in vain for: the moon"):
        wait_until(lambda: False, within_s=0.01, what="the moon")


def test_a_share_of_the_effort_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share that $LAB_EFFORT tells, all without it, and once at least; patience has no part in it."""
    monkeypatch.delenv("LAB_EFFORT", raising=False)
    monkeypatch.setenv("LAB_PATIENCE", "10")
    assert effort(1000) == 1000
    monkeypatch.setenv("LAB_EFFORT", "0.1")
    assert (effort(1000), effort(3)) == (100, 1)
    for wrong in ("0", "-1", "few", "nan"):
        monkeypatch.setenv("LAB_EFFORT", wrong)
        with pytest.raises(LabError, match=f"LAB_EFFORT={wrong} is no positive number"):
            effort(1000)


def test_patience_prolongs_every_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """$LAB_PATIENCE times as long; what is no number is told so."""
    monkeypatch.setenv("LAB_PATIENCE", "2.5")
    with pytest.raises(WaitTimeout, match=r"0\.025 s in vain for: the moon"):
        wait_until(lambda: False, within_s=0.01, what="the moon")
    monkeypatch.setenv("LAB_PATIENCE", "much")
    with pytest.raises(LabError, match="LAB_PATIENCE=much is no positive number"):
        wait_until(lambda: False, within_s=0.01, what="the moon")
