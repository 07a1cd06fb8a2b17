"""`lab compare @A @B`: every program that differs between two trees, one table, one exit status."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.commands.table import print_table
from lab.commands.told import Progress
from lab.contest.contest import Wanted, store
from lab.contest.series import Outcome, hold_all
from lab.contest.tree import tree
from lab.contest.verdicts import HEADINGS, markdown, rows, sentence
from lab.errors import LabError
from lab.project import find_project

if TYPE_CHECKING:
    from lab.model.comparison import Comparison

SUMMARY = "GITHUB_STEP_SUMMARY"
"""GitHub Actions sets it to a file whose Markdown is shown on the page of the run."""


def compare_trees(a: str, b: str, wanted: Wanted, options: dict[str, Any]) -> int:
    """The exit status: 1 when a program is slower than allowed for certain, 2 when one could not be compared."""
    if not (a.startswith("@") and b.startswith("@")):
        raise LabError(
            f"compare {a} with {b}: one is a whole tree, the other is not", mend="@main @HEAD, or NAME@main NAME@HEAD"
        )
    started = time.monotonic()
    first, second = tree(a), tree(b)
    outcomes: list[Outcome] = []
    with Progress(quiet=options["as_json"]) as progress:
        told, done = progress.told, lambda stem, each: progress.done(each, stem)
        for each in hold_all(first, second, wanted, unchanged=options["all_programs"], told=told, done=done):
            outcomes.append(each)
    _tell(outcomes, (a, b), options)
    _keep(outcomes, (a, b), options, started)
    return _status(outcomes, options["fail_if_slower"])


def _tell(outcomes: list[Outcome], words: tuple[str, str], options: dict[str, Any]) -> None:
    limit = options["fail_if_slower"]
    for outcome in outcomes:
        if outcome.error:
            click.echo(f"lab: {outcome.stem}: {outcome.error}", err=True)
    if options["as_json"]:
        click.echo(json.dumps([_as_dict(each) for each in outcomes], indent=1))
    else:
        if outcomes:
            click.echo()
            print_table(HEADINGS, list(rows(outcomes)))
            click.echo()
        click.echo(sentence(outcomes, words, limit))
    if page := os.environ.get(SUMMARY):
        with Path(page).open("a", encoding="utf-8") as file:
            file.write(markdown(outcomes, words, limit))


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "program": outcome.stem,
        "change": outcome.change.kind,
        "files": outcome.change.files,
        "why_not": outcome.why_not,
        "comparisons": [each.as_dict() for each in outcome.comparisons],
    }


def _keep(outcomes: list[Outcome], words: tuple[str, str], options: dict[str, Any], started: float) -> None:
    found: list[tuple[str, Comparison]] = [(outcome.stem, each) for outcome in outcomes for each in outcome.comparisons]
    if found and options["store"]:
        path = store(found, words, find_project(Path.cwd()), started)
        click.echo(f"stored in {path}; `lab report` shows it", err=True)


def _status(outcomes: list[Outcome], threshold: float | None) -> int:
    if threshold is not None and any(outcome.slower_by(threshold) for outcome in outcomes):
        return 1
    return 2 if any(outcome.error for outcome in outcomes) else 0
