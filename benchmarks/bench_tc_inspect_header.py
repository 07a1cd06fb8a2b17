"""What tc_inspect_header costs: ns per packet that is filtered out, not sampled, or told, and what it adds to a way."""

from __future__ import annotations

from typing import Any

import pytest

from lab import Direction, Topology
from lab.bench.driver import load_instrument
from lab.bench.path import Path
from lab.bench.workload import Workload
from lab.bpf.companion import companion
from lab.model import statistics
from lab.model.measurement import Measurement, Trial
from lab.traffic import frames

inspect = companion("tc_inspect_header")

PAIR = Topology.pair("client", "server")
PATH = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", direction=Direction.INGRESS)
FLOWS = (1, 4_096, 65_536, 1_048_576)
EVENTS = 4_000
"""Told in one go: as many as the ring buffer has room for, so that none is lost."""
ROUNDS = 12
OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 9)), ("NOP", None), ("WScale", 7)]
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


def datagram(ip: int) -> Any:
    """64 bytes over IPv4, 84 over IPv6."""
    return frames.udp(PAIR, "client", "server", src_port=20_000, dst_port=9000, ip=ip, payload=bytes(22))


def half(bpf: Any, **wanted: Any) -> Any:
    return bpf.load("tc_inspect_header", **inspect.wanted(**wanted)).programs["inspect_ingress"]


def workload_not_wanted(bpf: Any) -> Workload:
    """IPv4, taken apart and not told."""
    return Workload(half(bpf, port=1), datagram(4))


def workload_not_sampled(bpf: Any) -> Workload:
    """IPv4, one of 1,000 is looked at."""
    return Workload(half(bpf, sample=1000, port=1), datagram(4))


@families
def test_cost_of_a_frame_that_is_not_wanted(bpf: Any, bench: Any, ip: int) -> None:
    """ns per frame that is taken apart and not told."""
    program = half(bpf, port=1)
    measured = bench.cost(program, datagram(ip), flows=FLOWS, subject=f"IPv{ip}, filtered out")
    assert program.maps["counts"].total("NOT_WANTED") == program.maps["counts"].total("SEEN") > sum(FLOWS)
    assert all(each.p50 > 0 for each in measured)


def test_cost_of_a_frame_that_is_not_sampled(bpf: Any, bench: Any) -> None:
    """ns per frame when one of 1,000 is looked at."""
    program = half(bpf, sample=1000, port=1)
    (measured,) = bench.cost(program, datagram(4), flows=[65_536], subject="IPv4, one of 1,000")
    assert program.maps["counts"].total("NOT_SAMPLED") > 65_536
    assert measured.p50 > 0


@pytest.mark.parametrize("what", ("IPv4, UDP", "IPv6, UDP", "IPv4, TCP, five options"))
def test_cost_of_an_event(bpf: Any, bench: Any, what: str) -> None:
    """ns per frame that is told, into a ring buffer with room; an empty program's subtracted."""
    frame = datagram(6 if "IPv6" in what else 4)
    if "TCP" in what:
        frame = frames.tcp(PAIR, "client", "server", dst_port=9000, flags="S", options=OPTIONS)
    program = half(bpf)
    with load_instrument("empty", program) as empty:
        samples = [_event_ns(program, frame) - empty.run(frame, repeat=EVENTS).duration_ns for _ in range(ROUNDS)]
    assert program.maps["counts"].total("LOST") == 0, "each was told"
    measured = Measurement(
        metric="event",
        method="prog_run",
        unit="ns",
        program="tc_inspect_header",
        subject=what,
        headline="p50",
        summary=statistics.percentiles(samples),
        interval=statistics.median_interval(samples),
        trials=(Trial("with", tuple(samples), {"events": EVENTS}),),
        remarks=(f"{EVENTS:,} events a sample, read between the samples; no reader waits for them meanwhile",),
    )
    bench.keep(measured)
    assert measured.p50 > 0


def _event_ns(program: Any, frame: Any) -> float:
    duration_ns: float = program.run(frame, repeat=EVENTS).duration_ns
    assert len(program.maps["events"].drain("")) == EVENTS
    return duration_ns


def test_added_latency(bpf: Any, bench: Any) -> None:
    """A frame that is told is less than 10 µs later for it, 99 times of 100; nobody reads, most find no room."""
    added = bench.added_latency(half(bpf), PATH, datagram(4), below_ns=10_000)
    assert added.p99 < 10_000
