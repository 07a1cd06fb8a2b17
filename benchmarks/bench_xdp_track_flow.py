"""What xdp_track_flow costs: ns per packet by number of flows, what it adds to a packet's way, and its rate."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab import Mode, Topology
from lab.bench.path import Path
from lab.bench.workload import Workload
from lab.bpf.companion import companion

track = companion("xdp_track_flow")

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False, "gro": True})
PATH = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FLOWS = (1, 4_096, 65_536, 1_048_576)


def packet(ip: int = 4, transport: Any = UDP) -> Any:
    """A datagram, or a segment with ACK, from the client to the server, with 22 bytes of payload."""
    client, server = TOPOLOGY.interface("client/eth0"), TOPOLOGY.interface("server/eth0")
    if ip == 4:
        network = IP(src=str(client.ipv4.ip), dst=str(server.ipv4.ip))
    else:
        network = IPv6(src=str(client.ipv6.ip), dst=str(server.ipv6.ip))
    flags = {"flags": "A"} if transport is TCP else {}
    return Ether(src=client.mac, dst=server.mac) / network / transport(sport=9000, dport=9000, **flags) / Raw(bytes(22))


def workload_datagrams(bpf: Any) -> Workload:
    """IPv4 datagrams of tracked flows, room for 65,536."""
    return Workload(bpf.load("xdp_track_flow", **track.sized(65_536)), packet())


def workload_segments(bpf: Any) -> Workload:
    """IPv4 TCP segments of tracked flows, room for 65,536."""
    return Workload(bpf.load("xdp_track_flow", **track.sized(65_536)), packet(4, TCP))


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize(("ip", "transport"), ((4, UDP), (6, UDP), (4, TCP)), ids=("ipv4-udp", "ipv6-udp", "ipv4-tcp"))
def test_cost(bpf, bench, ip, transport, flows):
    """ns per packet of flows that are there: none is opened or evicted while the clock runs."""
    program = bpf.load("xdp_track_flow", **track.sized(max(flows, 1024)))
    name = f"IPv{ip} {transport.__name__}"
    (measured,) = bench.cost(program, packet(ip, transport), flows=[flows], subject=name)
    totals = program.maps["totals"]
    assert (totals.total("OPENED"), totals.total("CLOSED_EVICTED")) == (flows, 0)
    assert program.maps["outcomes"].total("NO_SLOT").packets == 0
    assert measured.p50 > 0


def test_added_latency(bpf, bench):
    """99 % of packets take less than 10 µs longer when they are tracked."""
    program = bpf.load("xdp_track_flow")
    added = bench.added_latency(program, PATH, packet(), below_ns=10_000)
    assert added.p99 < 10_000
    assert program.maps["totals"].total("OPENED") > 0


def test_rate(bpf, bench):
    """Packets a second of 1,024 flows that one core tracks, none lost."""
    program = bpf.load("xdp_track_flow", **track.sized(1024))
    measured = bench.rate(program, PATH, packet(), flows=1024)
    totals = program.maps["totals"]
    assert (totals.total("OPENED"), totals.total("CLOSED_EVICTED")) == (1024, 0)
    assert measured.ndr_pps > 100_000


@pytest.mark.parametrize("sessions", (100_000, 1_000_000), ids="{:,}".format)
def test_capacity(bpf, bench, sessions):
    """As many flows as there is room for, a second time, and a tenth more: all are held, and each more evicts one."""
    program = bpf.load("xdp_track_flow", **track.sized(sessions))
    totals, opened = program.maps["totals"], {"OPENED", "CLOSED_EVICTED"}
    found = bench.capacity(
        program,
        PATH,
        packet(),
        held="flows",
        sessions=sessions,
        counters=lambda: {name: totals.total(name) for name in opened},
        above_per_s=100_000,
    )
    assert found.held.entries == sessions
    assert found.held.entries_full == sessions
    assert totals.total("OPENED") == sessions * 11 // 10
