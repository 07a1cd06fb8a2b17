"""`lab history`: each figure through the stored runs, and where it changed."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.commands.folded import width
from lab.commands.table import print_table
from lab.errors import LabError
from lab.project import find_project

if TYPE_CHECKING:
    from lab.report.trend import Trend

WIDE_FROM = 110
"""Columns of a terminal from which there is room for all that is told."""
WIDE, NARROW = 40, 14
HEADINGS = ("figure", "runs", "old to new", "now", "to reference", "last change")


@click.command("history")
@click.argument("program", required=False)
@click.option("--metric", help="Only this one: cost, added_latency, rate, …")
@click.option("--runs", type=click.Path(path_type=Path), help="Where the runs are.  [default: reports/runs]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for other programs.")
def command(program: str | None, metric: str | None, runs: Path | None, as_json: bool) -> None:
    """What each figure was in the stored runs, and the commits at which it changed.

    Costs are held against the reference program that is measured with them, so that a slower minute of the machine is
    no change. Only runs of like environments are told together, and none that were too noisy. At least 8 are needed to
    tell a change, which then must last for 3.
    """
    from lab.report.read import read_runs
    from lab.report.trend import trends

    runs = runs or find_project(Path.cwd()) / "reports" / "runs"
    found = [
        each
        for each in trends(read_runs(runs).points)
        if program in (None, each.program) and metric in (None, each.metric)
    ]
    if not found:
        what = " of ".join(filter(None, [metric, program])) or "anything"
        raise LabError(
            f"history: no stored run in {runs} measured {what}", mend="make bench, and again with each change"
        )
    if as_json:
        click.echo(json.dumps([_record(trend) for trend in found], indent=2))
        return
    _print(found)


def _grouped(found: list[Trend]) -> list[tuple[str, ...]]:
    """For a terminal: the figures of a program below its name. In a pipe each line has the name, for grep."""
    rows: list[tuple[str, ...]] = []
    for program, several in groupby(found, key=lambda trend: trend.program):
        rows.append((program, *[""] * (len(HEADINGS) - 1)))
        for figure, runs, sparkline, *others in map(_cells, several):
            rows.append((f"  {figure}", runs, sparkline[-_room() :], *others))
    return rows


def _room() -> int:
    """Figures of a sparkline that fit beside the other columns."""
    return WIDE if width() >= WIDE_FROM else NARROW


def _cells(trend: Trend) -> tuple[str, ...]:
    from lab.report.figures import metric_name
    from lab.report.quantity import quantity

    return (
        f"{metric_name(trend.metric)}, {trend.subject}",
        str(len(trend.points)),
        trend.sparkline,
        quantity(trend.newest.figure, trend.newest.unit),
        f"{trend.newest.ratio:.3f}" if trend.is_relative else "",
        trend.changes[-1].verdict if trend.changes else "",
    )


def _print(found: list[Trend]) -> None:
    rows = _grouped(found) if sys.stdout.isatty() else [(trend.program, *_cells(trend)) for trend in found]
    headings = ("program", *HEADINGS)[-len(rows[0]) :]
    dropped = {"to reference"} if sys.stdout.isatty() and width() < WIDE_FROM else set()
    told = [place for place, name in enumerate(headings) if name not in dropped and any(row[place] for row in rows)]
    print_table([headings[place] for place in told], [[row[place] for place in told] for row in rows])
    left_out = [
        f"  {trend.program}, {trend.metric}, {trend.subject}: {each}" for trend in found for each in trend.left_out
    ]
    if left_out:
        click.echo("\n".join(["", "Runs left out:", *left_out]))


def _record(trend: Trend) -> dict[str, Any]:
    return {
        "program": trend.program,
        "metric": trend.metric,
        "subject": trend.subject,
        "method": trend.method,
        "unit": trend.newest.unit,
        "to_reference": trend.is_relative,
        "points": [
            {"run": point.run, "commit": point.commit, "figure": point.figure, "ratio": point.ratio}
            for point in trend.points
        ],
        "changes": [
            {"run": change.point.run, "commit": change.point.commit, "share": change.share, "worse": change.is_worse}
            for change in trend.changes
        ],
        "left_out": list(trend.left_out),
    }
