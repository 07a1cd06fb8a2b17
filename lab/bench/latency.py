"""Added latency: what attaching a program adds to a path, by timestamps taken in the kernel.

Two networks of one topology are up at once, one with the program and one without. One thread sends a frame into
each in turn (with, without, without, with, ...), so that both see the same noise. A tc program stamps the frame when it
leaves the source and another when it arrives behind the program; on one CPU nothing else runs in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lab import instruments
from lab.bench.isolation import isolated
from lab.bench.path import Path
from lab.bench.proof import met_by
from lab.errors import MeasurementError
from lab.model import statistics
from lab.model.action import Direction
from lab.model.measurement import Limit, Measurement, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.bpf.program import Program

METHOD = "kernel_stamp"
WARM_UP = 200
SLOTS = 16384
"""Samples that the stamping program can hold (SAMPLES in stamp.bpf.c)."""


class _Arm:
    """One network with its stamps; `fire` sends one frame."""

    def __init__(self, stamps: Program, send: Any, frame: bytes) -> None:
        self._stamps = stamps
        self._send = send
        self._frame = frame

    def fire(self) -> None:
        self._send(self._frame)

    def samples(self) -> tuple[int, ...]:
        """ns from departure to arrival of every frame but the warm-up, in order."""
        return tuple(self._stamps.globals["samples"][WARM_UP : self.arrived])

    @property
    def arrived(self) -> int:
        return int(self._stamps.globals["arrived"])


def measure_added_latency(
    program: Program, path: Path, frame: Any, *, frames: int = 4000, below_ns: float | None = None, subject: str = ""
) -> Measurement:
    """The difference in ns, quantile by quantile, between the path with the program and the one without.

    `frame` is bytes, a scapy packet, or a function of the network that gives one. `below_ns` is the author's promise
    for p99. MeasurementError when frames were lost in an arm: then the path is not what was meant to be measured.
    """
    if not 100 <= frames <= SLOTS - WARM_UP:
        raise MeasurementError(f"measure added latency with {frames} frames: 100 to {SLOTS - WARM_UP} are possible")
    with ExitStack() as stack:
        arms = {
            "with": stack.enter_context(_arm(path, frame, program)),
            "without": stack.enter_context(_arm(path, frame, None)),
        }
        with isolated():
            with met_by(program, WARM_UP, path.at):
                _interleave(arms["with"], arms["without"], WARM_UP)
            _interleave(arms["with"], arms["without"], frames)
        for name, arm in arms.items():
            _check_arrived(name, path, arm.arrived, frames + WARM_UP)
        samples = {name: arm.samples() for name, arm in arms.items()}
    return _measurement(program, subject or path.how, samples, below_ns)


@contextmanager
def _arm(path: Path, frame: Any, program: Program | None) -> Iterator[_Arm]:
    from lab import bpf
    from lab.traffic.network import Network

    with Network(path.topology) as network, ExitStack() as stack:
        if path.prepare:
            path.prepare(network)
        if program:
            stack.enter_context(path.attach(program, network))
        stamps = stack.enter_context(bpf.load(instruments.path("stamp")))
        sink = path.sink if program else path.sink_without or path.sink
        sent, arrived = stamps.programs["stamp_sent"], stamps.programs["stamp_arrived"]
        stack.enter_context(sent.attach(network.interface(path.source), direction=Direction.EGRESS))
        stack.enter_context(arrived.attach(network.interface(sink), direction=Direction.INGRESS))
        socket = stack.enter_context(network.packet_socket(path.source))
        yield _Arm(stamps, socket.send, bytes(frame(network) if callable(frame) else frame))


def _interleave(first: _Arm, second: _Arm, frames: int) -> None:
    """One frame to each arm in turn, and the order turned about each time (A B, B A, ...)."""
    for round_ in range(frames):
        early, late = (first, second) if round_ % 2 else (second, first)
        early.fire()
        late.fire()


def _check_arrived(name: str, path: Path, arrived: int, offered: int) -> None:
    if arrived == offered:
        return
    raise MeasurementError(
        f"measure added latency at {path.at}: {arrived} of {offered} frames arrived {name} the program",
        mend="send a frame that the program lets pass to `sink`, and name the `sink_without` of the bare path",
    )


def _measurement(
    program: Program, subject: str, samples: dict[str, tuple[int, ...]], below_ns: float | None
) -> Measurement:
    ordered = {name: sorted(values) for name, values in samples.items()}
    added = {
        name: float(statistics.quantile(ordered["with"], fraction) - statistics.quantile(ordered["without"], fraction))
        for name, fraction in statistics.QUANTILES.items()
    }
    below_10us = sum(value < 10_000 for value in samples["with"]) / len(samples["with"])
    return Measurement(
        metric="added_latency",
        method=METHOD,
        unit="ns",
        program=program.name,
        subject=subject,
        headline="p50",
        summary={**added, "n": float(len(samples["with"])), "share_below_10us": below_10us},
        interval=_interval(samples),
        trials=tuple(Trial(name, values) for name, values in samples.items()),
        limit=Limit("p99", below_ns) if below_ns is not None else None,
        remarks=("one frame in flight, one CPU; p99.9 is mostly interrupts, in both arms",),
    )


def _interval(samples: Mapping[str, Sequence[int]]) -> tuple[float, float]:
    """Of the difference of medians: the intervals of both arms, taken at their worst together."""
    low, high = statistics.median_interval(samples["with"])
    bare_low, bare_high = statistics.median_interval(samples["without"])
    return low - bare_high, high - bare_low
