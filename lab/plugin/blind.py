"""`--lab-blind`: each scenario with its programs blind, once passing everything and once refusing everything.

A scenario that stays green has not looked at what its program does. One that cannot be otherwise says why:
@pytest.mark.blind("what it proves instead"). It is a claim, and checked: one that turns red both times needs no mark.

The rows of a parametrized scenario are judged together, for there are but two verdicts: one row that turns red is
enough, and the others are not run.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

SWITCH = "LAB_BLIND"  # of lab.bpf.blind, which is not imported for its name alone
PASSES = ("pass", "drop")
SIGNS = {"red": ".", "green": "G", "skipped": "s", "kept": "K"}
PATIENCE_S = 1.0
LONGEST_S = 20
"""For one scenario: without its program it may wait for what never comes."""


@dataclass
class Blinded:
    """What became of one scenario, all its rows together."""

    reason: str | None
    """Why it may stay green; None where nothing is said."""
    loads: bool = False
    """Whether a program of its own was replaced."""
    outcomes: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in PASSES})
    """Of its rows in each pass: "red", "green", "skipped", or "kept": its program could not be replaced."""

    @property
    def green(self) -> list[str]:
        """The passes in which it noticed nothing."""
        return [name for name, seen in self.outcomes.items() if "green" in seen and "red" not in seen]

    @property
    def red(self) -> list[str]:
        """The passes in which it noticed."""
        return [name for name, seen in self.outcomes.items() if "red" in seen]

    @property
    def wrong(self) -> str:
        """What is to be mended, "" where nothing is."""
        if any("kept" in seen for seen in self.outcomes.values()):
            return "its program could not be replaced"
        if self.loads and self.green and not self.reason:
            return f"stays green when its program would {' and when it would '.join(self.green)} everything"
        if self.reason and not self.green and self.red:
            return "turns red both times: it needs no @pytest.mark.blind"
        return ""


class TooLong(BaseException):
    """A scenario waited for what never comes; no `except Exception` of a scenario stops it."""


class Blind:
    """Runs every item twice in place of pytest's own loop; reports nothing of each but whether it noticed."""

    def __init__(self) -> None:
        self.seen: dict[str, Blinded] = {}
        self.started = time.monotonic()
        self._pass = ""
        self._log: Path | None = None
        self._loading_fixtures: set[tuple[str, str]] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Two passes, between which every fixture ends: a module's program is loaded anew for the second."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        groups = [list(rows) for _, rows in groupby(session.items, scenario_of)]
        for self._pass in PASSES:
            with _file_without_a_name() as self._log, _switched(f"{self._pass} {self._log}"):
                self._run(groups)
        session.testsfailed = len(self.wrong())
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """One row in this pass; its reports go nowhere else."""
        mark = item.get_closest_marker("blind")
        kept = self.seen.setdefault(scenario_of(item), Blinded(mark.args[0] if mark else None))
        before = len(self._lines())
        with _at_most(LONGEST_S), _impatient(getattr(item, "module", None)):
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        lines = self._lines()[before:]
        kept.loads |= bool(lines) or self._uses_loaded(item)
        outcome = "kept" if any(line.startswith("kept") for line in lines) else _outcome(reports)
        kept.outcomes[self._pass].add(outcome)
        item.config.get_terminal_writer().write(SIGNS[outcome], flush=True)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture of a module loads its program once, for all of its scenarios."""
        before = len(self._lines())
        result = yield
        if len(self._lines()) > before:
            self._loading_fixtures.add((fixturedef.baseid, fixturedef.argname))
        return result

    def wrong(self) -> dict[str, str]:
        """What is to be mended, by scenario."""
        return {name: each.wrong for name, each in self.seen.items() if each.wrong}

    def counts(self) -> dict[str, object]:
        """The last line, as data."""
        about = [each for each in self.seen.values() if each.loads]
        return {
            "tool": "blind",
            "scenarios": len(self.seen),
            "with_a_program": len(about),
            "red": sum(len(each.red) for each in about),
            "green": sum(len(each.green) for each in about),
            "said_why": sum(bool(each.green and each.reason) for each in about),
            "wrong": len(self.wrong()),
            "seconds": round(time.monotonic() - self.started, 1),
        }

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What stays green, and the counts as one line of JSON."""
        terminalreporter.ensure_newline()
        for nodeid, words in self.wrong().items():
            terminalreporter.write_line(f"{nodeid}: {words}")
        terminalreporter.write_line(json.dumps(self.counts()))

    def _run(self, groups: list[list[pytest.Item]]) -> None:
        for place, rows in enumerate(groups):
            later = (each[0] for each in groups[place + 1 :] if scenario_of(each[0]) != scenario_of(rows[0]))
            following = next((each for each in later if not self._is_red(each)), None)
            for item in rows:
                if not self._is_red(item):
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    def _is_red(self, item: pytest.Item) -> bool:
        seen = self.seen.get(scenario_of(item))
        return seen is not None and self._pass in seen.red

    def _uses_loaded(self, item: pytest.Item) -> bool:
        names = getattr(item, "fixturenames", ())
        return any(fixture in names and item.nodeid.startswith(base) for base, fixture in self._loading_fixtures)

    def _lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines() if self._log else []


def scenario_of(item: pytest.Item) -> str:
    """Its name without what tells its rows apart."""
    return item.nodeid.partition("[")[0]


def _outcome(reports: Sequence[pytest.TestReport]) -> str:
    """Red also where it failed before or after its own lines, and where it was expected to."""
    if any(report.failed or hasattr(report, "wasxfail") for report in reports):
        return "red"
    return "skipped" if any(report.skipped for report in reports) else "green"


@contextmanager
def _file_without_a_name() -> Iterator[Path]:
    """Children reach it by its path too, and it goes with this process, however that ends."""
    descriptor = os.memfd_create("blind")
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


@contextmanager
def _switched(value: str) -> Iterator[None]:
    os.environ[SWITCH] = value
    try:
        yield
    finally:
        del os.environ[SWITCH]


@contextmanager
def _impatient(module: Any) -> Iterator[None]:
    """The scenario's own waits, for what a blind program never brings, are short; those of the lab are not touched."""
    patient = getattr(module, "wait_until", None)
    if patient is None:
        yield
        return

    def wait_until(condition: Callable[[], Any], *, within_s: float = PATIENCE_S, what: str) -> Any:
        return patient(condition, within_s=min(within_s, PATIENCE_S), what=what)

    module.wait_until = wait_until
    try:
        yield
    finally:
        module.wait_until = patient


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TooLong(f"more than {seconds} s")

    earlier = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
