"""Two programs in one run: equals are equal, a cause that was put in is found, and what cannot be compared is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Topology, instruments
from lab.bench.compare import compare_cost
from lab.bench.decision import Rule
from lab.bench.workload import Contender, Workload
from lab.errors import MeasurementError
from lab.model.comparison import Comparison
from lab.traffic import frames

FRAME = bytes(frames.udp(Topology.pair("client", "server"), "client", "server", dst_port=9, payload=bytes(18)))
SOURCES = Path(__file__).parents[1] / "bpf"
ROUGH = Rule(resolution=0.2, least=5.0)
"""For tests, which say nothing of how fine the instrument is: calibration does."""


def burning(rounds: int) -> Contender:
    def make(loader):
        return Workload(loader.load(instruments.path("burn_xdp"), program="burn_xdp", rounds=rounds), FRAME)

    return Contender(f"{rounds} rounds", make)


def test_equals_are_equal() -> None:
    """The same program on both sides: no difference, and the interval holds a ratio of 1."""
    found = compare_cost(burning(200), burning(200), rule=ROUGH)
    assert found.verdict == "no difference"
    assert found.ratio[1] < 1 < found.ratio[2]
    assert {trial.arm for trial in found.trials} == {"A", "B", "difference"}


def test_a_slower_program_is_found_and_a_faster_one_too() -> None:
    """Twice the work is slower, half of it faster; certainly by more than 10 %."""
    slower = compare_cost(burning(200), burning(400), rule=ROUGH)
    faster = compare_cost(burning(400), burning(200), rule=ROUGH)
    assert (slower.verdict, faster.verdict) == ("slower", "faster")
    assert slower.is_slower_by(0.10) and not faster.is_slower_by(0.0)


def test_no_time_is_no_verdict() -> None:
    """A budget that allows the least of repetitions, and a resolution beyond them: inconclusive, and for how long."""
    found = compare_cost(burning(200), burning(200), rule=Rule(resolution=1e-6, least=1e-6), budget_s=0.01)
    assert found.verdict == "inconclusive"
    assert found.to_be_sure_s > 0
    assert "inconclusive" in found.sentence


def test_programs_of_different_hooks_do_not_compare() -> None:
    """An XDP program against a tc program: one sentence that names both."""

    def make(loader):
        return Workload(loader.load(SOURCES / "drop.bpf.c", program="drop_tc"), FRAME)

    with pytest.raises(MeasurementError, match="compare 1 rounds with dropping: they are programs of different hooks"):
        compare_cost(burning(1), Contender("dropping", make))


def test_every_flow_reaches_both(bpf) -> None:
    """1,024 flows are 1,024 sources in the table of each contender, at the first repetition already."""
    kept = [bpf.load(SOURCES / "sources.bpf.c") for _ in "AB"]

    def contender(name: str, table) -> Contender:
        def make(loader):
            return Workload(loader.load(SOURCES / "sources.bpf.c", share={"sources": table}), FRAME)

        return Contender(name, make)

    sides = [contender(name, each.maps["sources"]) for name, each in zip("AB", kept, strict=True)]
    found = compare_cost(*sides, flows=1024, rule=ROUGH, budget_s=0.05)
    assert found.subject == "1,024 flows"
    assert [len(each.maps["sources"]) for each in kept] == [1024, 1024]


def test_a_comparison_is_stored_and_read_again() -> None:
    """JSON and back gives the same."""
    found = compare_cost(burning(1), burning(1), rule=ROUGH, budget_s=0.05)
    assert Comparison.from_dict(found.as_dict()) == found
