"""Calibration: a cause that was put in is found, and a bar that was missed is said."""

from __future__ import annotations

import json

import pytest

from lab import cli
from lab.calibration import comparison
from lab.calibration.comparison import Slowdown
from lab.model.calibration import Bar


def test_a_slowdown_is_found(monkeypatch) -> None:
    """A fifth more work of a program of 200 ns, three times of three; what was seen is near what is true."""
    monkeypatch.setattr(comparison, "TRUTH_S", 0.2)
    bar = comparison._found(Slowdown(200, 20, "%", 3, 3, 5.0), rounds=230)
    assert bar.held
    assert bar.data["true_ns"] == pytest.approx(40, rel=0.5)
    assert bar.data["verdict"] == ["slower"] * 3


def test_equals_are_counted(monkeypatch) -> None:
    """Three comparisons of equals: three verdicts, and none of them a difference."""
    monkeypatch.setattr(comparison, "EQUALS", 3)
    bar = comparison._equals({30: 60, 100: 130, 400: 430})
    assert bar.held
    assert sum(bar.data["verdicts"].values()) == 3


@pytest.mark.parametrize(("held", "status"), [(True, 0), (False, 1)])
def test_a_missed_bar_is_exit_status_1(held, status, monkeypatch, capsys) -> None:
    """And the table says which it was; a part of the table is not stored."""
    monkeypatch.setattr(comparison, "bars", lambda: iter([Bar("a cause", "found", "lost", held)]))
    assert cli.run(["calibrate", "--only", "comparison", "--json"]) == status
    assert json.loads(capsys.readouterr().out) == [{"what": "a cause", "bar": "found", "reached": "lost", "held": held}]
