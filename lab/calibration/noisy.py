"""Comparisons beside a busy neighbour on the same core: right or inconclusive, never wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lab.bench.compare import compare_cost
from lab.calibration.comparison import burning, rounds_for
from lab.kernel.process import dying_with_the_lab
from lab.model.calibration import Bar

RUNS = 100
PROGRAM_NS = 100
ADDED = 0.04
BUDGET_S = 2.0
RIGHT = {"equal": "no difference", "slower": "slower", "faster": "faster"}


def bars() -> Iterator[Bar]:
    """Equals, a slower and a faster program in turn, all while another process burns the same CPU: half a minute."""
    start = time.monotonic()
    rounds = rounds_for(PROGRAM_NS)
    plain, burdened = burning(rounds), burning(rounds + round(2 * ADDED * PROGRAM_NS))
    pairs = {"equal": (plain, plain), "slower": (plain, burdened), "faster": (burdened, plain)}
    right = wrong = open_ = 0
    with _one_cpu() as cpu, _busy_neighbour(cpu):
        for number in range(RUNS):
            case = list(pairs)[number % len(pairs)]
            verdict = compare_cost(*pairs[case], budget_s=BUDGET_S).verdict
            right += verdict == RIGHT[case]
            open_ += verdict == "inconclusive"
            wrong += verdict not in (RIGHT[case], "inconclusive")
    yield Bar(
        what="A busy neighbour on the same core",
        bar=f"{RUNS} of {RUNS} right or inconclusive",
        reached=f"{right} right, {open_} inconclusive, {wrong} wrong",
        held=wrong == 0,
        duration_s=round(time.monotonic() - start, 1),
        data={"right": right, "inconclusive": open_, "wrong": wrong},
    )


@contextmanager
def _one_cpu() -> Iterator[int]:
    """The measuring thread may use no other CPU than this."""
    before = os.sched_getaffinity(0)
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _busy_neighbour(cpu: int) -> Iterator[None]:
    """A process that wants all of that CPU; it dies with the lab."""
    code = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], preexec_fn=dying_with_the_lab()) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()
