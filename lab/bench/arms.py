"""Paths that take turns, frame by frame: with the program under test, with an empty one in its place, and bare.

Each arm has a network of its own, made afresh for each repetition; all see the same noise, because a frame to one is
followed by a frame to another, in an order drawn by lot. Two networks of one topology differ by some 10 ns by where
their memory lies, and no number of frames through one pair of them tells that. So there are repetitions, and within one
the programs go round: each sits in the networks of all others for its share of the frames.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from lab.bench.path import Path
from lab.bench.proof import met_by
from lab.errors import MeasurementError
from lab.model.journal import journal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.bench.isolation import Core
    from lab.bpf.attachment import Attachment
    from lab.bpf.program import Program
    from lab.traffic.network import Network

WARM_UP = 100
"""Frames in each arm before those that count: caches, branch predictors, the first slow path of a neighbour."""
BURST_FRAMES = 1000
"""Of all arms together, some 5 ms: bursts must end now and then, or the kernel throttles one."""


class Probe(Protocol):
    """What takes the samples of one method in one network.

    Made before the program is attached, it puts what it needs at the source (`at_source`), and then, once the program
    is there, at the sink: what is attached first meets the frame first.
    """

    def at_source(self, stack: ExitStack) -> None:
        """Sockets and stamps where frames start."""

    def at_sink(self, stack: ExitStack) -> None:
        """Sockets and stamps where they arrive."""

    def fire(self) -> object:
        """One frame, there (and back); it has arrived, or is lost, when this returns."""

    @property
    def arrived(self) -> int:
        """Frames that arrived so far."""

    def samples(self) -> NDArray[Any]:
        """ns of each frame that arrived, in order."""

    def close(self) -> None:
        """Frees what it was made with, after all that was put at the source and the sink has gone."""


Shares = Mapping[str, Sequence["NDArray[Any]"]]
"""ns of each frame by arm, in one array for each network that the arm was in."""
ProbeMaker = Callable[["Network", Path, str], Probe]
"""Makes a probe for a network, the path through it, and the interface at which frames arrive."""


WITH, HOOK, WITHOUT, AGAIN = "with", "hook", "without", "again"
"""The program; an empty one in its place; neither; neither once more, as a check of the instrument by itself (A/A)."""
ARRIVED = {
    WITH: "with the program",
    HOOK: "with an empty program in its place",
    WITHOUT: "without the program",
    AGAIN: "without the program",
}


@dataclass(frozen=True)
class Arm:
    """What sits on the path."""

    name: str
    program: Program | None = None

    @property
    def tested(self) -> bool:
        """True for the arm of the program under test."""
        return self.name == WITH

    def loaded_again(self, stack: ExitStack) -> Arm:
        """The same with code of its own, which lies elsewhere in memory; not for a program that BCC loaded.

        Two arms that shared their code would run it twice as often, and be 12 ns faster for it.
        """
        if self.program and self.program.can_load_again:
            return replace(self, program=stack.enter_context(self.program.again()))
        return self


@dataclass
class _Place:
    """A network with its probe, and the arm that is in it now."""

    arm: Arm
    network: Network
    probe: Probe
    stack: ExitStack = field(default_factory=ExitStack)
    attachment: Attachment | None = None
    shares: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where in the samples the share of an arm begins and ends."""

    def take_in(self, path: Path, arm: Arm) -> None:
        """Another arm in place of the one that is here."""
        if arm.program and self.attachment and self.attachment.replace:
            self.attachment.update(arm.program)
        else:
            self.release()
            self.attachment = path.attach(arm.program, self.network) if arm.program else None
        self.arm = arm

    def release(self) -> None:
        """Nothing is attached here any more but the probe."""
        attachment, self.attachment = self.attachment, None
        if attachment:
            attachment.detach()


