"""Failures that explain themselves: what happened is recorded while a scenario runs, and told when it fails."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from lab.model.journal import Journal, note

if TYPE_CHECKING:
    from lab.traffic.network import Network
    from lab.traffic.recorder import Recorder

TITLE = "bpflab: what happened"


class Explainer:
    """One a process: it records for tests that use `net` and measure nothing."""

    def __init__(self) -> None:
        self._watch = ExitStack()
        self._recorder: Recorder | None = None
        self._net: Network | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """As soon as the network is up, what happens in it is recorded."""
        made = yield
        if fixturedef.argname == "net" and "bench" not in request.fixturenames:
            self._record(made, request.node)
        return made

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        """The end of a test ends the recording, before its network goes down."""
        self._watch.close()
        self._recorder = self._net = None
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tells why, while network and programs are still there."""
        report = yield
        if report.failed and call.excinfo is not None:
            text = self._explain(item, call.excinfo)
            if text:
                report.sections.append((TITLE, text))
        return report

    def pytest_unconfigure(self) -> None:
        """The recorder goes with the session."""
        from lab.traffic import recorder

        recorder.end()

    def _record(self, net: Any, item: pytest.Item) -> None:
        from lab.traffic import recorder
        from lab.traffic.network import Network

        found = recorder.the_recorder() if isinstance(net, Network) else None
        if found is not None:
            self._net, self._recorder = net, self._watch.enter_context(found.watching(net))
            journal_of(item).clock = lambda: found.position

    def _explain(self, item: pytest.Item, error: pytest.ExceptionInfo[BaseException]) -> str:
        if self._recorder is None:
            return ""
        lines = [
            f"{each.frames} {each.kind} at {each.interface}: {each.reason} in {each.place}"
            for each in self._recorder.losses()
        ]
        note("failure", {"losses": lines})
        return "\n".join(lines)


def journal_of(item: pytest.Item) -> Journal:
    """The journal of a test that runs."""
    from lab.pytest_plugin import _journal_key

    return item.stash[_journal_key]
