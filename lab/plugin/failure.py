"""Failures that explain themselves: what happened is recorded while a scenario runs, and told when it fails."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.errors import LabError
from lab.model.journal import Journal, note
from lab.plugin.journal import journal_of
from lab.plugin.uses import fixtures_of
from lab.project import find_project

if TYPE_CHECKING:
    from lab.failure.evidence import Comparison
    from lab.traffic.network import Network
    from lab.traffic.recorder import Recorder

TITLE = "bpflab: what happened"
USES = {"net", "bpf"}
BLIND = "LAB_BLIND"
"""Set where scenarios are meant to fail: `lab blind`."""


@dataclass(frozen=True)
class Kept:
    """What is left of a failure on disk: how to do it again, where it is, and what the terminal says."""

    command: str = ""
    folder: str = ""
    remarks: tuple[str, ...] = ()
    """What of it cannot be done again, or why nothing can."""
    trouble: str = ""
    """Why nothing is left."""

    def to_text(self) -> str:
        """For a terminal."""
        if not self.folder:
            return self.trouble
        again = "".join([f"Again: {self.command}", *(f"\n  but {each}" for each in self.remarks)])
        none = f"No replay: {'; '.join(self.remarks)}"
        return f"{again if self.command else none}\nFrames, object and maps: {self.folder}"


class Explainer:
    """One a process: it records for tests that use `net` and measure nothing."""

    def __init__(self) -> None:
        self._watch = ExitStack()
        self._recorder: Recorder | None = None
        self._net: Network | None = None
        self._comparison: Comparison | None = None
        self._listens = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test that uses the lab and measures nothing keeps its steps."""
        self._comparison = None
        fixtures = fixtures_of(item)
        self._listens = bool(fixtures & USES) and "bench" not in fixtures and not os.environ.get(BLIND)
        if self._listens:
            journal_of(item).clock = lambda: 0

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """As soon as the network is up, what happens in it is recorded."""
        made = yield
        own = (fixturedef.argname, fixturedef.scope) == ("net", "function")
        if own and journal_of(request.node).clock is not None:
            self._record(made, request.node)
        return made

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """The end of a test ends the recording, before its network goes down."""
        self._watch.close()
        self._recorder = self._net = self._comparison = None
        self._listens = False
        journal = journal_of(item)
        journal.clock = None
        journal.steps.clear()  # they hold programs, maps and frames
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tells why, while network and programs are still there."""
        report = yield
        if report.failed and call.excinfo is not None and journal_of(item).clock is not None:
            text = self._explain(item, call.excinfo)
            if text:
                report.sections.append((TITLE, text))
        return report

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> None:
        """Asked by pytest how to show a comparison that failed: its operands are kept, and pytest shows them itself."""
        if self._listens:
            from lab.failure.evidence import Comparison

            self._comparison = Comparison(op, left, right)

    def pytest_unconfigure(self) -> None:
        """The recorder goes with the session."""
        recorder = sys.modules.get("lab.traffic.recorder")
        if recorder is not None:
            recorder.end()

    def _record(self, net: Any, item: pytest.Item) -> None:
        from lab.traffic import recorder
        from lab.traffic.network import Network

        found = recorder.the_recorder() if isinstance(net, Network) else None
        if found is not None:
            self._net, self._recorder = net, self._watch.enter_context(found.watching(net))
            journal_of(item).clock = lambda: found.position

    def _explain(self, item: pytest.Item, error: pytest.ExceptionInfo[BaseException]) -> str:
        """What a terminal shows. An explanation that fails itself says so, and never hides the failure."""
        try:
            return self._told(item, error)
        except Exception as trouble:
            return f"could not be explained: {type(trouble).__name__}: {trouble}"

    def _told(self, item: pytest.Item, error: pytest.ExceptionInfo[BaseException]) -> str:
        from lab.failure.findings import findings, headline
        from lab.failure.text import to_text
        from lab.plugin.scene import Scene

        journal = journal_of(item)
        scene = Scene(journal, error, item.path, self._comparison, self._net, self._recorder)
        evidence = scene.evidence()
        found = findings(evidence)
        sentence = headline(evidence, found)
        maps = {f"{each.number}/{each.name}": each.whole for each in evidence.maps if each.number is not None}
        kept = self._keep(item, journal, sentence, maps)
        rows = [each.as_dict() for each in found]
        again = {"replay": kept.command, "folder": kept.folder, "remarks": list(kept.remarks)}
        note("failure", {"headline": sentence, "findings": rows, **again})
        return "\n".join([each for each in (to_text(found), kept.to_text()) if each])

    def _keep(self, item: pytest.Item, journal: Journal, sentence: str, maps: dict[str, Any]) -> Kept:
        """Everything that a replay needs, and the frames, beside the stored runs."""
        if item.config.getoption("--no-lab-run"):
            return Kept()
        from lab.bench.store import new_id
        from lab.replay.folder import keep
        from lab.replay.script import script_of
        from lab.traffic.recording import recording

        runs = Path(item.config.getoption("--lab-runs") or item.config.rootpath / "reports" / "runs")
        name = new_id(datetime.now(UTC))
        script = script_of(journal, self._net.topology if self._net else None)
        frames = b""
        if self._net and self._recorder and (seen := self._recorder.records(self._recorder.start)):
            frames = recording([each.name for each in self._net.interfaces], seen)
        if not journal.steps and not frames:
            return Kept()
        about = {"nodeid": item.nodeid, "headline": sentence, "maps": maps}
        try:
            folder = keep(runs / "failures", name, about, script, frames)
        except LabError as error:
            return Kept(trouble=str(error))
        remarks = tuple(dict.fromkeys(script.remarks))
        if not script.steps:
            return Kept("", str(folder), remarks or ("nothing was loaded, run or sent by the lab's own means",))
        return Kept(" ".join(["lab replay", name, *_option(runs)]), str(folder), remarks)


def _option(runs: Path) -> list[str]:
    """Nothing where `lab replay` looks by itself, from where pytest was called."""
    usual = find_project(Path.cwd()) / "reports" / "runs"
    return [] if runs.resolve() == usual.resolve() else ["--runs", shlex.quote(str(runs))]
