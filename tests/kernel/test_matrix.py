"""Machines that panic, hang or die are lost, and the rest completes: real ones, where QEMU and a kernel are there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.matrix import session
from lab.matrix.junit import write as write_junit
from lab.matrix.kernel import Kernel, find
from lab.model.likeness import unlike
from lab.report.matrix import Column, write

TESTS = '''
"""Three tests, of which the second ends a machine, if there is one."""
import os, pathlib, sys

import lab

def test_before():
    """Passes everywhere."""

def test_end():
    """The kernel under test panics."""
    if os.environ.get("LAB_VM"):
        pathlib.Path("/proc/sysrq-trigger").write_text("c")

def test_after():
    """Never reached where the kernel panicked."""
'''
PANIC = 'pathlib.Path("/proc/sysrq-trigger").write_text("c")'
HANG = 'pathlib.Path("/sys/power/state").write_text("freeze")'
CONSOLE = "its last words\n"


@pytest.fixture
def kernel() -> Kernel:
    """The newest kernel at hand, and QEMU; a machine without them skips."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("this machine has no QEMU; to get it: apt-get install qemu-system-x86")
    try:
        return find()[0]
    except (LabError, IndexError):
        pytest.skip("no other kernel is at hand; to get one: lab matrix --fetch 6.1")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one file of scenarios."""
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios/test_end.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def fake(folder: Path, text: str) -> str:
    """A command in the place of a machine: it is given Python's arguments after a kernel's path."""
    script = folder / "machine.py"
    script.write_text(
        f"import os, pathlib, subprocess, sys\nfolder = pathlib.Path(os.environ['LAB_VM_FOLDER'])\n{text}\n"
    )
    return f"{sys.executable} {script}"


def outcomes(lane: session.Lane) -> dict[str, str]:
    """By the test's bare name."""
    return {result.nodeid.rpartition("::")[2]: result.outcome for result in lane.results}


