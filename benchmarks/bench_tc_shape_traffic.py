"""What tc_shape_traffic costs, by kind of rule and clock; the rates it reaches; and what it adds to a packet's way."""

from __future__ import annotations

from typing import Any

import pytest

from lab import Direction, Topology
from lab.bench.path import Path
from lab.bpf.companion import companion
from lab.kernel.cgroup import Cgroup
from lab.model import statistics
from lab.model.measurement import Measurement, Trial
from lab.traffic import frames

shape = companion("tc_shape_traffic")

TOPOLOGY = Topology.pair("client", "server")
PATH = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", direction=Direction.INGRESS)
FLOWS = (1, 4_096, 65_536, 1_048_576)
FRAME_BYTES, HEADERS = 1514, 66
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


def datagram(ip: int = 4) -> Any:
    """64 bytes over IPv4, 84 over IPv6."""
    return frames.udp(TOPOLOGY, "client", "server", src_port=20_000, dst_port=9000, ip=ip, payload=bytes(22))


def shaping(bpf: Any, half: str, rate: str = "100gbit", **knobs: Any) -> tuple[Any, Any]:
    program = bpf.load("tc_shape_traffic", **knobs)
    shaper = shape.Shaper(program)
    shaper.limit_default(rate, burst="1024mb" if rate == "100gbit" else "")
    return program.programs[half], shaper


@pytest.mark.parametrize("coarse", (False, True), ids=("exact clock", "coarse clock"))
@families
def test_cost_of_a_packet_within_its_rate(bpf: Any, bench: Any, ip: int, coarse: bool) -> None:
    """ns per packet that has tokens, classed by port and DSCP."""
    program, shaper = shaping(bpf, "shape_by_drop", coarse_clock=coarse)
    clock = "coarse" if coarse else "exact"
    measured = bench.cost(program, datagram(ip), flows=FLOWS, subject=f"IPv{ip}, {clock} clock")
    assert shaper.count(0).dropped == 0 and shaper.count(0).packets > sum(FLOWS)
    assert all(each.p50 > 0 for each in measured)


def test_cost_of_a_packet_over_its_rate(bpf: Any, bench: Any) -> None:
    """ns per packet that is dropped."""
    program, shaper = shaping(bpf, "shape_by_drop", "1kbit")
    (measured,) = bench.cost(program, datagram(), flows=[65_536], subject="IPv4, dropped")
    assert shaper.count(0).dropped > 65_536
    assert measured.p50 > 0


def test_cost_of_a_delayed_packet(bpf: Any, bench: Any) -> None:
    """ns per packet that is given a departure time."""
    program, shaper = shaping(bpf, "shape_by_delay", "1gbit", horizon_ns=10**15)
    (measured,) = bench.cost(program, datagram(), flows=[65_536], subject="IPv4, delayed")
    assert shaper.count(0).delayed > 65_536
    assert measured.p50 > 0


def test_cost_of_a_thousand_prefixes(bpf: Any, bench: Any) -> None:
    """ns per packet where its remote address is looked up among 1,000 prefixes, at 65,536 flows of two addresses."""
    program, shaper = shaping(bpf, "police")
    number = shaper.add("prefixes", "1gbit")
    shaper.rule(number, prefixes=[f"10.{each >> 8}.{each & 255}.0/24" for each in range(1000)])
    (measured,) = bench.cost(program, datagram(), flows=[65_536], subject="IPv4, 1,000 prefixes")
    assert measured.p50 > 0


def test_cost_of_a_class_that_borrows(bpf: Any, bench: Any) -> None:
    """ns per packet that has no tokens of its own and takes the link's."""
    program = bpf.load("tc_shape_traffic")
    shaper = shape.Shaper(program)
    shaper.limit_link("100gbit", burst="1024mb")
    shaper.limit_default("1kbit", borrows=True, priority=0)
    (measured,) = bench.cost(program.programs["shape_by_drop"], datagram(), flows=[65_536], subject="IPv4, borrowed")
    assert shaper.count(0).borrowed > 65_536
    assert measured.p50 > 0


@pytest.mark.parametrize(("rate", "seconds"), [("1mbit", 10), ("10mbit", 4), ("100mbit", 3), ("1gbit", 3)])
@families
def test_rate_of_tcp(net: Any, bpf: Any, bench: Any, rate: str, seconds: int, ip: int) -> None:
    """The rate that one TCP connection reaches, with its headers, as a part of the rate that was set."""
    program = bpf.load("tc_shape_traffic")
    shaper = shape.Shaper(program)
    shaper.limit_default(rate)
    with (
        Cgroup() as group,
        program.programs["pace"].attach(group),
        program.programs["shape_by_drop"].attach(net.interface("client/eth0"), direction=Direction.EGRESS),
        group.entered(),
    ):
        result = net.iperf3("client", "server", seconds=seconds, ip=ip)
    size = FRAME_BYTES - HEADERS - 20 * (ip == 6)
    reached = 100 * result.bits_per_second * FRAME_BYTES / size / shape.bits_per_second(rate)
    bench.keep(
        Measurement(
            metric="rate reached",
            method="iperf3",
            unit="%",
            program="tc_shape_traffic",
            subject=f"IPv{ip}, TCP, {rate}",
            headline="p50",
            summary=statistics.percentiles([reached]),
            interval=(reached, reached),
            trials=(Trial("with", (reached,), {"seconds": seconds}),),
            remarks=("of the rate that was set; one run, bytes with Ethernet, IP and TCP headers",),
        )
    )
    assert 95 <= reached <= 105


def test_added_latency(bpf: Any, bench: Any) -> None:
    """Policed within its rate, a packet is less than 10 µs later, 99 times of 100."""
    program, _ = shaping(bpf, "police")
    added = bench.added_latency(program, PATH, datagram(), below_ns=10_000)
    assert added.p99 < 10_000
