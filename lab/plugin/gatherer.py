"""Gathers the reports of all tests in the one process that also prints them, and stores the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import LabError


class Gatherer:
    """One a session, never in a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        from lab.bench.session import Session

        self.config = config
        self.session = Session()
        self.stored: Path | None = None
        self.failure: LabError | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test; under pytest-xdist it comes from a worker."""
        reason = "" if report.passed else reason_of(report)
        self.session.add(report.nodeid, report.when or "call", outcome_of(report), reason, report.duration)
        if environment := getattr(report, "lab_environment", None):  # of a worker with another kernel
            from lab.model.run import Environment

            self.session.set_elsewhere(Environment(**environment))
        kept = getattr(report, "lab", None)
        if kept:
            self.session.describe(report.nodeid, kept["about"], kept["notes"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Stores the run, before pytest-xdist waits for its workers to end.

        A full disk spoils neither the session nor its exit status.
        """
        root = self.config.rootpath
        folder = Path(self.config.getoption("--lab-runs") or root / "reports" / "runs")
        try:
            self.stored = self.session.finish(root, folder)
        except LabError as error:
            self.failure = error

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Says where the run is."""
        if self.failure:
            terminalreporter.write_line(f"bpflab: {self.failure}", red=True)
        elif self.stored:
            terminalreporter.write_line(f"bpflab: run stored in {self.stored}; `lab report` writes the page")


def outcome_of(report: pytest.TestReport) -> str:
    """pytest reports a test that was expected to fail as skipped or passed, and says beside it that it was."""
    if not hasattr(report, "wasxfail"):
        return report.outcome
    return {"skipped": "xfailed", "passed": "xpassed"}.get(report.outcome, report.outcome)


def reason_of(report: pytest.TestReport) -> str:
    """Why a test was skipped or expected to fail, or the whole text of its failure."""
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail.removeprefix('reason: ') or 'no reason given'}"
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext
