"""The newest run in a few lines, for the terminal at the end of a benchmark."""

from __future__ import annotations

from pathlib import Path

from lab.report.measured import Measured
from lab.report.page import HEADLINES, Page, page_of
from lab.report.program import Program
from lab.report.quantity import count, plain, seconds
from lab.report.read import read_runs


def summary(runs: Path) -> str:
    """Programs with what passed and failed, and the headline numbers with unit, interval and limit.

    Results and their newest values are chosen as on the page. One sentence where nothing is stored.
    """
    page = page_of(read_runs(runs))
    if page.newest is None:
        return f"No stored run in {runs}."
    width = max(len(program.name) for program in page.everything)
    lines = [_head(page), ""]
    for program in page.everything:
        lines.append(f"{_mark(program.outcome)} {program.name:<{width}}  {program.verdict}")
        lines += [f"       {line}" for line in (*_numbers(program), *_comparisons(program))]
    lines += [f"Method of {name.lower()}: {method}." for name, method in page.methods]
    lines += ["", *_failures(page), *_warnings(page)]
    return "\n".join(lines).rstrip()


def _head(page: Page) -> str:
    run = page.newest
    if run is None:
        return page.verdict
    commit = f"commit {run.environment.commit[:12] or 'unknown'}{' with changes' if run.environment.dirty else ''}"
    return f"{page.verdict}. Run {run.id}, {seconds(run.duration_s)}, Linux {run.environment.kernel}, {commit}."


def _mark(outcome: str) -> str:
    return {"passed": "ok  ", "skipped": "skip"}.get(outcome, "FAIL")


def _numbers(program: Program) -> list[str]:
    found = program.cells(HEADLINES)
    lines = []
    for cell in found:
        if cell.costs:
            costs = "; ".join(f"{cost.value} ({cost.interval}) at {cost.flows}" for cost in cell.costs)
            lines.append(f"Cost a packet, median (95 %) at a number of flows: {costs}")
        else:
            lines.append(_number(cell.measured, cell.of))
    return lines


def _comparisons(program: Program) -> list[str]:
    return [
        f"{each.who}, {each.comparison.subject}: {each.verdict} ({each.confidence}: {each.interval})"
        + (f"; {each.too_noisy}" if each.too_noisy else "")
        for each in program.comparisons
    ]


def _number(measured: Measured, of: int) -> str:
    worst = f", worst of {plain(of)}" if of > 1 else ""
    return f"{measured.name}, {measured.measurement.subject}{worst}: {measured.telling.sentence}"


def _failures(page: Page) -> list[str]:
    lines = [
        f"FAIL {group.bad[0].latest.result.nodeid}{_others(len(group.bad) - 1)}\n     {group.bad[0].gist}"
        for group in page.bad_groups
    ]
    return lines + [
        f"LIMIT {each.measurement.program}: {each.name} {each.telling.sentence}" for each in page.broken_limits
    ]


def _others(number: int) -> str:
    return f" and {count(number, 'more variant')}" if number else ""


def _warnings(page: Page) -> list[str]:
    lines = [f"left out {broken.name}: {broken.why}" for broken in page.stored.broken]
    if page.older:
        lines.append(f"{plain(len(page.older))} results come from older runs.")
    if page.forbidding:
        names = ", ".join(difference.name for difference in page.forbidding)
        lines.append(f"The environments of the runs differ in {names}: their numbers do not compare.")
    return lines
