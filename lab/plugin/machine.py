"""Tests in a machine with another kernel (lab.matrix): its results say where they come from; its loss is no failure.

A machine is one worker of pytest-xdist. Within it every report is marked with the kernel; outside, where the results
are gathered, the tests of a machine that was lost are neither passed nor failed: they are lost, with the reason.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from lab.model.run import Environment

if TYPE_CHECKING:
    from lab.plugin.gatherer import Gatherer

WITHIN, FOLDER = "LAB_VM", "LAB_VM_FOLDER"
"""In a machine: how it is run ("kvm", "tcg"). Outside: where its console and its end are told."""
COMMAND = "lab.matrix.worker"
LOST_STATUS = 2
TEST_LIMIT_S = 300.0
"""No test of a scenario takes as long, even by emulation."""
INTERRUPTED = "the session was interrupted"
EMULATED = "not comparable: measured in a machine without hardware virtualisation (QEMU emulates its processor)"


class Node(Protocol):
    """What pytest-xdist calls a worker."""

    gateway: Any
    workerinput: dict[str, Any]


def register(config: pytest.Config) -> None:
    """What this session needs of it: most have no machine."""
    told = config.getoption("--lab-tell")
    if told is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Teller(told), "bpflab-teller")
    if os.environ.get(WITHIN):
        config.pluginmanager.register(Within(os.environ[WITHIN]), "bpflab-machine")
    elif not hasattr(config, "workerinput") and _has_machine(config.getoption("tx", None) or ()):
        config.pluginmanager.register(Losses(config), "bpflab-losses")


def _has_machine(places: Sequence[str]) -> bool:
    return any(os.environ.get(FOLDER) or COMMAND in place for place in places)


class Teller:
    """Tells another process of each test that ended: a line with its gravest outcome and its name."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase; the last one is the teardown, but for a test that was lost."""
        if not report.passed:
            self.outcomes[report.nodeid] = report.outcome
        if report.when == "teardown" or report.outcome == "lost":  # type: ignore[comparison-overlap]
            os.write(self.fd, f"{self.outcomes.pop(report.nodeid, 'passed')} {report.nodeid}\n".encode())


class Within:
    """In the machine: the first report takes the environment along, and a measurement why it decides nothing."""

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        self.told = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Before pytest-xdist sends it."""
        if not self.told:
            vars(report)["lab_environment"] = asdict(self._environment())
            self.told = True
        kept = getattr(report, "lab", None)
        if kept and self.accelerator != "kvm":
            for each in kept["notes"].get("measurement", ()):
                each["noise"] = {**each.get("noise", {}), "sentence": EMULATED}

    def _environment(self) -> Environment:
        from lab.bench.environment import read_environment

        about = read_environment(None)
        timing = {} if self.accelerator == "kvm" else {"timing": EMULATED}
        return Environment(**{**vars(about), "settings": {**about.settings, "machine": "QEMU", **timing}})


class Losses:
    """Outside: knows which tests a machine was to run, and what became of it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.pending: list[str] = []
        self.lost: dict[str, str] = {}
        self.heard = time.monotonic()

    def pytest_xdist_node_collection_finished(self, node: Node, ids: Sequence[str]) -> None:
        """These it is to run; from now on a test that does not end is noticed."""
        self.pending = list(ids)
        self.heard = time.monotonic()
        if os.environ.get(FOLDER):
            threading.Thread(target=self._watch, args=(Path(os.environ[FOLDER]),), daemon=True).start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase; the last one is the teardown."""
        self.heard = time.monotonic()
        if report.when == "teardown" and report.nodeid in self.pending:
            self.pending.remove(report.nodeid)

    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """The test that ran when it was lost: pytest-xdist would count it as failed."""
        vars(report)["outcome"] = "lost"
        report.longrepr = self.reason()

    def pytest_testnodedown(self, node: Node, error: object) -> None:
        """With an error, what was not finished is lost."""
        if error:
            self.lost = dict.fromkeys(self.pending, self.reason())

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """A word of its own."""
        return ("lost", "L", "LOST") if report.outcome == "lost" else None  # type: ignore[comparison-overlap]

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Before the run is stored; a session without its machine did not succeed, nor did one that was interrupted."""
        if session.exitstatus == pytest.ExitCode.INTERRUPTED and not self.lost:
            self.lost = dict.fromkeys(self.pending, INTERRUPTED)
        if self.lost:
            session.exitstatus = LOST_STATUS
        gatherer: Gatherer | None = self.config.pluginmanager.getplugin("bpflab-gatherer")
        if gatherer:
            for nodeid, reason in self.lost.items():
                gatherer.session.lose(nodeid, reason, _about(nodeid))
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """How many, and why."""
        for reason in dict.fromkeys(self.lost.values()):
            terminalreporter.write_line(f"bpflab: {len(self.lost)} tests lost with their machine: {reason}", red=True)

    def reason(self) -> str:
        """In the words of whoever watched the machine."""
        told = Path(os.environ.get(FOLDER, ""), "lost")
        return told.read_text().strip() if os.environ.get(FOLDER) and told.is_file() else "the machine is gone"

    def _watch(self, folder: Path) -> None:
        """Ends a machine in which a test does not end, though its kernel is alive."""
        while self.pending and not self.lost:
            left_s = self.heard + TEST_LIMIT_S - time.monotonic()
            if left_s <= 0:
                words = f"no test ended for {TEST_LIMIT_S:g} s; it was to run {self.pending[0]}"
                (folder / "stuck").write_text(f"{words}\n")
                os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
                return
            threading.Event().wait(left_s)


def _about(nodeid: str) -> Mapping[str, str]:
    """As the plugin says it of a test that ran: only its name is known."""
    path, _, name = nodeid.partition("::")
    return {"kind": "scenario", "program": Path(path).stem.partition("_")[2], "title": name.replace("_", " ")}
