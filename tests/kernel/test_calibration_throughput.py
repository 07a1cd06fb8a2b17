"""Calibration of throughput: lost frames, floods and flows that are known are recovered, and what is missed is said."""

from __future__ import annotations

import time

import pytest

from lab.calibration import throughput
from lab.model.delivery import Delivery

pytestmark = pytest.mark.needs("live_frames")


def test_lost_frames_are_recovered(monkeypatch) -> None:
    """One in 100 and one in 9,973 of 100,000: as many as the program says, and no other."""
    monkeypatch.setattr(throughput, "LOST_FRAMES", 100_000)
    monkeypatch.setattr(throughput, "LOST_ONE_IN", (100, 9973))
    bar = throughput._loss()
    assert bar.held
    assert bar.data["100"]["offered"] - bar.data["100"]["received"] == bar.data["100"]["dropped"]
    assert 99_000 < bar.data["9973"]["received"] < 100_000


def test_a_loss_that_is_not_as_told_is_missed(monkeypatch) -> None:
    """A program that drops more than it is believed to."""
    load = throughput.Loader.load
    monkeypatch.setattr(throughput, "LOST_FRAMES", 10_000)
    monkeypatch.setattr(throughput, "LOST_ONE_IN", (100,))
    monkeypatch.setattr(throughput.Loader, "load", lambda self, path, every: load(self, path, every=every // 2))
    assert not throughput._loss().held


def test_distinct_flows_are_counted(monkeypatch) -> None:
    """Each of 100,000, by the program that met them."""
    monkeypatch.setattr(throughput, "DISTINCT", 100_000)
    bar = throughput._distinct()
    assert bar.reached.startswith("100,000 flows in ")


@pytest.mark.parametrize(
    ("received", "held"), [((5_000_000, 6_100_000), True), ((5_000_000, 5_900_000), False), ((6_100_000, 1), False)]
)
def test_a_flood_counts_by_its_best_and_loses_nothing(received: tuple[int, int], held: bool) -> None:
    """By the clock on the wall, whatever the CPU's says."""
    offered = (received[0], max(received[1], 1_000_000))
    pairs = zip(offered, received, strict=True)
    made = [Delivery(sent, came, duration_s=1.0, cpu_s=0.1) for sent, came in pairs]
    assert throughput._fastest("a flood", 6e6, made, time.monotonic()).held == held


def test_a_spread_is_the_farthest_from_the_median() -> None:
    """As a share of it, on either side."""
    assert throughput._spread([100.0, 101.0, 95.0]) == pytest.approx(0.05)
    assert throughput._spread([100.0, 107.0, 99.0]) == pytest.approx(0.07)
