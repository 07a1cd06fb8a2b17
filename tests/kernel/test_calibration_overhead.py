"""That nothing stays on is told by looking: what does stay on is seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab import instruments
from lab.bpf.loader import Loader
from lab.calibration import overhead
from lab.calibration.overhead import held
from lab.kernel import bpf, netns, scheduler, sysctl


@contextmanager
def affinity() -> Iterator[None]:
    """One CPU fewer, or the one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@contextmanager
def statistics() -> Iterator[None]:
    """BPF_ENABLE_STATS, held."""
    descriptor = bpf.enable_stats()
    yield
    os.close(descriptor)


@contextmanager
def program() -> Iterator[None]:
    """A loaded one."""
    with Loader() as loader:
        loader.load(instruments.path("empty_xdp"))
        yield


@pytest.mark.parametrize(
    ("stays", "seen"),
    [
        (program, "anon_inode:bpf"),
        (statistics, "1 anon_inode:bpf"),
        (affinity, "scheduling"),
        (scheduler.first_in_first_out, "scheduling"),
    ],
)
def test_what_stays_on_is_seen(stays: Callable[[], object], seen: str) -> None:
    """A program, a holder of bpf_stats, another policy and another affinity, each as long as it is there."""
    if stays is affinity and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one CPU: no other affinity is possible")
    before = held()
    with stays():  # type: ignore[attr-defined]
        assert any(seen in each for each in held().beyond(before))
    assert overhead.left_over(before) == []


def test_a_sysctl_that_stays_set_is_seen() -> None:
    """One of the namespace that the thread is in: here, of one of its own."""
    with netns.restored():
        netns.unshare()
        before = held()
        sysctl.write("net.ipv4.ip_forward", 1 - int(sysctl.read("net.ipv4.ip_forward")))
        assert "net/ipv4/ip_forward" in held().beyond(before)


def test_a_cost_leaves_nothing_and_a_process_takes_all_with_it() -> None:
    """After it no descriptor, no sysctl and no policy of ours is there; nor are the ids of a process that ended."""
    overhead._cost()
    assert overhead._bar("after a measurement of cost", overhead._cost).reached == "none"
    assert overhead._bar("after the end of a process", overhead._process).reached == "none"
