"""What something attached adds to an operation of user space: ns per call, with it minus without it.

For programs that no frame can be run through by itself: tracepoints, sock_ops, cgroup hooks, sk_lookup. The operation
(a getppid, a connect with its close) is called in batches, and the two arms alternate in blocks A B B A, which cancels
what drifts. Each block attaches anew: the figure is the mean over blocks, and its interval is Student's.

What user space itself needs for a call is in both arms, so it cancels too; so is what the attachment costs elsewhere
(a syscall tracepoint puts every call of the machine onto the slow way in) in what is added.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import repeat
from statistics import median
from typing import Any

from lab.bench.inference import Estimate, estimate
from lab.bench.isolation import Core, isolated
from lab.bench.noise import watched
from lab.model import statistics
from lab.model.measurement import Limit, Measurement, Trial

METHOD = "clock"
BATCH_NS = 500_000
BATCHES = 12
"""Of one arm in a row: their median is not moved by an interrupt."""
BLOCKS = 8
WARM_UP_BATCHES = 2
WARM_UP_CALLS = 20


@dataclass
class _Arms:
    """ns per call, a sample a batch."""

    without: list[float] = field(default_factory=list)
    attached: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    """One a block."""


def measure_overhead(
    operation: Callable[[], Any],
    attach: Callable[[], AbstractContextManager[Any]],
    *,
    program: str,
    subject: str = "",
    blocks: int = BLOCKS,
    below_ns: float | None = None,
) -> Measurement:
    """ns that each call of `operation` takes longer while `attach()` holds.

    `attach` gives a context manager: `program.attach` itself, or a function that attaches several. What the operation
    returns is thrown away; it must leave nothing behind. `below_ns` is the author's promise for the mean.
    """
    arms = _Arms()
    with isolated() as core:
        calls = _calls_within(operation, BATCH_NS)
        with watched(core) as watch:
            for _ in range(blocks):
                _block(operation, attach, calls, core, arms)
    noise = watch.noise(arms.without, arms.attached)
    return replace(_measurement(arms, calls, program, subject, below_ns), noise=noise)


def _block(
    operation: Callable[[], Any],
    attach: Callable[[], AbstractContextManager[Any]],
    calls: int,
    core: Core,
    arms: _Arms,
) -> None:
    """A B B A: attached in the middle."""
    before = _batches(operation, calls, core)
    with attach():
        between = _batches(operation, calls, core), _batches(operation, calls, core)
    after = _batches(operation, calls, core)
    arms.without += before + after
    arms.attached += between[0] + between[1]
    arms.added.append((median(between[0]) + median(between[1]) - median(before) - median(after)) / 2)


def _batches(operation: Callable[[], Any], calls: int, core: Core) -> list[float]:
    """ns per call of each batch, behind a few that only warm up."""
    samples = []
    for _ in range(WARM_UP_BATCHES + BATCHES):
        with core.burst():
            samples.append(_timed(operation, calls) / calls)
    return samples[WARM_UP_BATCHES:]


def _timed(operation: Callable[[], Any], calls: int) -> int:
    start = time.perf_counter_ns()
    for _ in repeat(None, calls):
        operation()
    return time.perf_counter_ns() - start


def _calls_within(operation: Callable[[], Any], batch_ns: int) -> int:
    """How many calls take about so long once they are warm; at least one."""
    _timed(operation, WARM_UP_CALLS)
    calls = 1
    while (taken := _timed(operation, calls)) < batch_ns / 4:
        calls *= 4
    return max(1, round(calls * batch_ns / taken))


def _measurement(arms: _Arms, calls: int, program: str, subject: str, below_ns: float | None) -> Measurement:
    whole = estimate(arms.added)
    plain_ns = median(arms.without)
    return Measurement(
        metric="overhead",
        method=METHOD,
        unit="ns/call",
        program=program,
        subject=subject,
        headline="mean",
        summary={"mean": whole.value, **statistics.percentiles(arms.added)},
        interval=_interval(whole, arms.added),
        trials=tuple(
            Trial(arm, tuple(samples), {"calls": calls, "blocks": len(arms.added)})
            for arm, samples in (("with", arms.attached), ("without", arms.without))
        ),
        limit=Limit("mean", below_ns) if below_ns is not None else None,
        remarks=(f"mean of {len(arms.added)} attachments; a call takes {plain_ns:,.0f} ns without it",),
    )


def _interval(whole: Estimate, added: Sequence[float]) -> tuple[float, float]:
    """Of a single block nothing can be said but its value."""
    return (whole.low, whole.high) if len(added) > 1 else (whole.value, whole.value)
