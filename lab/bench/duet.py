"""One repetition of a comparison: both contenders set up anew, and turns taken with an empty program."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from statistics import fmean, median
from typing import TYPE_CHECKING

from lab.bench.driver import Driver, driver_for, load_instrument
from lab.bench.isolation import Core
from lab.bench.workload import Contender, Workload
from lab.bpf.loader import Loader
from lab.errors import NotComparable

if TYPE_CHECKING:
    from lab.bpf.program import Program

BATCH_NS = 50_000
TURNS = 12
DRIVER_LASTS = 8
"""Repetitions before the driver too is loaded afresh."""
DEAR_S = 0.02
"""A set-up that takes longer serves for several loads of its programs, with the same maps, in as much time again."""
MOST_LOADS = 8
SLOW = 1.5
"""Times the median of its series: a batch that something came into."""


@dataclass(frozen=True)
class Sample:
    """What A and B cost and the median of the differences B - A of neighbours, in ns a packet; the share of batches
    that something came into.
    """

    a: float
    b: float
    difference: float
    slow: float


def repetitions(a: Contender, b: Contender, flows: int, core: Core) -> Iterator[Sample]:
    """Without end: a sample of each fresh set-up, both on the frame of A.

    MeasurementError when a contender cannot be driven, and when they are programs of different hooks.
    """
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        first = a.make(loader)
        if first.program.type != b.make(loader).program.type:
            raise NotComparable(f"compare {a.name} with {b.name}: they are programs of different hooks")
        driver = stack.enter_context(driver_for(first.program, first.frame, flows=flows, port_bits=first.port_bits))
        duet = _Duet(driver, core, a, b)
        for number in count():
            if number % DRIVER_LASTS == 0:
                driver.renew()
            yield duet.repetition()


class _Duet:
    """Both contenders and the floor in one driver."""

    def __init__(self, driver: Driver, core: Core, a: Contender, b: Contender) -> None:
        self._driver = driver
        self._core = core
        self._contenders = {"A": a, "B": b}
        self._rounds = 0

    def repetition(self) -> Sample:
        """The mean of the loads of one set-up; which contender is loaded first is drawn by lot."""
        start = time.monotonic()
        with Loader() as loader:
            order = random.sample(list(self._contenders), 2)
            made = {name: self._contenders[name].make(loader) for name in order}
            for each in made.values():
                self._meet_flows(each)
            set_up_s = time.monotonic() - start
            samples = [self._take_turns({name: each.program for name, each in made.items()})]
            if set_up_s > DEAR_S and all(each.program.can_load_again for each in made.values()):
                samples += self._further(made, set_up_s)
        return Sample(*(fmean(getattr(each, name) for each in samples) for name in ("a", "b", "difference", "slow")))

    def _further(self, made: dict[str, Workload], budget_s: float) -> Iterator[Sample]:
        end = time.monotonic() + budget_s
        for _ in range(1, MOST_LOADS):
            if time.monotonic() > end:
                return
            with ExitStack() as stack:
                yield self._take_turns({name: stack.enter_context(each.program.again()) for name, each in made.items()})

    def _meet_flows(self, workload: Workload) -> None:
        with self._placed({"one": workload.program}) as slots:
            self._driver.meet_every_flow(slots["one"])

    def _take_turns(self, programs: dict[str, Program]) -> Sample:
        with load_instrument("empty", programs["A"]) as floor, self._placed({**programs, "floor": floor}) as slots:
            self._rounds = self._rounds or self._driver.rounds_within(list(slots.values()), BATCH_NS)
            met = self._driver.come_to_rest([slots["A"], slots["B"]])
            with self._core.burst():
                turns = self._driver.take_turns(slots, self._rounds, max(TURNS, met // self._rounds))
            self._driver.check(programs["A"].name)
        return _sample(turns)

    @contextmanager
    def _placed(self, programs: dict[str, Program]) -> Iterator[dict[str, int]]:
        slots = {name: self._driver.place(program) for name, program in programs.items()}
        try:
            yield slots
        finally:
            for slot in slots.values():
                self._driver.clear(slot)


def _sample(turns: dict[str, list[float]]) -> Sample:
    middles = {name: median(batches) for name, batches in turns.items()}
    slow = [batch > SLOW * middles[name] for name, batches in turns.items() for batch in batches]
    return Sample(
        a=middles["A"] - middles["floor"],
        b=middles["B"] - middles["floor"],
        difference=median(b - a for a, b in zip(turns["A"], turns["B"], strict=True)),
        slow=sum(slow) / len(slow),
    )