def repetition(
    path: Path,
    arms: Sequence[Arm],
    make: ProbeMaker,
    frames: int,
    core: Core,
    *,
    silent: bool = False,
    settings: list[str] | None = None,
) -> Shares:
    """ns of at least so many frames in each arm, through fresh networks, apart by the network they went through.

    MeasurementError when an arm lost frames: then its path is not what was meant to be measured. `silent` keeps the
    networks out of the journal. `settings` becomes what the path of the program was set to.
    """
    with journal() if silent else nullcontext(), _opened(path, arms, make) as places:
        if settings is not None:
            settings[:] = path.settings(next(place.network for place in places if place.arm.tested))
        rounds = len(places) if _may_move(path) else 1
        share = -(-frames // rounds)
        for round_ in range(rounds):
            if round_:
                _move_on(path, places)
            with _proof(path, places):
                _take_turns(places, WARM_UP, core)
            starts = [_arrived(path, place, round_ * (WARM_UP + share) + WARM_UP) for place in places]
            _take_turns(places, share, core)
            for place, start in zip(places, starts, strict=True):
                place.shares[place.arm.name] = (start, _arrived(path, place, start + share))
        return _by_arm(places)


def _may_move(path: Path) -> bool:
    """True when a program works in any of the networks as in its first."""
    return path.prepare is None and path.sink_without in ("", path.sink)


def _move_on(path: Path, places: Sequence[_Place]) -> None:
    """Each arm to the next network."""
    arms = [place.arm for place in places]
    with journal():
        for place, arm in zip(places, [arms[-1], *arms[:-1]], strict=True):
            place.take_in(path, arm)


@contextmanager
def _proof(path: Path, places: Iterable[_Place]) -> Iterator[None]:
    """Each program meets the frames of the warm-up; the one under test is the first to be asked."""
    with ExitStack() as stack:
        for arm in sorted((place.arm for place in places), key=lambda arm: arm.tested):
            if arm.program:
                stack.enter_context(met_by(arm.program, WARM_UP, path.at))
        yield


def _by_arm(places: Iterable[_Place]) -> Shares:
    shares: dict[str, list[NDArray[Any]]] = {}
    for place in places:
        samples = place.probe.samples()
        for name, (start, end) in place.shares.items():
            shares.setdefault(name, []).append(samples[start:end])
    return shares


@contextmanager
def _opened(path: Path, arms: Sequence[Arm], make: ProbeMaker) -> Iterator[list[_Place]]:
    """The arms, all up. Attaching and closing wait for grace periods of the kernel: the arms do it at once."""
    from lab.traffic.network import Network

    with ExitStack() as stack:
        arms = [arm.loaded_again(stack) for arm in arms]
        networks = {arm.name: stack.enter_context(Network(path.topology)) for arm in random.sample(arms, len(arms))}
        for arm in sorted(arms, key=lambda arm: arm.tested):  # what it writes to maps of the program, it writes last
            if path.prepare:
                path.prepare(networks[arm.name])
        places = []
        for arm in arms:
            sink = path.sink if arm.tested else path.sink_without or path.sink
            probe = stack.enter_context(closing(make(networks[arm.name], path, sink)))
            places.append(_Place(arm, networks[arm.name], probe))
        pool = stack.enter_context(ThreadPoolExecutor(len(arms)))
        stack.callback(lambda: list(pool.map(lambda place: place.stack.close(), places)))
        list(pool.map(lambda place: _attach(path, place), places))
        yield places


def _attach(path: Path, place: _Place) -> None:
    place.probe.at_source(place.stack)
    place.stack.callback(place.release)
    place.take_in(path, place.arm)
    place.probe.at_sink(place.stack)


def _take_turns(places: Iterable[_Place], frames: int, core: Core) -> None:
    """So many rounds, in each a frame to every arm; who follows whom is drawn by lot, so that it favours none."""
    fires = [place.probe.fire for place in places]
    rounds = max(1, BURST_FRAMES // len(fires))
    for start in range(0, frames, rounds):
        plan = [fire for _ in range(min(rounds, frames - start)) for fire in random.sample(fires, len(fires))]
        with core.burst():
            for fire in plan:
                fire()


def _arrived(path: Path, place: _Place, offered: int) -> int:
    """`offered`; MeasurementError unless as many frames arrived."""
    if place.probe.arrived == offered:
        return offered
    hidden = path.at == path.sink and place.arm.program is not None and place.arm.program.type == "sched_cls"
    raise MeasurementError(
        f"measure latency at {path.at}: {place.probe.arrived} of {offered} frames arrived {ARRIVED[place.arm.name]}",
        mend='TC_ACT_OK keeps a frame from the stamp behind it: method="user_clock", or a sink further on'
        if hidden
        else "send a frame that the program lets pass to `sink`, and name the `sink_without` of the bare path",
    )
