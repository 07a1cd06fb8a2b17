"""Rate: packets per second through a program, by live frames (BPF_PROG_RUN on a veth) and MLRsearch.

NDR is the highest rate without loss, PDR the highest that loses at most 0.5 %, MRR what arrives when frames are
offered as fast as they are made (see `lab.bench.search`). Generator, path and program share one core, so a rate is what
one core does with all three; the time of a packet is split among them by trials without the program, and into a
sink at the first interface, between the trials of the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.bench.isolation import isolated
from lab.bench.lane import Lane, Lanes, generator_alone, together, with_program, without_program
from lab.bench.noise import watched
from lab.bench.path import Path, counted
from lab.bench.search import GOALS, LOWEST, Bounds, Found, LoadTrial, search
from lab.errors import MeasurementError
from lab.model.measurement import Limit, Measurement, Trial
from lab.net.cable import laid

if TYPE_CHECKING:
    from lab.bpf.program import Program

METHOD = "live_frames"
NETWORKS = 3
"""Of each kind."""
MOST_S = 0.006
"""Of an unpaced trial."""
SPEED_S = 0.004
"""Of the unpaced one before each slice of a trial."""
EVERY = 3
"""Before every third trial of the search there are unpaced ones of all kinds: all see the same machine."""
ROOM = 1.2
"""Highest load that is searched, in relation to what arrived without pacing."""
FIRST_ROUNDS = 5
LATEST = 5
"""Unpaced trials that say how fast the machine is now, of the last 0.2 s."""
SPARE_NS = 1.0
"""A part of less is none."""


def measure_rate(
    program: Program,
    path: Path,
    frame: Any,
    *,
    flows: int = 1,
    above_pps: float | None = None,
    subject: str = "",
) -> Measurement:
    """NDR, PDR and MRR in packets/s of `flows` flows through the program at `path.at`, counted at `path.sink`.

    `frame` is bytes, a scapy packet, a `FrameMix`, or a function of the network that gives one. `above_pps` is the
    author's promise for the NDR. MeasurementError when the program loses more than 0.5 % at any rate; the NDR is 0.0
    when it loses less. On a pair of two hosts it is `lab.bench.wire_rate` that measures.
    """
    if laid(path.topology).cable is not None:
        from lab.bench.wire_rate import measure_wire_rate

        return measure_wire_rate(program, path, frame, flows=flows, above_pps=above_pps, subject=subject)
    with ExitStack() as stack:
        core = stack.enter_context(isolated())

        def several(*lane: Any) -> Lanes:
            make, *what = lane
            return Lanes(tuple(stack.enter_context(make(*what, frame, flows, core)) for _ in range(NETWORKS)))

        lanes = {
            "path": several(without_program, path),
            "generator": several(generator_alone, path),
            "mrr": several(with_program, program, path).alike(),
        }
        watch = stack.enter_context(watched(core))
        found, unpaced = _searched(lanes)
        noise = {**watch.noise(), "path": lanes["mrr"].each[0].settings}
        frame_bytes = lanes["mrr"].each[0].flood.frame_bytes
    check_any(program, path, found)
    subject = subject or f"{path.how}, {counted(flows)}"
    rates = Rates(
        program.name,
        subject,
        {"flows": flows, "frame_bytes": frame_bytes, "networks": len(lanes["mrr"].each)},
        found,
        unpaced,
    )
    return rates.measurement(above_pps, noise)


def _searched(lanes: Mapping[str, Lanes]) -> tuple[Found, dict[str, list[LoadTrial]]]:
    """A load is searched in relation to the speed of the machine, which changes by some percent within a second.

    It is taken from unpaced trials just before each slice, and the bounds are given at its median.
    """
    unpaced: dict[str, list[LoadTrial]] = {name: [] for name in lanes}
    under_test, speeds, trials = lanes["mrr"].each, list[float](), count()

    def take_turns() -> None:
        for name, lane in lanes.items():
            unpaced[name].append(lane.offer_most(MOST_S))

    def slice_of(lane: Lane, load: float, seconds: float) -> LoadTrial:
        unpaced["mrr"].append(lane.offer_most(SPEED_S))
        speeds.append(median(map(_sent_pps, unpaced["mrr"][-LATEST:])) / usual)
        return lane.offer(load * speeds[-1], seconds)

    def offer(load: float, seconds: float) -> LoadTrial:
        if next(trials) % EVERY == 0:
            take_turns()
        return together([slice_of(lane, load, seconds / len(under_test)) for lane in under_test])

    for _ in range(FIRST_ROUNDS):
        take_turns()
    usual = median(map(_sent_pps, unpaced["mrr"]))
    found = search(offer, ROOM * usual)
    bounds = {goal: each and each.times(median(speeds)) for goal, each in found.bounds.items()}
    return replace(found, bounds=bounds), unpaced


def _sent_pps(trial: LoadTrial) -> float:
    """What was offered, in case all of it was lost."""
    return trial.offered / trial.cpu_s


def check_any(program: Program, path: Path, found: Found) -> None:
    """MeasurementError when more is lost at every load than any goal allows."""
    if any(found.bounds.values()):
        return
    slowest = min(found.trials, key=lambda trial: trial.intended_pps)
    raise MeasurementError(
        f"measure the rate of {program.name}: at {slowest.intended_pps:,.0f} packets/s {slowest.received:,} of "
        f"{slowest.offered:,} frames came to {path.sink}",
        mend="send a frame that the program lets pass, and look at the counters of the interfaces on the path",
    )


@dataclass(frozen=True)
class Rates:
    """The trials of one search, and those without pacing by lane ("mrr", "path", "generator")."""

    program: str
    subject: str
    facts: Mapping[str, Any]
    found: Found
    unpaced: Mapping[str, list[LoadTrial]]
    method: str = METHOD
    limiting: Sequence[str] = ()
    """What limits, in words; () where generator, path and program share a core: then it is computed."""

    def measurement(self, above_pps: float | None, noise: Mapping[str, Any]) -> Measurement:
        """Everything, for the report."""
        headline = "ndr" if self.found.bounds["ndr"] else "pdr"
        bounds = self.found.bounds[headline]
        assert bounds is not None
        return Measurement(
            metric="rate",
            method=self.method,
            unit="packets/s",
            program=self.program,
            subject=self.subject,
            headline=f"{headline}_pps",
            summary=self._summary(),
            interval=(bounds.good_pps, min(bounds.bad_pps, self._highest())),
            trials=(
                _trial("with", self.found.trials, {**self.facts, "search_s": self.found.duration_s}),
                *self._unpaced_trials(),
            ),
            limit=Limit("ndr_pps", above_pps, below=False) if above_pps is not None else None,
            remarks=tuple(self._remarks()),
            noise=noise,
        )

    def _summary(self) -> dict[str, float]:
        rates = {f"{goal}_pps": _good(self.found.bounds[goal]) for goal in GOALS}
        middle = {f"{name}_pps": self._middle(name) for name in self.unpaced}
        return {**rates, **middle}

    def _middle(self, lane: str) -> float:
        return median(trial.received_pps for trial in self.unpaced[lane])

    def _gigabits(self) -> str:
        frame_bytes, (goal, bounds) = (
            self.facts["frame_bytes"],
            next(each for each in self.found.bounds.items() if each[1]),
        )
        rate = f"{_good(bounds) * frame_bytes * 8 / 1e9:,.2f} Gbit/s"
        return f"{goal.upper()} {rate} in frames of {frame_bytes:,.0f} bytes, without FCS and preamble"

    def _highest(self) -> float:
        return max(trial.intended_pps for trial in self.found.trials)

    def _unpaced_trials(self) -> list[Trial]:
        return [_trial(name, trials, self.facts) for name, trials in self.unpaced.items()]

    def _remarks(self) -> list[str]:
        offered, lost = (sum(getattr(trial, what) for trial in self.found.trials) for what in ("offered", "lost"))
        told = [
            self._gigabits(),
            f"{lost:,} of {offered:,} frames lost in {len(self.found.trials)} trials, {self.found.duration_s:.1f} s",
            *(self.limiting or (limits(*(self._middle(name) for name in ("mrr", "path", "generator"))),)),
        ]
        if self.found.cut_short:
            told.append("the search was cut short: the machine changed its speed meanwhile")
        if not self.found.bounds["ndr"]:
            told.insert(0, f"no rate without loss: frames are lost at {LOWEST * self._highest():,.0f} packets/s too")
        return told


def limits(with_pps: float, path_pps: float, generator_pps: float) -> str:
    """What takes the time of a packet, and so limits the rate: generator, path or program."""
    if not path_pps:
        return "without the program no frame arrives, so that what limits the rate is not known"
    generator = 1e9 / generator_pps
    path, program = 1e9 / path_pps - generator, 1e9 / with_pps - 1e9 / path_pps
    if program < -SPARE_NS:
        rest = 1e9 / with_pps - generator
        parts = {"the generator": generator, "the program and the rest of the path": rest}
        more = f"; without the program it would take {1e9 / path_pps:,.0f} ns"
    else:
        parts = {"the generator": generator, "the path": path, "the program": program}
        more = ""
    most = max(parts, key=lambda part: parts[part])
    shares = ", ".join(f"{part} {max(0.0, each):,.0f}" for part, each in parts.items())
    return f"{most} limits: of {1e9 / with_pps:,.0f} ns a packet, {shares}{more}"


def _good(bounds: Bounds | None) -> float:
    return bounds.good_pps if bounds else 0.0


def _trial(arm: str, trials: Sequence[LoadTrial], facts: Mapping[str, Any]) -> Trial:
    """Samples are packets received a second of CPU time, or of wall time on two hosts; the facts tell of each trial."""
    columns = ("intended_pps", "intended_s", "offered", "received", "cpu_s")
    raw = {name: [getattr(trial, name) for trial in trials] for name in columns}
    return Trial(arm, tuple(trial.received_pps for trial in trials), {**facts, **raw})
