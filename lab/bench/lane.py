"""A network that is offered frames again and again: with the program under test, without it, or nothing but a sink."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.bench.path import Path
from lab.bench.proof import met_by
from lab.bench.search import LoadTrial
from lab.model.delivery import Delivery
from lab.model.journal import journal
from lab.traffic.flood import AnyFlood, Flood
from lab.traffic.mixed_flood import FrameMix, MixedFlood
from lab.traffic.sink import Passage, Sink

if TYPE_CHECKING:
    from lab.bench.isolation import Core
    from lab.bpf.program import Program
    from lab.traffic.network import Network
    from lab.traffic.sink import Counter

FEWEST_WARM_UP = 1000


@dataclass(frozen=True)
class Lane:
    """Frames of `flood`, counted by `sink`; every trial is one real-time burst of `core`.

    `settings` are those of a path with a program (`Path.settings`).
    """

    flood: AnyFlood
    sink: Counter
    core: Core
    settings: Sequence[str] = ()

    def offer(self, pps: float, seconds: float) -> LoadTrial:
        """A trial at a rate."""
        with self.core.burst():
            came = self.flood.run(count=max(1, round(pps * seconds)), rate_pps=pps, sink=self.sink)
        return LoadTrial(pps, seconds, came.offered, came.received, came.cpu_s)

    def offer_all(self, count: int) -> LoadTrial:
        """So many frames as fast as the core goes."""
        with self.core.burst():
            return _most(self.flood.run(count=count, sink=self.sink))

    def offer_most(self, seconds: float) -> LoadTrial:
        """A trial as fast as the core goes."""
        with self.core.burst():
            return _most(self.flood.run(seconds=seconds, sink=self.sink))

    @contextmanager
    def blocks(self) -> Iterator[Callable[[int], LoadTrial]]:
        """Offers blocks of less than a ms, each counted at once: a frame still under way counts in the next block."""
        assert isinstance(self.flood, Flood)
        flood, count = self.flood, self.sink.count

        def offer(frames: int) -> LoadTrial:
            before, start = count(), time.thread_time()
            flood.make(frames)
            cpu_s = time.thread_time() - start
            return LoadTrial(frames / cpu_s, cpu_s, frames, count() - before, cpu_s)

        with flood.making():
            yield offer


@dataclass(frozen=True)
class Lanes:
    """Several of one kind. A trial is made of slices on each: where memory lies makes one faster than another."""

    each: tuple[Lane, ...]

    def offer_most(self, seconds: float) -> LoadTrial:
        """A trial as fast as the core goes."""
        return together([lane.offer_most(seconds / len(self.each)) for lane in self.each])

    def alike(self) -> Lanes:
        """Those on which as many frames arrive as on the last one.

        A program may hold something of one network, of the last that was prepared: an interface in a devmap, say.
        """
        came = [lane.offer_all(FEWEST_WARM_UP).received for lane in self.each]
        near = [abs(each - came[-1]) <= FEWEST_WARM_UP / 100 for each in came]
        return Lanes(tuple(lane for lane, alike in zip(self.each, near, strict=True) if alike))


def together(slices: Sequence[LoadTrial]) -> LoadTrial:
    """One trial of several; its load is their mean."""
    seconds = sum(each.intended_s for each in slices)
    return LoadTrial(
        intended_pps=sum(each.intended_pps * each.intended_s for each in slices) / seconds,
        intended_s=seconds,
        offered=sum(each.offered for each in slices),
        received=sum(each.received for each in slices),
        cpu_s=sum(each.cpu_s for each in slices),
    )


def _most(came: Delivery) -> LoadTrial:
    """The load is the one that the core was up to."""
    return LoadTrial(came.offered / came.cpu_s, came.cpu_s, came.offered, came.received, came.cpu_s)


@contextmanager
def with_program(program: Program, path: Path, frame: Any, flows: int, core: Core) -> Iterator[Lane]:
    """The path with the program, which has met every flow. MeasurementError if it met none."""
    with unmet(program, path, frame, flows, core) as lane:
        count = max(flows, FEWEST_WARM_UP)
        with met_by(program, count, path.at):
            lane.flood.run(count=count)
        yield lane


@contextmanager
def unmet(program: Program, path: Path, frame: Any, flows: int, core: Core) -> Iterator[Lane]:
    """The path with the program, which has met no frame yet; the network is noted in the journal, trials are not."""
    from lab.traffic.network import Network

    with Network(path.topology) as network:
        flood = _flood(network, path, frame, flows)
        with flood, path.attach(program, network), _counted(network, path.sink, path.at) as sink, journal():
            yield Lane(flood, sink, core, path.settings(network))


@contextmanager
def without_program(path: Path, frame: Any, flows: int, core: Core) -> Iterator[Lane]:
    """The same path, where nothing is attached; at `path.sink_without`, if there is one, frames are taken away."""
    from lab.traffic.network import Network

    with journal(), Network(path.topology) as network:
        flood = _flood(network, path, frame, flows)
        with flood, _counted(network, path.sink_without or path.sink, "" if path.sink_without else path.at) as sink:
            yield Lane(flood, sink, core)


@contextmanager
def generator_alone(path: Path, frame: Any, flows: int, core: Core) -> Iterator[Lane]:
    """Frames end where they first arrive."""
    from lab.traffic.network import Network

    with journal(), Network(path.topology) as network:
        flood = _flood(network, path, frame, flows)
        with flood, Sink(flood.source.peer) as sink:
            yield Lane(flood, sink, core)


def _flood(network: Network, path: Path, frame: Any, flows: int) -> AnyFlood:
    if path.prepare:
        path.prepare(network)
    source, made = network.interface(path.source), frame(network) if callable(frame) else frame
    if isinstance(made, FrameMix):
        return MixedFlood(source, made, flows=flows)
    return Flood(source, made, flows=flows)


@contextmanager
def _counted(network: Network, sink: str, at: str) -> Iterator[Counter]:
    """The lab's sink at the end of the path; where the program sits it would be in the way, so there it only counts."""
    interface = network.interface(sink)
    if at and network.interface(at).name == interface.name:
        yield Passage(interface)
        return
    with Sink(interface) as counting:
        yield counting
