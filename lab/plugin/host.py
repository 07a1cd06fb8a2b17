"""Tests on other machines (lab.hosts): each result says where it ran, and what was measured there decides nothing."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

WITHIN = "LAB_HOST"
COMMAND = "lab.hosts.worker"
SHARDED = "not comparable: the benchmarks of this run were dealt out to several machines"


def register(config: pytest.Config) -> None:
    """On another machine one plugin, where the results meet the other."""
    if os.environ.get(WITHIN):
        config.pluginmanager.register(There(os.environ[WITHIN]), "bpflab-host")
    elif any(COMMAND in each for each in config.getoption("tx", None) or ()):
        specs = [each.partition("//python=")[2] for each in config.getoption("tx")]
        config.pluginmanager.register(Here(list(dict.fromkeys(filter(None, specs)))), "bpflab-hosts")


class There:
    """On the other machine."""

    def __init__(self, name: str) -> None:
        self.name = name

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Before pytest-xdist sends it."""
        if report.failed:
            report.sections.append(("host", f"{self.name}, Linux {platform.release()}"))
        notes: Mapping[str, list[dict[str, Any]]] = getattr(report, "lab", {}).get("notes", {})
        for each in notes.get("measurement", ()):
            each["noise"] = {**each.get("noise", {}), "sentence": SHARDED}


class Here:
    """Where the results meet: a test whose worker was lost runs once more, on a machine that still answers."""

    def __init__(self, commands: Sequence[str]) -> None:
        self.alive = list(commands)
        """How a worker is started on each machine."""
        self.lost: list[str] = []

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """pytest-xdist is about to start the worker anew: where its machine is gone too, on the next one."""
        spec = node.gateway.spec
        if not error or spec.python not in self.alive or _answers(spec.python):
            return
        self.alive.remove(spec.python)
        if not self.alive:
            pytest.exit("bpflab: every host is lost", returncode=pytest.ExitCode.INTERNAL_ERROR)
        spec.python = self.alive[len(self.lost) % len(self.alive)]

    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """pytest-xdist would count it as failed; it is where it ended a second worker."""
        if crashitem not in self.lost:
            self.lost.append(crashitem)
            vars(report)["outcome"] = "rerun"
            sched.mark_test_pending(crashitem)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """A word of its own."""
        return ("moved", "M", "MOVED") if report.outcome == "rerun" else None  # type: ignore[comparison-overlap]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Which tests were moved."""
        for nodeid in self.lost:
            terminalreporter.write_line(f"bpflab: {nodeid} lost its machine and ran once more", yellow=True)


def _answers(command: str) -> bool:
    """Whether a Python still starts there; this machine always does."""
    try:
        argv = [*shlex.split(command), "-c", "pass"]
        return not subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=15).returncode
    except subprocess.TimeoutExpired:
        return False
