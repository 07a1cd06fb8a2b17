"""Histories: figures of like environments through the stored runs, as a table and as charts."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.commands.history import command
from lab.model.measurement import Measurement, Trial
from lab.model.run import Environment, Run
from lab.report import html
from lab.report.trend import Trend, points_of, trends
from tests.unit import sample_run as sample

SLOWER_FROM = 20


def run_of(
    number: int, cost_ns: float, *, speed: float = 1.0, environment: Environment = sample.ENVIRONMENT, noisy: str = ""
) -> Run:
    """A run of so many ns beside a reference of 180 and a floor of 30, on a machine that is slower by `speed`."""
    cost, reference, floor = (speed * each for each in (cost_ns, 180.0, 30.0))
    measured = Measurement(
        metric="cost",
        method="prog_run",
        unit="ns/packet",
        program="xdp_filter",
        subject="1 flow",
        headline="mean",
        summary={"mean": cost, "p50": cost},
        interval=(cost - 1, cost + 1),
        trials=(
            Trial("with", (cost + floor,) * 3),
            Trial("without", (floor,) * 3),
            Trial("reference", (reference + floor,) * 3),
        ),
        noise={"sentence": noisy},
    )
    result = replace(sample.scenario(), nodeid="benchmarks/bench_xdp_filter.py::bench_cost", measurements=(measured,))
    commit = f"{number:08x}" + "0" * 32
    return sample.run_of(result, minutes=number, environment=replace(environment, commit=commit, dirty=False))


def runs_with_a_step(count: int = 30) -> list[Run]:
    """2 % slower from the 20th on, on a machine whose speed is another one in each run."""
    dice = random.Random(3)
    return [
        run_of(number, dice.gauss(100, 0.2) * (1.02 if number >= SLOWER_FROM else 1), speed=dice.uniform(0.8, 1.2))
        for number in range(count)
    ]


def trend_of(*runs: Run) -> Trend:
    """The only one that these runs hold."""
    (trend,) = trends(point for run in runs for point in points_of(run))
    return trend


def test_a_step_is_seen_through_the_machine_s_own_swings() -> None:
    """Ratios to the reference tell 2 % apart from a speed that swings by 20 %, and name the commit."""
    trend = trend_of(*runs_with_a_step())
    assert trend.is_relative
    (change,) = trend.changes
    assert change.place == SLOWER_FROM
    assert change.is_worse
    assert change.share == pytest.approx(0.02, abs=0.003)
    assert change.verdict.endswith(f" % slower since {SLOWER_FROM:08x}")


def test_the_order_of_the_files_does_not_matter() -> None:
    """Points go by the time at which their run started."""
    runs = runs_with_a_step()
    assert trend_of(*reversed(runs)) == trend_of(*runs)


def test_unlike_environments_and_noisy_runs_are_left_out() -> None:
    """Another kernel's figures and those that must not decide anything are counted, not drawn."""
    runs = runs_with_a_step()
    other = replace(sample.ENVIRONMENT, kernel="5.10.0")
    runs += [run_of(-number, 500, environment=other) for number in (1, 2, 3)] + [run_of(99, 900, noisy="too noisy")]
    trend = trend_of(*runs)
    assert len(trend.points) == 30
    assert trend.left_out == ("1 too noisy", "3 of unlike environments")
    assert [change.place for change in trend.changes] == [SLOWER_FROM]


def test_a_rate_that_falls_is_worse() -> None:
    """More packets a second are faster, more ns slower; without a reference the figures stand as they are."""

    def rates(new: float) -> list[Run]:
        measured = sample.rate("xdp_filter", random.Random(1))
        figures = [2.4e6 + number % 3 * 1000 for number in range(12)] + [new + number % 3 * 1000 for number in range(6)]
        return [
            sample.run_of(
                replace(sample.scenario(), measurements=(replace(measured, summary={"p50": figure}),)), minutes=number
            )
            for number, figure in enumerate(figures)
        ]

    slower, faster = trend_of(*rates(2.2e6)), trend_of(*rates(2.6e6))
    assert not slower.is_relative
    assert [change.is_worse for change in slower.changes] == [True]
    assert [change.is_worse for change in faster.changes] == [False]


def test_a_sparkline_shows_the_step_and_not_the_noise() -> None:
    """Low blocks before it, high ones after it; what stays within 1 % stays flat."""
    runs = [run_of(number, 100 if number < 5 else 110) for number in range(10)]
    assert trend_of(*runs).sparkline == "▁▁▁▁▁█████"
    assert set(trend_of(*[run_of(number, 100 + number % 2 * 0.1) for number in range(8)]).sparkline) == {"▁"}


def test_lab_history_names_the_commit_of_a_change(tmp_path: Path) -> None:
    """One line a figure, with its runs, its sparkline and the verdict of its last change."""
    for run in runs_with_a_step():
        sample.store(run, tmp_path)
    done = CliRunner().invoke(command, ["xdp_filter", "--metric", "cost", "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("xdp_filter")]
    assert "Cost, 1 flow" in line
    assert f" % slower since {SLOWER_FROM:08x}" in line

    told = json.loads(CliRunner().invoke(command, ["--json", "--runs", str(tmp_path)]).output)
    assert [len(each["points"]) for each in told] == [30]
    assert told[0]["to_reference"] is True
    assert [change["commit"] for change in told[0]["changes"]] == [f"{SLOWER_FROM:08x}"]


def test_lab_history_of_nothing_is_refused(tmp_path: Path) -> None:
    """A program that no run measured is named, with what to do."""
    done = CliRunner().invoke(command, ["nothing", "--runs", str(tmp_path)])
    assert "no stored run" in str(done.exception)


def test_the_page_draws_the_history_and_heads_with_what_became_worse(tmp_path: Path) -> None:
    """A chart with one dashed line, the verdict beside it, and a notice at the top; three runs are needed for one."""
    for run in runs_with_a_step():
        sample.store(run, tmp_path)
    text = html.write(tmp_path, tmp_path / "page.html").read_text()
    assert text.count('class="trend-plot"') == 1
    assert text.count('class="change worse"') == 1
    assert text.count(f" % slower since {SLOWER_FROM:08x}") == 3
    for path in sorted(tmp_path.glob("*.json"))[2:]:
        path.unlink()
    assert 'class="trend-plot"' not in html.write(tmp_path, tmp_path / "page.html").read_text()