def test_a_worker_that_dies_is_lost_and_the_host_completes(project: Path) -> None:
    """Its finished test stays passed, the others are lost, and nothing has failed."""
    here = Kernel("6.0.0-fake", project / "vmlinuz-6.0.0-fake", project)
    dying = (
        "(folder / 'lost').write_text('kernel panic: for a test')\n"
        "os.environ['LAB_VM'] = 'tcg'\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    (project / "scenarios/test_end.py").write_text(TESTS.replace(PANIC, "os._exit(9)"))
    matrix = session.run([here], ["scenarios"], project, worker=fake(project, dying))

    host, lane = matrix.lanes
    assert outcomes(host) == {"test_before": "passed", "test_end": "passed", "test_after": "passed"}
    assert outcomes(lane) == {"test_before": "passed", "test_end": "lost", "test_after": "lost"}
    assert (matrix.status, lane.lost) == (2, "kernel panic: for a test")


def test_a_machine_that_never_starts_is_lost(project: Path) -> None:
    """There is no result of it, the reason is told, and the JUnit file holds it as an error."""
    here = Kernel("6.0.0-fake", project / "vmlinuz-6.0.0-fake", project)
    silent = "(folder / 'lost').write_text('it did not start within 120 s')\nsys.exit(1)"
    matrix = session.run([here], ["scenarios"], project, worker=fake(project, silent))

    host, lane = matrix.lanes
    assert (len(host.results), len(lane.results), matrix.status) == (3, 0, 2)
    assert lane.lost == "it did not start within 120 s"
    assert 'type="lost" message="it did not start' in write_junit(matrix, project / "junit.xml").read_text()
    columns = [Column(each.name, each.release, each.results, each.lost, CONSOLE) for each in matrix.lanes]
    page = write(columns, project / "index.html", "Scenarios").read_text()
    assert "3 passed" in page and "it did not start within 120 s" in page and CONSOLE in page


MEASURING = '''
from lab.model.journal import note
from lab.model.measurement import Measurement, Trial

def test_measures(bpf):
    """A figure, as an instrument notes it."""
    figures = ("p50", {"p50": 1.0}, (0.9, 1.1), (Trial("with", (1.0, 1.0)),))
    note("measurement", Measurement("cost", "prog_run", "ns/packet", "x", "1 flow", *figures).as_dict())
'''


@pytest.mark.parametrize("way", ["tcg", "kvm"])
def test_a_figure_of_an_emulated_processor_is_not_comparable(project: Path, way: str) -> None:
    """It is stored with the reason, and its run is like no other; on the processor itself (KVM) it is like any."""
    here = Kernel("6.0.0-fake", project / "vmlinuz-6.0.0-fake", project)
    (project / "scenarios/test_end.py").write_text(MEASURING)
    machine = f"os.environ['LAB_VM'] = {way!r}\nos.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    (lane,) = session.run([here], ["scenarios"], project, host=False, worker=fake(project, machine)).lanes

    assert lane.run is not None, (lane.folder / "pytest.txt").read_text()
    (measured,) = lane.results[0].measurements
    forbidden = unlike(lane.run.environment, lane.run.environment)
    if way == "kvm":
        assert (measured.too_noisy, forbidden) == ("", [])
    else:
        assert measured.too_noisy.startswith("not comparable: measured in a machine without hardware virtualisation")
        assert forbidden == [measured.too_noisy]


def test_what_had_ended_when_it_was_interrupted_is_kept(project: Path) -> None:
    """Ctrl-C in the middle: finished tests stay, those that were to come are lost, a kernel in the queue is named."""
    running, queued = (Kernel(f"6.{number}.0-fake", project / f"vmlinuz-6.{number}.0", project) for number in (0, 1))
    endless = TESTS.replace(PANIC, "import threading; threading.Event().wait(60)")
    (project / "scenarios/test_end.py").write_text(endless)
    machine = "os.environ['LAB_VM'] = 'tcg'\nos.execv(sys.executable, [sys.executable, *sys.argv[2:]])"

    def interrupt(lane: session.Lane, nodeid: str, outcome: str) -> None:
        if lane.kernel and nodeid.endswith("test_before"):
            raise KeyboardInterrupt

    kernels = [running, queued]
    matrix = session.run(kernels, ["scenarios"], project, at_once=1, told=interrupt, worker=fake(project, machine))
    _, first, second = matrix.lanes
    assert matrix.interrupted and matrix.status == 2
    assert outcomes(first) == {"test_before": "passed", "test_end": "lost", "test_after": "lost"}
    assert (second.results, first.lost, second.lost) == ((), session.CUT, session.CUT)


def test_a_kernel_that_panics_is_lost_and_the_host_completes(project: Path, kernel: Kernel) -> None:
    """A real machine: sysrq makes its kernel panic in the second of three tests."""
    matrix = session.run([kernel], ["scenarios"], project)

    host, lane = matrix.lanes
    assert set(outcomes(host).values()) == {"passed"}
    assert outcomes(lane) == {"test_before": "passed", "test_end": "lost", "test_after": "lost"}
    assert lane.lost == "kernel panic: sysrq triggered crash"
    assert "sysrq triggered crash" in (lane.folder / "console.txt").read_text()
    assert lane.run is not None and lane.run.environment.kernel == kernel.release


def test_a_kernel_that_hangs_is_lost_and_the_host_completes(
    project: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real machine: it suspends to idle, and nothing there will ever wake it."""
    monkeypatch.setenv("LAB_VM_SILENCE_S", "15")
    (project / "scenarios/test_end.py").write_text(TESTS.replace(PANIC, HANG))
    matrix = session.run([kernel], ["scenarios"], project)

    host, lane = matrix.lanes
    assert set(outcomes(host).values()) == {"passed"}
    assert outcomes(lane) == {"test_before": "passed", "test_end": "lost", "test_after": "lost"}
    assert (matrix.status, lane.lost) == (2, "it hangs: no beat for 15 s")
