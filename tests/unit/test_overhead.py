"""bench.overhead: what is attached is in the middle of each block, and only its difference is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.bench import overhead
from lab.bench.bench import Bench
from lab.model.journal import journal


class Switch:
    """Something that can be attached, and an operation that takes longer while it is."""

    def __init__(self, extra_rounds: int = 0) -> None:
        self.extra_rounds, self.rounds = extra_rounds, 0
        self.order: list[bool] = []
        self.attached = False

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Makes the operation slower for the block."""
        self.attached, self.rounds = True, self.extra_rounds
        try:
            yield
        finally:
            self.attached, self.rounds = False, 0

    def operation(self) -> None:
        """What is called in batches; notes how the state changed."""
        if not self.order or self.order[-1] is not self.attached:
            self.order.append(self.attached)
        for _ in range(self.rounds):
            pass


def test_each_block_goes_without_with_with_without() -> None:
    """Three blocks attach three times; what comes last of a block and first of the next are both without."""
    switch = Switch()

    measured = overhead.measure_overhead(switch.operation, switch.attach, program="switch", blocks=3)

    assert switch.order == [False, True] * 3 + [False]
    with_it, without = measured.trials
    assert len(with_it.samples) == len(without.samples) == 3 * 2 * overhead.BATCHES
    assert (with_it.arm, without.facts["blocks"], switch.attached) == ("with", 3, False)


def test_what_is_attached_is_told_per_call() -> None:
    """300 rounds of a loop more are some µs a call, kept for the report with method and unit."""
    switch = Switch(300)

    with journal() as kept:
        measured = Bench().overhead(switch.operation, switch.attach, program="switch", subject="loop", blocks=3)

    assert measured.mean > 1_000
    assert (measured.metric, measured.method, measured.unit) == ("overhead", "clock", "ns/call")
    assert [each["subject"] for each in kept.of("measurement")] == ["loop"]


def test_a_failing_operation_leaves_nothing_attached() -> None:
    """The exception comes out, and what was attached is detached."""
    switch = Switch()

    def fail() -> None:
        if switch.attached:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        overhead.measure_overhead(fail, switch.attach, program="switch", blocks=1)
    assert not switch.attached
