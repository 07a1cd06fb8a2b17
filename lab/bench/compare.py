"""Two programs against each other in one run: a duet (Bulej et al., 2020), repeated until the answer is sure.

A repetition loads both afresh, puts them into slots of one driver with an empty program, and lets them take turns
(A B B A ...) in batches of 0.05 ms. The median of the differences of neighbours is one sample. Most of what differs
between two samples is where the code happens to lie in memory, so many short repetitions tell more than a few long
ones: 100 a second. Looks come at 8, 12, 18, ... repetitions; the rule is in `lab.bench.decision`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean, median

from lab.bench.decision import Decision, Rule, decide
from lab.bench.driver import Driver, driver_for, load_instrument
from lab.bench.inference import Estimate, estimate
from lab.bench.isolation import isolated
from lab.bench.path import counted
from lab.bench.workload import Contender, Workload
from lab.bpf.loader import Loader
from lab.errors import MeasurementError
from lab.model.comparison import Comparison
from lab.model.journal import journal
from lab.model.measurement import Trial

METHOD = "prog_run duet"
BATCH_NS = 50_000
TURNS = 12
FIRST_LOOK = 8
LATER_LOOKS = 1.5
DRIVER_LASTS = 8
"""Repetitions before the driver too is loaded afresh."""
SET_UP_S = 0.02
"""A set-up that takes longer is used for several loads of its programs, with the same maps."""
MOST_LOADS = 8
CHECKED_EVERY = 50

Progress = Callable[[Decision, float, float], object]
"""Called after each look with the decision so far, its base in ns, and the seconds that have passed."""


@dataclass
class _Samples:
    """One entry a repetition, in ns a packet: both contenders without the floor, and their difference."""

    a: list[float] = field(default_factory=list)
    b: list[float] = field(default_factory=list)
    difference: list[float] = field(default_factory=list)

    def add(self, turns: dict[str, list[float]]) -> tuple[float, float, float]:
        """Of one load."""
        floor = median(turns["floor"])
        both = zip(turns["A"], turns["B"], strict=True)
        return median(turns["A"]) - floor, median(turns["B"]) - floor, median(b - a for a, b in both)

    def keep(self, loads: list[tuple[float, float, float]]) -> None:
        """The mean of the loads of one set-up is one repetition."""
        for series, values in zip((self.a, self.b, self.difference), zip(*loads, strict=True), strict=True):
            series.append(fmean(values))

    @property
    def base(self) -> float:
        """What A costs, in ns a packet."""
        return estimate(self.a).value


def compare_cost(
    a: Contender,
    b: Contender,
    *,
    flows: int = 1,
    rule: Rule | None = None,
    budget_s: float = 10.0,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """The verdict on what B costs against A, in ns a packet by BPF_PROG_RUN, both on the frame of A.

    Ends as soon as the rule is satisfied, or when the budget is spent. MeasurementError when a contender cannot be
    driven, and when they are programs of different hooks.
    """
    rule = rule or Rule()
    samples, start = _Samples(), time.monotonic()
    with journal():  # what is loaded here again and again is no news
        decision = Decision("inconclusive", Estimate(0.0, 0.0, 0.0, 0), 1)
        look = FIRST_LOOK
        for repetition, loads in enumerate(_repetitions(a, b, flows), 1):
            samples.keep(loads)
            passed = time.monotonic() - start
            spent = passed > budget_s and repetition >= FIRST_LOOK
            if repetition < look and not spent:
                continue
            look = int(look * LATER_LOOKS)
            decision = decide(samples.difference, samples.base, rule)
            progress(decision, samples.base, passed)
            if spent or not decision.is_open:
                break
    return _comparison(a, b, flows, samples, decision, rule, time.monotonic() - start)


def _repetitions(a: Contender, b: Contender, flows: int) -> Iterator[list[tuple[float, float, float]]]:
    """Without end: the samples of each set-up's loads."""
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        first = a.make(loader)
        if first.program.type != b.make(loader).program.type:
            raise MeasurementError(f"compare {a.name} with {b.name}: they are programs of different hooks")
        driver = stack.enter_context(driver_for(first.program, first.frame, flows=flows, port_bits=first.port_bits))
        duet = _Duet(driver, a, b)
        cpu = stack.enter_context(isolated())
        number = 0
        while cpu is not None:
            if number % DRIVER_LASTS == 0:
                driver.renew()
            yield duet.repetition(number)
            number += 1


