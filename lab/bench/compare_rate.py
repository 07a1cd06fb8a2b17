"""Two programs against each other by what a packet takes on a path: a duet of live frames.

A repetition loads both afresh and lets them take turns (A B B A ...) on one network, in slots of one program that is
attached in their place (lab/instruments/switch_*.bpf.c): a tail call more for both. Frames are offered as fast as one
core goes, in blocks of 0.3 ms, and a figure is CPU time by frames received, generator and path included.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from lab.bench.compare import Progress, base_of, comparison, looks, unshared_noise
from lab.bench.decision import Rule
from lab.bench.driver import load_instrument
from lab.bench.duet import SLOW, Sample
from lab.bench.isolation import Core, isolated
from lab.bench.lane import FEWEST_WARM_UP, Lane, unmet
from lab.bench.noise import watched
from lab.bench.path import Path, counted
from lab.bench.proof import met_by
from lab.bench.search import LoadTrial
from lab.bench.workload import Contender
from lab.bpf.loader import Loader
from lab.errors import MeasurementError
from lab.model.comparison import Comparison
from lab.model.journal import journal

if TYPE_CHECKING:
    from lab.bpf.program import Program

METHOD = "live_frames duet"
BLOCK_NS = 300_000
TURNS = 40
"""Blocks of each in a repetition."""
RULE = Rule(resolution=0.015)
SLOTS = 64
"""SLOTS of lab/instruments/switch_*.bpf.c."""


def compare_rate(
    a: Contender,
    b: Contender,
    path: Path,
    *,
    flows: int = 1,
    rule: Rule = RULE,
    budget_s: float = 10.0,
    title: str = "",
    progress: Progress = lambda *_: None,
) -> Comparison:
    """The verdict on what a packet takes on the path with B against A, in ns, both with the frames of A.

    It ends as soon as the rule is satisfied, or when the budget is spent. MeasurementError when nothing arrives, when
    the program meets no frame, and where the two are neither XDP nor tc programs, or of different sections.
    """
    path.only_on_veth("a comparison of rates", "a packet's time is that of one core, which both programs share")
    samples: list[Sample] = []
    start = time.monotonic()
    with journal(), isolated() as core, watched(core) as watch:
        for decision in looks(_repetitions(a, b, path, flows, core), samples, rule, budget_s):
            progress(decision, base_of(samples), time.monotonic() - start)
    subject = ", ".join(filter(None, (title, path.how, counted(flows))))
    noise = unshared_noise(watch.noise(), samples)
    found = comparison((a.name, b.name, subject), samples, decision, rule, time.monotonic() - start, noise)
    return replace(found, metric="rate", method=METHOD)


def _repetitions(a: Contender, b: Contender, path: Path, flows: int, core: Core) -> Iterator[Sample]:
    """Without end: a sample of each fresh load of both, all on one network."""
    with Loader() as loader, ExitStack() as stack:
        first = a.make(loader)
        switch = stack.enter_context(load_instrument("switch", first.program))
        switch.maps["targets"][0] = first.program
        lane = stack.enter_context(unmet(switch, path, first.frame, flows, core))
        with met_by(switch, FEWEST_WARM_UP, path.at):
            lane.flood.run(count=FEWEST_WARM_UP)
        while True:
            with Loader() as fresh:
                made = {name: each.make(fresh).program for name, each in random.sample([("A", a), ("B", b)], 2)}
                with _Duet(lane, switch, made) as duet:
                    yield duet.sample()


class _Duet:
    """Both programs in slots that are drawn by lot: neighbours, taken in order, made one of two equals slower."""

    def __init__(self, lane: Lane, switch: Program, programs: dict[str, Program]) -> None:
        self._lane = lane
        self._globals, self._targets = switch.globals, switch.maps["targets"]
        self._slots = dict(zip(programs, random.sample(range(SLOTS), len(programs)), strict=True))
        for name, program in programs.items():
            self._targets[self._slots[name]] = program

    def __enter__(self) -> _Duet:
        return self

    def __exit__(self, *_: object) -> None:
        """A program in a slot is kept by the kernel with all of its maps, whoever closes it."""
        for slot in self._slots.values():
            del self._targets[slot]

    def sample(self) -> Sample:
        """Turns in one burst, after each has met all flows."""
        frames = min(self._meet_flows(name) for name in self._slots)
        blocks: dict[str, list[float]] = {"A": [], "B": []}
        with self._lane.core.burst(), self._lane.blocks() as block:
            for turn in range(TURNS):
                for name in "AB" if turn % 2 else "BA":
                    self._globals["slot"] = self._slots[name]
                    blocks[name].append(_ns_each(block(frames)))
        return _sample(blocks)

    def _meet_flows(self, name: str) -> int:
        """Gives how many frames make a block."""
        self._globals["slot"] = self._slots[name]
        ns_each = _ns_each(self._lane.offer_all(max(self._lane.flood.flows, FEWEST_WARM_UP)))
        return max(1, int(BLOCK_NS / ns_each))


def _ns_each(trial: LoadTrial) -> float:
    if not trial.received:
        raise MeasurementError(
            f"compare rates: none of {trial.offered:,} frames came to the sink of the path",
            mend="send a frame that both programs let pass",
        )
    return 1e9 * trial.cpu_s / trial.received


def _sample(blocks: dict[str, list[float]]) -> Sample:
    middles = {name: median(each) for name, each in blocks.items()}
    slow = [block > SLOW * middles[name] for name, each in blocks.items() for block in each]
    return Sample(
        a=middles["A"],
        b=middles["B"],
        difference=median(b - a for a, b in zip(blocks["A"], blocks["B"], strict=True)),
        slow=sum(slow) / len(slow),
    )
