"""Gathers the reports of one pytest session into a Run; most sessions have none, so its parts are imported late."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.model.run import Environment, Result

OUTCOMES = ("passed", "xpassed", "skipped", "xfailed", "failed", "error")
"""From mild to grave: a test has the gravest outcome of its setup, call and teardown. An x was expected to fail."""


@dataclass
class _Entry:
    """One test while its phases are reported."""

    about: dict[str, str] = field(default_factory=dict)
    outcome: str = "passed"
    reason: str = ""
    duration_s: float = 0.0
    notes: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)


class Session:
    """Collects phase by phase; `finish` stores the run, or nothing when no recorded test ran."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._entries: dict[str, _Entry] = {}
        self._elsewhere: Environment | None = None

    def add(self, nodeid: str, phase: str, outcome: str, reason: str, duration_s: float) -> None:
        """One phase ("setup", "call", "teardown") of one test; "rerun" (pytest-rerunfailures): it all counts anew."""
        entry = self._entries.setdefault(nodeid, _Entry())
        entry.duration_s += duration_s
        if outcome == "rerun":
            entry.outcome, entry.reason = "passed", ""
            return
        grave = "error" if outcome == "failed" and phase != "call" else outcome
        if _gravity(grave) > _gravity(entry.outcome):
            entry.outcome, entry.reason = grave, reason

    def describe(self, nodeid: str, about: dict[str, str], notes: dict[str, list[Mapping[str, Any]]]) -> None:
        """Kind, program and title of a test that is to be stored, and what it noted."""
        entry = self._entries.setdefault(nodeid, _Entry())
        entry.about, entry.notes = about, notes

    def lose(self, nodeid: str, reason: str, about: Mapping[str, str]) -> None:
        """A test that was to run in a machine that is gone: whatever it had reported by then, it is lost."""
        entry = self._entries.setdefault(nodeid, _Entry())
        entry.about, entry.outcome, entry.reason = entry.about or dict(about), "lost", reason

    def set_elsewhere(self, environment: Environment) -> None:
        """The tests run on another kernel than this process; the commit is the one here."""
        self._elsewhere = environment

    def finish(self, project: Path, folder: Path) -> Path | None:
        """The file of the stored run."""
        results = tuple(_result(nodeid, entry) for nodeid, entry in self._entries.items() if entry.about)
        if not results:
            return None
        from lab.bench.pytest_benchmark import write_benchmark
        from lab.bench.store import new_id, write_run
        from lab.model.run import Run

        run = Run(
            id=new_id(self.started),
            started=self.started.isoformat(timespec="seconds"),
            duration_s=round(time.monotonic() - self._clock, 3),
            command=(Path(sys.argv[0]).name, *sys.argv[1:]),
            environment=self._environment(project),
            results=results,
        )
        stored = write_run(run, folder)
        write_benchmark(run, folder)
        return stored

    def _environment(self, project: Path) -> Environment:
        from lab.bench.environment import read_environment

        here = read_environment(project)
        if cables := [each for entry in self._entries.values() for each in entry.notes.get("cable", ())]:
            told = {f"cable.{name}": str(value) for name, value in cables[-1].items()}
            here = replace(here, settings={**here.settings, **told})
        if self._elsewhere is None:
            return here
        return replace(self._elsewhere, commit=here.commit, dirty=here.dirty)


def _gravity(outcome: str) -> int:
    """A word that nobody knows, of some other plugin, is as grave as a failure."""
    return OUTCOMES.index(outcome if outcome in OUTCOMES else "failed")


def _result(nodeid: str, entry: _Entry) -> Result:
    from lab.model.measurement import Measurement
    from lab.model.run import Result

    measured = entry.notes.pop("measurement", [])
    return Result(
        nodeid=nodeid,
        kind=entry.about["kind"],
        program=entry.about["program"],
        title=entry.about["title"],
        outcome=entry.outcome,
        reason=entry.reason,
        duration_s=round(entry.duration_s, 4),
        notes=entry.notes,
        measurements=tuple(Measurement.from_dict(each) for each in measured),
    )
