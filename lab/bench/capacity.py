"""Capacity: sessions that a program opens per second, how many it holds, and what happens when there is no more room.

Live frames, each of a flow that never came before, go through the path as fast as one core makes them, in steps, so
that it is seen whether a table that fills becomes slower. Then the same flows come once more: what a frame of a new
session costs more than one of a known session. At last 110 % of what the table has room for is offered. Nothing is
taken for a session that is not found in the program's own table afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.bench.isolation import isolated
from lab.bench.lane import Lane, generator_alone, unmet
from lab.bench.noise import watched
from lab.bench.path import Path
from lab.bench.search import LoadTrial
from lab.bpf.map import ARRAYS, Table
from lab.errors import MeasurementError
from lab.kernel import bpf
from lab.model import statistics
from lab.model.measurement import Limit, Measurement, Trial
from lab.traffic.flood import Flood

if TYPE_CHECKING:
    from lab.bpf.program import Program

METHOD = "live_frames"
STEPS = 20
IN_ORDER = (1 << 30) - 1
"""Flows: no power of two, so that they come in order and none comes twice."""
GENERATOR_S = 0.003
OVERFLOW = 1.1
MOST_ROOM = 8_000_000
"""Sessions: of a table with more room, it is not tried out how it is when it is full."""

Counters = Mapping[str, int]


@dataclass(frozen=True)
class Capacity:
    """What was found: sessions opened per second, and sessions held."""

    opened: Measurement
    held: Measurement


@dataclass(frozen=True)
class Held:
    """How many sessions there are: by a map of the program, or else by a function that tells."""

    table: Table | None
    told: Callable[[], int]

    @classmethod
    def by(cls, program: Program, held: str | Callable[[], int]) -> Held:
        """As the caller of `measure_capacity` says it."""
        if callable(held):
            return cls(None, held)
        table = program.maps[held]
        if not isinstance(table, Table):
            raise MeasurementError(f"count sessions in {held}: a {table.facts.type} has no entries", mend="a function")
        return cls(table, lambda: _entries(table))

    def keys(self) -> set[bytes] | None:
        """Of the entries of a map with keys; None where entries have no identity."""
        if self.table is None or self.table.facts.type in ARRAYS:
            return None
        width = self.table.facts.key_bytes
        batches = (keys for keys, _, _ in self.table.raw_entries())
        return {keys[at : at + width] for keys in batches for at in range(0, len(keys), width)}


def _entries(table: Table) -> int:
    """Of an array, those that are not all zero."""
    if table.facts.type not in ARRAYS:
        return len(table)
    import numpy

    rows = (numpy.frombuffer(values, numpy.uint8).reshape(count, -1) for _, values, count in table.raw_entries())
    return sum(int(each.any(axis=1).sum()) for each in rows)


@dataclass
class _Taken:
    """What the trials gave, stage by stage."""

    opening: list[LoadTrial] = field(default_factory=list)
    following: list[LoadTrial] = field(default_factory=list)
    generator: list[LoadTrial] = field(default_factory=list)
    entries: int = 0
    room: int | None = None
    overflow: LoadTrial | None = None
    entries_full: int = 0
    kept: int | None = None
    counted: Counters = field(default_factory=dict)


def measure_capacity(
    program: Program,
    path: Path,
    frame: Any,
    *,
    held: str | Callable[[], int],
    sessions: int = 1_000_000,
    room: int | None = None,
    counters: Callable[[], Counters] = dict,
    above_per_s: float | None = None,
    subject: str = "",
) -> Capacity:
    """Opens so many sessions, counts them, follows them, and offers 110 % of what there is room for.

    `held` is the map in which sessions are found afterwards, or a function that counts them. `room` is how many
    sessions there may be (None: as many as the map has entries, if `held` names one). `counters` reads counters of the
    program, verdicts say; what they count while there is no more room is told. `above_per_s` is the author's promise.
    MeasurementError when no session is found.
    """
    path.only_on_veth("capacity", "what a new session costs is told by one core that makes and handles it")
    holding = Held.by(program, held)
    taken = _Taken(room=room)
    with ExitStack() as stack:
        core = stack.enter_context(isolated())
        lane = stack.enter_context(unmet(program, path, frame, IN_ORDER, core))
        bare = stack.enter_context(generator_alone(path, frame, IN_ORDER, core))
        watch = stack.enter_context(watched(core))
        before = holding.told()
        taken.opening = _in_steps(lane, bare, sessions, taken.generator)
        taken.entries = holding.told() - before
        if taken.entries <= 0:
            raise MeasurementError(
                f"measure the capacity of {program.name}: of {sessions:,} sessions offered none is held",
                mend="is `held` the map of its sessions, and does the frame open one?",
            )
        taken.following = _in_steps(lane, bare, sessions, taken.generator)
        noise = {**watch.noise(), "path": lane.settings}
        _overflow(lane, holding, taken, sessions, counters)
    memory = {each.name: bpf.map_memory(each.fd) for each in program.maps.values()}
    figures = _Figures(program.name, subject or path.how, sessions, taken, memory)
    return Capacity(figures.opened(above_per_s, noise), figures.held())


def _in_steps(lane: Lane, bare: Lane, sessions: int, generator: list[LoadTrial]) -> list[LoadTrial]:
    """Flows from the first, each once; between the steps the generator alone, to know what of a frame's time is its."""
    _begin_at(lane, 0)
    edges = [sessions * step // STEPS for step in range(STEPS + 1)]
    trials = []
    for first, last in pairwise(edges):
        if last > first:
            trials.append(lane.offer_all(last - first))
            generator.append(bare.offer_most(GENERATOR_S))
    return trials


def _overflow(lane: Lane, holding: Held, taken: _Taken, sessions: int, counters: Callable[[], Counters]) -> None:
    """110 % of the room, from the first flow that did not come yet; which entries were there before and still are."""
    if taken.room is None and holding.table is not None:
        taken.room = holding.table.facts.max_entries * sessions // taken.entries
    if taken.room is None or taken.room > MOST_ROOM:
        return
    rest = int(OVERFLOW * taken.room) - sessions
    if rest <= 0:
        return
    old, before = holding.keys(), counters()
    _begin_at(lane, sessions)
    taken.overflow = lane.offer_all(rest)
    taken.counted = {name: number - before.get(name, 0) for name, number in counters().items()}
    taken.entries_full = holding.told()
    if old is not None:
        taken.kept = len(old & (holding.keys() or set()))


def _begin_at(lane: Lane, flow: int) -> None:
    assert isinstance(lane.flood, Flood)
    lane.flood.begin_at(flow)


@dataclass(frozen=True)
class _Figures:
    """From trials to measurements."""

    program: str
    subject: str
    sessions: int
    taken: _Taken
    memory: Counters

    def opened(self, above_per_s: float | None, noise: Mapping[str, Any]) -> Measurement:
        """Sessions per second; the samples are the steps, from the empty table to the full one."""
        taken = self.taken
        share = min(1.0, taken.entries / self.sessions)  # of the flows offered, as sessions or more entries of each
        opening = [share * trial.received_pps for trial in taken.opening]
        facts = {"sessions": self.sessions, "entries": taken.entries}
        return Measurement(
            metric="sessions_opened",
            method=METHOD,
            unit="sessions/s",
            program=self.program,
            subject=f"{self.subject}, {self.sessions:,} sessions",
            headline="p50",
            summary=statistics.percentiles(opening),
            interval=statistics.median_interval(opening),
            trials=(
                _trial("with", taken.opening, facts),
                _trial("known sessions", taken.following, facts),
                _trial("generator", taken.generator, facts),
            ),
            limit=Limit("p50", above_per_s, below=False) if above_per_s is not None else None,
            remarks=(self._time(), self._cost()),
            noise=noise,
        )

    def held(self) -> Measurement:
        """Sessions found in the table; exact numbers, counted once."""
        taken = self.taken
        summary = {"offered": self.sessions, "entries": taken.entries}
        remarks = [f"{taken.entries:,} entries of {self.sessions:,} sessions", self._memory()]
        if taken.overflow is not None:
            summary |= {"room": taken.room or 0, "entries_full": taken.entries_full}
            remarks += self._full(taken.overflow)
        facts = {"memory_bytes": dict(self.memory), "counters": dict(taken.counted)}
        return Measurement(
            metric="sessions_held",
            method=METHOD,
            unit="sessions",
            program=self.program,
            subject=f"{self.subject}, {self.sessions:,} sessions",
            headline="entries",
            summary={name: float(number) for name, number in summary.items()},
            interval=(float(taken.entries), float(taken.entries)),
            trials=(Trial("with", (float(taken.entries),), facts),),
            remarks=tuple(remarks),
        )

    def _time(self) -> str:
        passed = sum(trial.cpu_s for trial in self.taken.opening)
        return f"{self.sessions:,} new flows in {passed:.3f} s, what the generator and the path take included"

    def _cost(self) -> str:
        made, known, bare = (
            1e9 / median(trial.received_pps for trial in trials)
            for trials in (self.taken.opening, self.taken.following, self.taken.generator)
        )
        return (
            f"a frame of a new session takes {made:,.0f} ns, of a known one {known:,.0f} ns, of which the generator "
            f"takes {bare:,.0f} ns: opening costs {made - known:,.0f} ns"
        )

    def _memory(self) -> str:
        total = sum(self.memory.values())
        most = ", ".join(
            f"{name} {size / 2**20:,.1f}" for name, size in sorted(self.memory.items(), key=lambda each: -each[1])[:3]
        )
        return f"its maps take {total / 2**20:,.1f} MiB of the kernel's memory ({most})"

    def _full(self, overflow: LoadTrial) -> list[str]:
        taken = self.taken
        told = [
            f"at 110 % of its room for {taken.room:,} sessions it holds {taken.entries_full:,} entries; "
            f"{overflow.received:,} of {overflow.offered:,} frames came through meanwhile"
        ]
        if taken.kept is not None:
            told.append(f"{taken.kept:,} of the {taken.entries:,} entries from before are still there")
        counted = {name: number for name, number in taken.counted.items() if number}
        if counted:
            told.append("counted meanwhile: " + ", ".join(f"{name} {number:,}" for name, number in counted.items()))
        return told


def _trial(arm: str, trials: Sequence[LoadTrial], facts: Mapping[str, Any]) -> Trial:
    columns = ("offered", "received", "cpu_s")
    raw = {name: [getattr(trial, name) for trial in trials] for name in columns}
    return Trial(arm, tuple(trial.received_pps for trial in trials), {**facts, **raw})
