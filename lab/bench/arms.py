"""Paths that take turns, frame by frame: with the program under test, with an empty one in its place, and bare.

Each arm has a network of its own, made afresh for each repetition; all see the same noise, because a frame to one is
followed by a frame to another, in an order drawn by lot. Two networks of one topology differ by some 10 ns by where
their memory lies, and no number of frames through one pair of them tells that: only repetitions do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lab.bench.path import Path
from lab.bench.proof import met_by
from lab.errors import MeasurementError
from lab.model.journal import journal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.bench.isolation import Core
    from lab.bpf.program import Program
    from lab.traffic.network import Network

WARM_UP = 200
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

    def samples(self) -> NDArray[Any]:
        """ns of each frame that arrived, in order."""

    def close(self) -> None:
        """Frees what it was made with, after all that was put at the source and the sink has gone."""


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


def repetition(
    path: Path, arms: Iterable[Arm], make: ProbeMaker, frames: int, core: Core, *, silent: bool = False
) -> Mapping[str, NDArray[Any]]:
    """ns of so many frames in each arm, through fresh networks.

    MeasurementError when an arm lost frames: then its path is not what was meant to be measured. `silent` keeps the
    networks out of the journal.
    """
    with journal() if silent else nullcontext(), _opened(path, list(arms), make) as probes:
        with ExitStack() as proof:
            for program in (arm.program for arm in probes if arm.program):
                proof.enter_context(met_by(program, WARM_UP, path.at))
            _take_turns(probes.values(), WARM_UP, core)
        _take_turns(probes.values(), frames, core)
        taken = {arm.name: probe.samples() for arm, probe in probes.items()}
    for name, samples in taken.items():
        _check_arrived(path, name, len(samples), frames + WARM_UP)
    return {name: samples[WARM_UP:] for name, samples in taken.items()}


@contextmanager
def _opened(path: Path, arms: list[Arm], make: ProbeMaker) -> Iterator[dict[Arm, Probe]]:
    """The arms, all up. Attaching and closing wait for grace periods of the kernel: the arms do it at once."""
    from lab.traffic.network import Network

    with ExitStack() as stack:
        networks: dict[Arm, Network] = {}
        for arm in random.sample(arms, len(arms)):
            networks[arm] = stack.enter_context(Network(path.topology))
        for arm in sorted(arms, key=lambda arm: arm.tested):  # what it writes to maps of the program, it writes last
            if path.prepare:
                path.prepare(networks[arm])
        sinks = {arm: path.sink if arm.tested else path.sink_without or path.sink for arm in arms}
        probes = {arm: stack.enter_context(closing(make(networks[arm], path, sinks[arm]))) for arm in arms}
        pool = stack.enter_context(ThreadPoolExecutor(len(arms)))
        stacks = {arm: ExitStack() for arm in arms}
        stack.callback(lambda: list(pool.map(ExitStack.close, stacks.values())))
        list(pool.map(lambda arm: _attach(path, arm, networks[arm], probes[arm], stacks[arm]), arms))
        yield probes


def _attach(path: Path, arm: Arm, network: Network, probe: Probe, stack: ExitStack) -> None:
    probe.at_source(stack)
    if arm.program:
        stack.enter_context(path.attach(arm.program, network))
    probe.at_sink(stack)


def _take_turns(probes: Iterable[Probe], frames: int, core: Core) -> None:
    """So many rounds, in each a frame to every arm; who follows whom is drawn by lot, so that it favours none."""
    fires = [probe.fire for probe in probes]
    rounds = max(1, BURST_FRAMES // len(fires))
    for start in range(0, frames, rounds):
        plan = [fire for _ in range(min(rounds, frames - start)) for fire in random.sample(fires, len(fires))]
        with core.burst():
            for fire in plan:
                fire()


def _check_arrived(path: Path, name: str, arrived: int, offered: int) -> None:
    if arrived == offered:
        return
    raise MeasurementError(
        f"measure latency at {path.at}: {arrived} of {offered} frames arrived {ARRIVED[name]}",
        mend="send a frame that the program lets pass to `sink`, and name the `sink_without` of the bare path",
    )
