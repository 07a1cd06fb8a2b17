"""Reads stored runs, one file at a time, and keeps only the newest result of each test.

A file that is broken, half-written or of another schema is named and left out: it never stops a report.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lab.model.run import Environment, Result, Run
from lab.report.sound import moment, sound_run
from lab.report.trend import Point, points_of

PARTIAL = re.compile(r"::|^-[a-zA-Z]*[kmx]|^--(lf|last-failed|deselect|exitfirst|maxfail|sw|stepwise|keyword)\b")
"""Arguments of pytest after which a run did not hold all tests of the files that it names."""


@dataclass(frozen=True)
class Header:
    """A stored run without its results: when, where, how, and how many of each outcome."""

    id: str
    started: datetime
    duration_s: float
    command: tuple[str, ...]
    environment: Environment
    outcomes: Counter[str]
    files: frozenset[str]

    @property
    def is_whole(self) -> bool:
        """True when the command chose whole files, so that a test of theirs that is absent is gone."""
        return not any(PARTIAL.search(argument) for argument in self.command[1:])


@dataclass(frozen=True)
class Latest:
    """The newest stored result of one test, and the run that it comes from."""

    result: Result
    header: Header


@dataclass(frozen=True)
class Broken:
    """A file that could not be read, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Stored:
    """What a folder of runs holds.

    `runs` is newest first. `aside` are results of tests that a newer run of their whole file no longer had: renamed
    or deleted, most likely, so they count for nothing and are only named. `points` are the measurements of all runs.
    """

    runs: tuple[Header, ...]
    results: tuple[Latest, ...]
    aside: tuple[Latest, ...]
    broken: tuple[Broken, ...]
    points: tuple[Point, ...] = ()

    @property
    def shown_runs(self) -> tuple[Header, ...]:
        """The runs that at least one shown result comes from, newest first."""
        used = {latest.header.id for latest in self.results}
        return tuple(header for header in self.runs if header.id in used)


def read_runs(folder: Path) -> Stored:
    """Everything that can be read in `folder`/*.json; an absent folder holds no runs."""
    newest: dict[str, Latest] = {}
    headers: list[Header] = []
    broken: list[Broken] = []
    points: list[Point] = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            run = sound_run(Run.from_dict(json.loads(path.read_text(encoding="utf-8"))))
        except KeyError as error:
            broken.append(Broken(path.name, f"the key {error} is missing"))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            broken.append(Broken(path.name, str(error) or type(error).__name__))
        else:
            header = _header(run)
            headers.append(header)
            _keep(newest, header, run.results)
            points += points_of(run)
    headers.sort(key=lambda header: (header.started, header.id), reverse=True)
    shown, aside = _set_aside(newest.values(), headers)
    return Stored(tuple(headers), shown, aside, tuple(broken), tuple(points))


def _header(run: Run) -> Header:
    return Header(
        id=run.id,
        started=moment(run.started),
        duration_s=run.duration_s,
        command=run.command,
        environment=run.environment,
        outcomes=Counter(result.outcome for result in run.results),
        files=frozenset(file_of(result) for result in run.results),
    )


def _keep(newest: dict[str, Latest], header: Header, results: Iterable[Result]) -> None:
    for result in results:
        held = newest.get(result.nodeid)
        if held is None or (held.header.started, held.header.id) <= (header.started, header.id):
            newest[result.nodeid] = Latest(result, header)


def _set_aside(found: Iterable[Latest], headers: list[Header]) -> tuple[tuple[Latest, ...], tuple[Latest, ...]]:
    """Parts the results into those that still count and those whose test is gone."""
    last_whole: dict[str, datetime] = {}
    for header in reversed(headers):
        if header.is_whole:
            last_whole.update(dict.fromkeys(header.files, header.started))
    shown: list[Latest] = []
    aside: list[Latest] = []
    for latest in found:
        whole = last_whole.get(file_of(latest.result))
        (aside if whole is not None and latest.header.started < whole else shown).append(latest)
    return tuple(shown), tuple(aside)


def is_comparison(result: Result) -> bool:
    """True for what `lab compare` stored: it is of no test file, and its node id says who met whom on what."""
    return result.nodeid.startswith("compare ") and "comparison" in result.notes


def file_of(result: Result) -> str:
    """The test file in a node id; a comparison is its own."""
    return result.nodeid if is_comparison(result) else result.nodeid.partition("::")[0]
