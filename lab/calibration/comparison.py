"""Slowdowns that were put in on purpose, and equals: what the comparison says of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from lab import instruments
from lab.bench.compare import compare_cost
from lab.bench.decision import Rule
from lab.bench.workload import Contender, Workload
from lab.bpf.loader import Loader
from lab.contest.frames import frame_named
from lab.model.calibration import Bar
from lab.model.comparison import Comparison

EQUALS = 200
PROGRAMS_NS = (30, 100, 400)
TRUTH = Rule(resolution=1e-9, least=1e-9)
TRUTH_S = 1.5
TRIED = 6


@dataclass(frozen=True)
class Slowdown:
    """So much more work for a program that costs so much, how often it is tried, and what must come of it."""

    program_ns: int
    added: float
    unit: str
    runs: int
    found_at_least: int
    within_s: float

    @property
    def added_ns(self) -> float:
        """What is to be added to each packet."""
        return self.added if self.unit == "ns" else self.program_ns * self.added / 100

    @property
    def what(self) -> str:
        """ "+1 % of a 400 ns program"."""
        return f"+{self.added:g} {self.unit} on a {self.program_ns} ns program"


SLOWDOWNS = (
    Slowdown(400, 1, "%", 100, 99, 2.0),
    Slowdown(100, 3, "%", 100, 99, 2.0),
    Slowdown(30, 1, "ns", 100, 90, 10.0),
    Slowdown(400, 2, "%", 20, 20, 2.0),
    Slowdown(400, 5, "%", 20, 20, 2.0),
    Slowdown(100, 10, "%", 20, 20, 2.0),
)


def bars() -> Iterator[Bar]:
    """Equals are equal, slowdowns are found: about three minutes."""
    rounds = {ns: rounds_for(ns) for ns in PROGRAMS_NS}
    yield _equals(rounds)
    for slowdown in SLOWDOWNS:
        yield _found(slowdown, rounds[slowdown.program_ns])


def burning(rounds: int) -> Contender:
    """A program whose work is a number of multiplications."""
    frame = frame_named("udp4")

    def make(loader: Loader) -> Workload:
        return Workload(loader.load(instruments.path("burn_xdp"), program="burn_xdp", rounds=rounds), frame)

    return Contender(f"{rounds} rounds", make)


def rounds_for(ns: float) -> int:
    """How many rounds cost about so much on this machine: measured, and narrowed down by halves."""
    low, high = 0, int(3 * ns) + 50
    while high - low > 1:
        middle = (low + high) // 2
        cost = compare_cost(burning(middle), burning(middle), rule=TRUTH, budget_s=0.05).base
        low, high = (middle, high) if cost < ns else (low, middle)
    return high


def _equals(rounds: dict[int, int]) -> Bar:
    start = time.monotonic()
    verdicts: dict[str, int] = {}
    widest = 0.0
    for number in range(EQUALS):
        same = burning(rounds[PROGRAMS_NS[number % len(PROGRAMS_NS)]])
        found = compare_cost(same, same)
        verdicts[found.verdict] = verdicts.get(found.verdict, 0) + 1
        widest = max(widest, abs(found.difference[0]))
    different = verdicts.get("slower", 0) + verdicts.get("faster", 0)
    return Bar(
        what=f"A against A, programs of {', '.join(map(str, PROGRAMS_NS))} ns",
        bar=f"0 of {EQUALS} declared different",
        reached=f"{different} of {EQUALS}; {verdicts.get('inconclusive', 0)} inconclusive; "
        f"at most {widest:.2f} ns apart",
        held=different == 0,
        duration_s=round(time.monotonic() - start, 1),
        data={"verdicts": verdicts},
    )


def _found(slowdown: Slowdown, rounds: int) -> Bar:
    start = time.monotonic()
    slower, true_ns = _slower_by(slowdown.added_ns, rounds)
    runs = [compare_cost(burning(rounds), burning(slower), budget_s=slowdown.within_s) for _ in range(slowdown.runs)]
    found = sum(run.verdict == "slower" for run in runs)
    seconds = [run.duration_s for run in runs]
    return Bar(
        what=slowdown.what,
        bar=f"{slowdown.found_at_least} of {slowdown.runs} found, within {slowdown.within_s:g} s each",
        reached=f"{found} of {slowdown.runs}; half of them within {median(seconds):.2f} s, all within "
        f"{max(seconds):.2f} s; {_told(runs, true_ns)}",
        held=found >= slowdown.found_at_least,
        duration_s=round(time.monotonic() - start, 1),
        data={"true_ns": true_ns, **_data(runs)},
    )


def _slower_by(ns: float, rounds: int) -> tuple[int, float]:
    """A number of rounds that adds about so much, and what it really adds: measured, not counted."""
    more = max(1, round(ns))
    for _ in range(TRIED):
        added = _truth(rounds, rounds + more)
        if 0.85 * ns <= added <= 1.2 * ns:
            break
        guess = round(more * ns / max(added, 0.2))
        more = max(1, guess if guess != more else more + (1 if added < ns else -1))
    return rounds + more, added


def _truth(rounds: int, slower: int) -> float:
    return compare_cost(burning(rounds), burning(slower), rule=TRUTH, budget_s=TRUTH_S).difference[0]


def _told(runs: list[Comparison], true_ns: float) -> str:
    seen = [run.difference[0] for run in runs]
    return f"{fmean(seen):.2f} ± {stdev(seen):.2f} ns seen, {true_ns:.2f} ns true"


def _data(runs: list[Comparison]) -> dict[str, Any]:
    return {
        "difference_ns": [round(run.difference[0], 3) for run in runs],
        "base_ns": [round(run.base, 2) for run in runs],
        "duration_s": [run.duration_s for run in runs],
        "verdict": [run.verdict for run in runs],
    }
