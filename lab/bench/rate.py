"""Rate: packets per second that a program processes without loss, by live frames (BPF_PROG_RUN on a veth).

RFC 2544, section 26.1, in small: a trial offers frames at a rate for a fixed time and counts what the interface under
the program received; the rate is halved between the highest without loss and the lowest with, and the rate found is
confirmed by further trials, which are the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lab.bench.isolation import isolated
from lab.bench.path import Path, counted
from lab.bench.proof import met_by
from lab.errors import MeasurementError
from lab.model import statistics
from lab.model.delivery import Delivery
from lab.model.journal import journal
from lab.model.measurement import Limit, Measurement, Trial

if TYPE_CHECKING:
    from lab.bpf.program import Program

METHOD = "live_frames"
SEARCH_STEPS = 6
LOWERED = 30


def measure_rate(
    program: Program,
    path: Path,
    frame: Any,
    *,
    flows: int = 1,
    trial_s: float = 0.05,
    trials: int = 9,
    above_pps: float | None = None,
    subject: str = "",
) -> Measurement:
    """Packets per second of `flows` flows through the program at `path.at`, none lost.

    `frame` is bytes, a scapy packet, or a function of the network that gives one. `above_pps` is the author's promise
    for the median. Everything runs on one CPU: generator and program share it, so this is what one core does.
    MeasurementError when even a slow stream loses frames.
    """
    from lab.traffic.network import Network

    with Network(path.topology) as network:
        if path.prepare:
            path.prepare(network)
        template = frame(network) if callable(frame) else frame

        def offer(rate_pps: float | None) -> Delivery:
            return network.flood(path.source, template, flows=flows, seconds=trial_s, rate_pps=rate_pps)

        with path.attach(program, network), isolated(), journal():  # trials are no scenarios: their notes are dropped
            count = max(flows, 1000)
            with met_by(program, count, path.at):  # and every flow is known before the clock starts
                network.flood(path.source, template, flows=flows, count=count)
            highest = offer(None)
            rate = _without_loss(offer, path, highest)
            kept = _confirmed(offer, path, rate, trials)
    return _measurement(program, subject or f"{path.how}, {counted(flows)}", flows, kept, highest, above_pps)


def _without_loss(offer: Callable[[float | None], Delivery], path: Path, highest: Delivery) -> float | None:
    """The highest rate without loss: None (as fast as it goes) when the unpaced trial lost nothing."""
    if not highest.lost:
        return None
    low, high = 0.0, highest.offered / highest.duration_s
    for _ in range(SEARCH_STEPS):
        rate = (low + high) / 2
        if offer(rate).lost:
            high = rate
        else:
            low = rate
    if not low:
        raise MeasurementError(
            f"measure the rate from {path.source}: {high:,.0f} packets/s still lose frames",
            mend="look at the counters of the interfaces on the path: is one without a receiver for XDP_TX?",
        )
    return low


def _confirmed(
    offer: Callable[[float | None], Delivery], path: Path, rate_pps: float | None, trials: int
) -> list[Delivery]:
    """Trials in a row without loss; a rate that loses a frame after all is lowered by 2 %."""
    for _ in range(LOWERED):
        kept: list[Delivery] = []
        while len(kept) < trials:
            latest = offer(rate_pps)
            if latest.lost:
                rate_pps = 0.98 * (rate_pps or latest.offered / latest.duration_s)
                break
            kept.append(latest)
        else:
            return kept
    raise MeasurementError(
        f"measure the rate from {path.source}: {rate_pps or 0:,.0f} packets/s lose frames now and then",
        mend="something else wants this CPU: look at the load, or give longer trials",
    )


def _measurement(
    program: Program, subject: str, flows: int, kept: list[Delivery], highest: Delivery, above_pps: float | None
) -> Measurement:
    rates = tuple(each.rate_pps for each in kept)
    lost = sum(each.lost for each in kept)
    facts = {"flows": flows, "offered": sum(each.offered for each in kept), "lost": lost}
    return Measurement(
        metric="rate",
        method=METHOD,
        unit="packets/s",
        program=program.name,
        subject=subject,
        headline="p50",
        summary={**statistics.percentiles(rates), "unpaced_pps": highest.rate_pps, "lost": float(lost)},
        interval=statistics.median_interval(rates),
        trials=(Trial("with", rates, facts),),
        limit=Limit("p50", above_pps, below=False) if above_pps is not None else None,
        remarks=(
            f"{lost} of {facts['offered']:,} frames lost in {len(kept)} trials; one CPU for generator and program",
        ),
    )
