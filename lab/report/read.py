"""Reads stored runs, one file at a time, and keeps only the newest result of each test.

A file that is broken, half-written or of another schema is named and left out: it never stops a report.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.model.measurement import Measurement
from lab.model.run import Environment, Result, Run
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
            run = _sound(Run.from_dict(json.loads(path.read_text(encoding="utf-8"))))
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
        started=_moment(run.started),
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


def file_of(result: Result) -> str:
    """The test file in a node id."""
    return result.nodeid.partition("::")[0]


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _sound(run: Run) -> Run:
    """The same run; TypeError or ValueError where a value is not of the type that the page will rely on."""
    _moment(run.started)
    _expect(str, run.id, *run.command)
    _expect(float, run.duration_s)
    _environment_is_sound(run.environment)
    for result in run.results:
        _result_is_sound(result)
    return run


def _environment_is_sound(environment: Environment) -> None:
    _expect(str, environment.kernel, environment.cpu, environment.commit, environment.bpf_jit)
    _expect(float, environment.cpus, environment.memory_bytes)
    for named in (environment.tools, environment.settings):
        _expect(dict, named)
        _expect(str, *named, *named.values())


def _result_is_sound(result: Result) -> None:
    _expect(str, result.nodeid, result.kind, result.program, result.title, result.outcome, result.reason)
    _expect(float, result.duration_s)
    _expect(dict, result.notes)
    for notes in result.notes.values():
        _expect(list, notes)
        _expect(dict, *notes)
    for measurement in result.measurements:
        _measurement_is_sound(measurement)


def _measurement_is_sound(measurement: Measurement) -> None:
    _expect(str, measurement.metric, measurement.method, measurement.unit, measurement.program, measurement.subject)
    _expect(str, measurement.headline, *measurement.remarks)
    _expect(dict, measurement.summary, measurement.noise)
    _expect(float, *measurement.summary.values(), *measurement.interval)
    if measurement.headline not in measurement.summary:
        raise ValueError(f"a measurement of {measurement.metric} lacks its headline {measurement.headline}")
    if measurement.limit:
        _expect(str, measurement.limit.statistic)
        _expect(float, measurement.limit.value)
    for trial in measurement.trials:
        _expect(str, trial.arm)
        _expect(dict, trial.facts)
        _expect(float, *trial.samples)


def _expect(kind: type, *values: Any) -> None:
    accepted = (int, float) if kind is float else (kind,)
    for value in values:
        if not isinstance(value, accepted):
            raise TypeError(f"{value!r:.60} stands where {'a number' if kind is float else kind.__name__} belongs")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} stands where a number belongs")