class _Duet:
    """Both contenders and the floor in one driver."""

    def __init__(self, driver: Driver, a: Contender, b: Contender) -> None:
        self._driver = driver
        self._contenders = {"A": a, "B": b}
        self._rounds = 0
        self._loads = 1

    def repetition(self, number: int) -> list[tuple[float, float, float]]:
        """A fresh set-up of both, and the samples of its loads."""
        start = time.monotonic()
        with Loader() as loader:
            order = random.sample(list(self._contenders), 2)
            made = {name: self._contenders[name].make(loader) for name in order}
            set_up_s = time.monotonic() - start
            if number == 0 and set_up_s > SET_UP_S:
                self._loads = MOST_LOADS if all(each.program.can_load_again for each in made.values()) else 1
            for name in made:
                self._meet(made[name])
            return [self._load(made, load) for load in range(self._loads)]

    def _meet(self, workload: Workload) -> None:
        slot = self._driver.place(workload.program)
        self._driver.meet_every_flow(slot)
        self._driver.clear(slot)

    def _load(self, made: dict[str, Workload], load: int) -> tuple[float, float, float]:
        with ExitStack() as stack:
            programs = {name: each.program for name, each in made.items()}
            if load:
                programs = {name: stack.enter_context(each.again()) for name, each in programs.items()}
            programs["floor"] = stack.enter_context(load_instrument("empty", programs["A"]))
            slots = {name: self._driver.place(program) for name, program in programs.items()}
            self._rounds = self._rounds or self._driver.rounds_within(list(slots.values()), BATCH_NS)
            turns = self._driver.take_turns(slots, self._rounds, TURNS)
            self._driver.check(made["A"].program.name)
            for slot in slots.values():
                self._driver.clear(slot)
            return _Samples().add(turns)


def _comparison(
    a: Contender, b: Contender, flows: int, samples: _Samples, decision: Decision, rule: Rule, duration_s: float
) -> Comparison:
    difference, base = decision.difference, samples.base
    ratio = difference.times(1 / base) if base > 0 else difference.times(0)
    missing = decision.repetitions - difference.repetitions
    return Comparison(
        a=a.name,
        b=b.name,
        subject=counted(flows),
        metric="cost",
        method=METHOD,
        unit="ns/packet",
        verdict=decision.verdict,
        sentence=sentence(decision, base, rule),
        difference=(difference.value, difference.low, difference.high),
        ratio=(1 + ratio.value, 1 + ratio.low, 1 + ratio.high),
        base=base,
        confidence=rule.confidence,
        duration_s=round(duration_s, 3),
        to_be_sure_s=round(duration_s * missing / difference.repetitions, 1),
        trials=tuple(
            Trial(arm, tuple(round(each, 4) for each in values))
            for arm, values in (("A", samples.a), ("B", samples.b), ("difference", samples.difference))
        ),
        remarks=(f"{difference.repetitions} fresh loads of each",),
    )


def sentence(decision: Decision, base: float, rule: Rule) -> str:
    """ "3.1 % slower (+2.9 % to +3.3 %, 3.1 ns of 100)"."""
    found = decision.difference
    percent = found.times(100 / base) if base > 0 else found.times(0)
    interval = f"{percent.low:+.2g} % to {percent.high:+.2g} %"
    if decision.verdict in ("slower", "faster"):
        return f"{abs(percent.value):.2g} % {decision.verdict} ({interval}; {found.value:+.2f} ns on {base:.1f})"
    if decision.verdict == "no difference":
        least = 2 * rule.negligible(base)
        return f"no difference of {100 * least / base:.2g} % or more ({interval}; A costs {base:.1f} ns)"
    return f"inconclusive: {interval} ({found.value:+.2f} ns on {base:.1f})"
