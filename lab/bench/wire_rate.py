"""Rate on a pair of two hosts: NDR, PDR and MRR, the generator on the one, the program on the other (RFC 2544).

What came is counted where the program is, what was sent by the driver at the other end, and the time from the first
frame to the last is taken by the generator's clock alone: no two clocks are ever compared. So a figure is packets of
wall time through the host under test, and not what one core does with generator and program together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.bench.lane import FEWEST_WARM_UP
from lab.bench.path import Path, counted
from lab.bench.proof import met_by
from lab.bench.rate import ROOM, Rates, check_any
from lab.bench.search import Found, LoadTrial, search
from lab.model.journal import journal
from lab.net.cable import OutOfReach
from lab.physical.flood import WireFlood
from lab.physical.network import PhysicalNetwork
from lab.traffic.sink import Passage, Sink

if TYPE_CHECKING:
    from lab.bpf.program import Program
    from lab.model.measurement import Measurement
    from lab.traffic.sink import Counter

METHOD = "live_frames, two hosts"
UNPACED_S = 0.05
ROUNDS = 5
LONGEST_S = 15.0
"""Of a search: each trial is asked for over ssh, and waits until the counter stands still."""
TRIES, LATE = 3, 1.01
"""A trial that takes up to 1 % longer is at its load, which is as near as the search comes to a rate."""
IDLE_S = 0.2
AS_FAST = 0.95


@dataclass
class Wire:
    """The path that is up, with a flood that is ready on the other host.

    In the search `lost` frames left and did not come, `refused` ones were not taken by the generator's own interface.
    """

    network: PhysicalNetwork
    path: Path
    flood: WireFlood
    refused: int = 0
    lost: int = 0
    taken_pps: list[float] = field(default_factory=list)
    unpaced: dict[str, list[LoadTrial]] = field(default_factory=lambda: {"path": [], "generator": [], "mrr": []})

    def offer(self, pps: float, seconds: float, sink: Counter) -> LoadTrial:
        """A trial at a rate, tried again when the generator was late: then it was at another rate, and bursty.

        Frames that the driver refused were offered all the same: not in time.
        """
        for _ in range(TRIES):
            came = self.flood.run(count=max(1, round(pps * seconds)), rate_pps=pps, sink=sink)
            if came.duration_s <= LATE * seconds:
                break
        self.refused += self.flood.refused
        self.lost += came.lost
        took_s = seconds if came.duration_s <= LATE * seconds else came.duration_s
        return LoadTrial(pps, seconds, came.offered + self.flood.refused, came.received, took_s)

    def offer_most(self, name: str, sink: Counter) -> None:
        """Trials as fast as the generator goes."""
        for _ in range(ROUNDS):
            came = self.flood.run(seconds=UNPACED_S, sink=sink)
            made = came.offered + self.flood.refused
            self.taken_pps.append(came.offered / came.duration_s)
            trial = LoadTrial(made / came.duration_s, came.duration_s, made, came.received, came.duration_s)
            self.unpaced[name].append(trial)

    def offer_bare(self) -> None:
        """Without the program: into a counter at the first interface, and on the whole path."""
        here = self.network.interface(self.network.end.name)
        with Sink(here) as sink:
            self.offer_most("generator", sink)
        bare: AbstractContextManager[Counter] = Sink(here) if self.path.sink_without else nullcontext(Passage(here))
        with bare as counter:
            self.offer_most("path", counter)

    def searched(self, program: Program) -> Found:
        """With the program, which has met every flow."""
        count = max(self.flood.flows, FEWEST_WARM_UP)
        with met_by(program, count, self.path.at):
            self.flood.run(count=count)
        sink = Passage(self.network.interface(self.path.sink))
        self.offer_most("mrr", sink)
        highest_pps = ROOM * median(self.taken_pps[-ROUNDS:])
        found = search(lambda load, seconds: self.offer(load, seconds, sink), highest_pps, longest_s=LONGEST_S)
        self.offer_most("mrr", sink)
        return found

    def strays(self) -> int:
        """Frames that come to the interface though nobody here sends any."""
        here = Passage(self.network.interface(self.network.end.name))
        before = here.count()
        time.sleep(IDLE_S)
        return here.count() - before


def measure_wire_rate(
    program: Program, path: Path, frame: Any, *, flows: int = 1, above_pps: float | None = None, subject: str = ""
) -> Measurement:
    """As lab.bench.rate.measure_rate; OutOfReach unless the frames start there and the program is here."""
    from lab.traffic.network import Network

    with ExitStack() as stack:
        network = stack.enter_context(Network(path.topology))
        assert isinstance(network, PhysicalNetwork)
        _check_ends(path, network)
        if path.prepare:
            path.prepare(network)
        made = frame(network) if callable(frame) else frame
        wire = Wire(network, path, WireFlood(network, made, flows=flows))
        strays = wire.strays()
        with journal():
            wire.offer_bare()
        with path.attach(program, network), journal():
            settings = path.settings(network)
            found = wire.searched(program)
        with journal():
            wire.offer_bare()
        noise = {"path": settings, "core": _places(network), "sentence": _sentence(strays, network)}
    check_any(program, path, found)
    facts = {"flows": flows, "frame_bytes": wire.flood.frame_bytes, "networks": 1, "clock": "of the generator's host"}
    subject = subject or f"{path.how}, {counted(flows)}"
    rates = Rates(program.name, subject, facts, found, wire.unpaced, METHOD, _remarks(wire))
    return rates.measurement(above_pps, noise)


def _check_ends(path: Path, network: PhysicalNetwork) -> None:
    ends = network.interface(path.source).name, network.interface(path.at).name
    if ends != (network.far_end.name, network.end.name):
        raise OutOfReach(
            f"measure a rate from {path.source} at {path.at}: {network.end.name} alone is on this host",
            mend=f'frames start on the other: the cable\'s end here is "{path.at.partition("/")[0]}=…"',
        )


def _remarks(wire: Wire) -> Sequence[str]:
    """What limits, and what was not the program's."""
    middle = {name: median(each.received_pps for each in trials) for name, trials in wire.unpaced.items()}
    told = [
        f"unpaced, {middle['generator']:,.0f} packets/s come over into nothing but a counter, {middle['path']:,.0f} "
        f"into this host without the program, {middle['mrr']:,.0f} with it"
    ]
    if not wire.lost:
        told.append("no frame was lost at any load: the rate is the generator's, and the program may be faster")
    elif middle["mrr"] >= AS_FAST * middle["generator"]:
        told.append("the generator or the cable limits: the program may be faster")
    if wire.refused:
        told.append(f"{wire.refused:,} frames were refused by the generator's own interface, and count as not in time")
    return (*told, "frames leave in bursts, one a ms")


def _places(network: PhysicalNetwork) -> str:
    return f"generator: one thread on {network.cable.host}; program: where the interrupts of {network.cable.here} go"


def _sentence(strays: int, network: PhysicalNetwork) -> str:
    """Why the figure must not decide anything."""
    if not strays:
        return ""
    return f"{strays} frames of others came to {network.cable.here} within {IDLE_S:g} s, and would count as received"
