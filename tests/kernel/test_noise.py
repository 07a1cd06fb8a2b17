"""The noise check: it is silent about a quiet window, and names what disturbed another."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.bench import noise
from lab.bench.isolation import Core, isolated
from lab.bench.noise import sentence, watched
from lab.kernel import disturbance

QUIET = {
    "waited_share": 0.0,
    "stolen_share": 0.0,
    "device_interrupts_per_s": 0.0,
    "throttled_share": 0.0,
    "too_hot": 0,
    "speed_change": 0.0,
}
SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


def work(seconds: float) -> None:
    """Spins: sleeping is no measurement."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@contextmanager
def neighbour(cpu: int) -> Iterator[None]:
    """A process that wants that CPU all the time."""
    with subprocess.Popen([sys.executable, "-c", SPIN, str(cpu)], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            yield
        finally:
            process.kill()


def test_a_neighbour_on_the_same_cpu_is_seen() -> None:
    """A thread that wants the same CPU takes half of the time, and that is what the sentence says."""
    with isolated() as core, neighbour(core.cpu), watched(core) as watch:
        work(0.15)
    found = watch.noise()
    assert found["waited_share"] > 0.3
    assert found["involuntary_switches"] > 3
    assert f"other threads had CPU {core.cpu} for" in found["sentence"]


def test_a_neighbour_has_to_wait_for_a_burst_to_end() -> None:
    """The same neighbour hardly delays a real-time burst."""
    with isolated() as core, neighbour(core.cpu), core.burst(), watched(core) as watch:
        work(0.1)
    assert watch.noise()["waited_share"] < 0.3


def test_what_comes_after_the_block_is_no_noise_of_it() -> None:
    """The counters are read when the block ends, not when the noise is asked for."""
    with isolated() as core:
        with watched(core) as watch:
            work(0.01)
        work(0.05)
        assert watch.noise()["duration_s"] < 0.05


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("waited_share", 0.5, "other threads had CPU 1 for 50% of the time"),
        ("stolen_share", 0.03, "the hypervisor took 3% of the time"),
        ("device_interrupts_per_s", 13_900.0, "devices interrupted it 13,900 times a second"),
        ("throttled_share", 0.01, "a CPU quota stopped it"),
        ("too_hot", 1, "the CPU grew too hot and slowed down"),
        ("speed_change", -0.2, "the CPU became 20% slower"),
        ("slow_share", 0.04, "4% of the batches took half as long again"),
        ("drift", 0.3, "later batches took 30% longer"),
    ],
)
def test_each_disturbance_has_a_sentence(name: str, value: float, said: str) -> None:
    """A quiet window has none, and one over a threshold names what was over it."""
    assert sentence(QUIET, 1) == ""
    assert sentence(QUIET | {name: value}, 1) == f"too noisy: {said}"


def test_slow_and_drifting_batches_are_counted() -> None:
    """One of 40 batches takes twice as long: 2.5 %. A series whose second half is 20 % longer drifts by that."""
    steady, stretched = [10.0] * 20, [100.0] * 10 + [120.0] * 10
    assert noise._of_batches([steady, [*steady[:-1], 20.0]]) == {"slow_share": 0.025, "drift": 0.0}
    assert noise._of_batches([steady, stretched])["drift"] == 0.2
    assert noise._of_batches([[1.0, 2.0]]) == {}


def test_a_change_of_speed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that takes a quarter longer after the block than before it says that the CPU became slower."""
    lengths = itertools.chain([1000] * noise.SPINS, itertools.repeat(1250))
    monkeypatch.setattr(noise, "_spin", lambda: next(lengths))
    with watched(Core(0, realtime=False, sentence="CPU 0")) as watch:
        pass
    assert watch.noise()["speed_change"] == -0.2
    assert "the CPU became 20% slower" in watch.noise()["sentence"]


def test_the_counters_are_those_of_the_kernel() -> None:
    """Work of 50 ms is 50 ms of the thread's time and of its CPU's, and every CPU that is online has interrupts."""
    with isolated() as core:
        cpu, thread = disturbance.cpu_time(core.cpu), disturbance.thread_time()
        end = thread.ran_ns + 60_000_000
        while disturbance.thread_time().ran_ns < end:
            pass
        assert disturbance.cpu_time(core.cpu).busy - cpu.busy >= 0.04
        assert core.cpu in disturbance.device_interrupts()
        assert disturbance.softirqs(core.cpu) > 0
