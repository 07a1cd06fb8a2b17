"""Isolation: a core held alone, and a thread that is afterwards as it was."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.bench import isolation
from lab.bench.isolation import isolated
from lab.kernel import disturbance, scheduler

HOLD = """
import pathlib, sys
from lab.bench.isolation import isolated
from lab.kernel import scheduler
scheduler.CPUS = pathlib.Path(sys.argv[1])
with isolated() as core:
    print(core.cpu, flush=True)
    input()
"""
SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


def state() -> tuple[object, ...]:
    """All of this thread that isolation changes."""
    return os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, gc.isenabled()


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of CPUs that no measurement outside of this test holds."""
    for cpu in scheduler.usable():
        (tmp_path / f"cpu{cpu}").mkdir()
    monkeypatch.setattr(scheduler, "CPUS", tmp_path)
    return tmp_path


@contextmanager
def other_measurement(leases: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A process that measures, and its CPU."""
    command = [sys.executable, "-c", HOLD, str(leases)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


def test_the_thread_is_on_one_cpu_and_free_again_after_an_error() -> None:
    """Affinity, policy and the garbage collector are what they were, also when the measurement fails."""
    before = state()
    with pytest.raises(RuntimeError), isolated() as core:
        assert os.sched_getaffinity(0) == {core.cpu}
        assert not gc.isenabled()
        raise RuntimeError
    assert state() == before


def test_a_burst_is_real_time_and_ends_with_its_block() -> None:
    """Within a burst the thread is SCHED_FIFO, after it, and after an error in it, what it was."""
    with isolated() as core:
        before = state()
        assert core.realtime
        with pytest.raises(RuntimeError), core.burst():
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
            raise RuntimeError
        assert state() == before


def test_bursts_leave_a_tenth_of_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would exceed the share of real-time runs as a plain block, so that the kernel throttles none."""
    monkeypatch.setattr(isolation, "MOST_REALTIME_S", 0.0)
    with isolated() as core:
        with core.burst():
            pass
        with core.burst():
            assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_thread_without_the_right_measures_without_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SCHED_FIFO is refused a burst is a plain block, and the sentence says so."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with isolated() as core, core.burst():
        assert not core.realtime
        assert "no real-time bursts (SCHED_FIFO: Operation not permitted)" in core.sentence


def test_a_core_within_a_core_is_the_same() -> None:
    """A measurement that is made of measurements stays where it is."""
    with isolated() as outer:
        with isolated() as inner:
            assert inner is outer
        assert os.sched_getaffinity(0) == {outer.cpu}


def test_two_measurements_are_on_different_cpus(leases: Path) -> None:
    """A CPU on which another process measures is left to it; who finds none says so, and gets one all the same."""
    cpus = scheduler.usable()
    with other_measurement(leases) as (taken, _), isolated() as core:
        assert (core.cpu == taken) == (len(cpus) == 1)
        assert ("shared with another measurement" in core.sentence) == (len(cpus) == 1)
    with ExitStack() as stack:
        for cpu in cpus:
            stack.callback(os.close, scheduler.lease(cpu))
        assert "shared with another measurement" in stack.enter_context(isolated()).sentence


def test_a_killed_measurement_holds_no_cpu(leases: Path) -> None:
    """The lease is gone with its process, however that ended."""
    with other_measurement(leases) as (cpu, process):
        assert scheduler.is_leased(cpu)
        process.kill()
        process.wait()
        assert not scheduler.is_leased(cpu)


@pytest.mark.parametrize("cpu", [0, -1])
def test_a_busy_neighbour_is_felt(cpu: int) -> None:
    """A thread that wants the CPU, too, costs the one that tries it out most of its time."""
    busy = sorted(scheduler.usable())[cpu]
    with subprocess.Popen([sys.executable, "-c", SPIN, str(busy)], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            with isolated():  # for the affinity, which is put back
                assert scheduler.time_lost(busy, isolation.TRIAL_S) > 0.3
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("lost", "quiet", "chosen"),
    [
        ({0: 0.0, 1: 0.0}, set(), 1),
        ({0: 0.0, 1: 0.3}, set(), 0),
        ({0: 0.0, 1: 0.02, 2: 0.4}, set(), 1),
        ({0: 0.0, 1: 0.0, 2: 0.3}, {2}, 2),
    ],
)
def test_the_quietest_cpu_is_chosen(lost, quiet, chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An isolated one, else the one that loses least, and CPU 0 only where it is quieter than the rest."""
    monkeypatch.setattr(scheduler, "time_lost", lambda cpu, _: lost[cpu])
    monkeypatch.setattr(disturbance, "device_interrupts", dict)
    assert isolation._quietest(set(lost), quiet) == chosen
