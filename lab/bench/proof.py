"""Proof that a program met the frames that are about to be measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab.errors import MeasurementError
from lab.kernel import bpf

if TYPE_CHECKING:
    from lab.bpf.program import Program


@contextmanager
def met_by(program: Program, frames: int, place: str) -> Iterator[None]:
    """MeasurementError unless the program ran for at least half of the `frames` that the block sends.

    The kernel counts runs while BPF_ENABLE_STATS is held, at 70 ns each: so this is for a warm-up, never for a clock.
    """
    statistics = bpf.enable_stats()
    before = bpf.run_count(program.fd)
    try:
        yield
        seen = bpf.run_count(program.fd) - before
    finally:
        os.close(statistics)
    if 2 * seen < frames:
        raise MeasurementError(
            f"measure {program.name} at {place}: it met {seen} of {frames} frames",
            mend="is `at` on the way from `source` to `sink`? for tc, is the direction right?",
        )
