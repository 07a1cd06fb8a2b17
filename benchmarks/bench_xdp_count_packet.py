"""What xdp_count_packet costs in either flavour: by number of sources, and where the table is full; and its rate."""

from __future__ import annotations

from typing import Any

import pytest

from lab import Mode, Topology
from lab.bench.path import Path
from lab.bench.workload import Workload
from lab.bpf.companion import companion
from lab.traffic import frames

packets = companion("xdp_count_packet")

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})
PATH = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FLOWS = (1, 4_096, 65_536, 1_048_576)
FLAVOURS = ("core", pytest.param("bcc", marks=pytest.mark.needs("bcc")))
flavours = pytest.mark.parametrize("flavour", FLAVOURS)
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


def datagram(ip: int = 4) -> Any:
    """64 bytes over IPv4, 84 over IPv6."""
    return frames.udp(TOPOLOGY, "client", "server", src_port=20_000, dst_port=9000, ip=ip, payload=bytes(22))


def workload_sources(bpf: Any) -> Workload:
    """IPv4, sources that are in the table, room for 65,536."""
    return Workload(packets.load(bpf, sources=65_536), datagram(), port_bits=0)


def workload_ipv6_sources(bpf: Any) -> Workload:
    """IPv6, sources that are in the table, room for 65,536."""
    return Workload(packets.load(bpf, sources=65_536), datagram(6), port_bits=0)


@pytest.mark.parametrize("sources", FLOWS)
@families
@flavours
def test_cost_by_number_of_sources(bpf, bench, flavour, ip, sources):
    """ns per packet, each flow a source of its own that is in the table already."""
    program = packets.load(bpf, flavour=flavour, sources=max(sources, 1024))
    (measured,) = bench.cost(program, datagram(ip), flows=[sources], port_bits=0, subject=f"{flavour}, IPv{ip}")
    assert packets.distinct(program.maps) == sources
    assert packets.counts(program.maps)[packets.Outcome.MALFORMED].packets == 0
    assert measured.mean > 0


@flavours
def test_cost_of_a_full_table(bpf, bench, flavour):
    """ns per packet of 65,536 sources of which 16 have a place: each other one is looked up, tried, and left out."""
    program = packets.load(bpf, flavour=flavour, sources=16)
    (measured,) = bench.cost(
        program, datagram(), flows=[65_536], port_bits=0, subject=f"{flavour}, IPv4, the table is full"
    )
    seen = packets.counts(program.maps)
    assert seen[packets.Outcome.NO_ROOM_IPV4].packets > 1_000 * seen[packets.Outcome.IPV4].packets
    assert measured.mean > 0


@flavours
def test_added_latency(bpf, bench, flavour):
    """99 % of packets take less than 10 µs longer."""
    program = packets.load(bpf, flavour=flavour)
    added = bench.added_latency(program, PATH, datagram(), below_ns=10_000, subject=flavour)
    assert added.p99 < 10_000
    assert packets.counts(program.maps)[packets.Outcome.IPV4].packets > 0


@flavours
def test_rate(bpf, bench, flavour):
    """Packets a second of 1,024 flows on one core, none lost."""
    program = packets.load(bpf, flavour=flavour)
    measured = bench.rate(program, PATH, datagram(), flows=1024, subject=flavour)
    assert packets.counts(program.maps)[packets.Outcome.IPV4].packets > 100_000
    assert measured.ndr_pps > 100_000
