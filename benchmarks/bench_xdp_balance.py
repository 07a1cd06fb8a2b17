"""What xdp_balance costs: ns per packet by number of flows, what it adds to a packet's way, and its rate."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab import Mode, Topology
from lab.bench.path import Path
from lab.bench.workload import Workload
from lab.bpf.companion import companion
from lab.net.spec import NamespaceSpec, Route

VIP = {4: "192.0.2.10", 6: "2001:db8::10"}
STAR = Topology.star("balancer", leaves=("client", "alpha"), offloads={"tx": False, "gro": True})
BACKEND = {4: str(STAR.interface("alpha/eth0").ipv4.ip), 6: str(STAR.interface("alpha/eth0").ipv6.ip)}
TOPOLOGY = STAR.extended(
    # Without the program the kernel routes the same frames to the same backend: that is what it is compared with.
    namespaces=[NamespaceSpec("balancer", forwarding=True, routes=(Route(f"{VIP[4]}/32", BACKEND[4]),))]
)
PATH = Path(TOPOLOGY, source="client/eth0", at="balancer/eth0", sink="alpha/eth0", mode=Mode.NATIVE)
FLOWS = (1, 4_096, 65_536, 1_048_576)


def balanced(bpf: Any, ip: int = 4, forwarding: str = "NAT", flows: int = 1024) -> Any:
    """The program with a service on UDP port 9000, one backend, and a table for so many flows.

    A NAT flow has two entries, and a quarter is left free: an LRU map evicts before it is full.
    """
    program = bpf.load("xdp_balance", max_entries={f"flows{ip}": max(4096, flows * 5 // 2)})
    balancer = companion("xdp_balance").Balancer(program.maps)
    service = balancer.add_service(VIP[ip], 9000, protocol="udp", forwarding=forwarding)
    service.add(BACKEND[ip])
    return program


def datagram(ip: int = 4) -> Any:
    """64 bytes over IPv4 and 84 over IPv6."""
    client, router = STAR.interface("client/eth0"), STAR.interface("balancer/eth0")
    network = IP(src=str(client.ipv4.ip), dst=VIP[4]) if ip == 4 else IPv6(src=str(client.ipv6.ip), dst=VIP[6])
    return Ether(src=client.mac, dst=router.mac) / network / UDP(sport=9000, dport=9000) / Raw(bytes(22))


def workload_nat(bpf: Any) -> Workload:
    """IPv4, NAT to one backend."""
    return Workload(balanced(bpf, 4, "NAT", 65_536), datagram())


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize(
    ("ip", "forwarding"), ((4, "NAT"), (6, "NAT"), (4, "DIRECT")), ids=("ipv4-nat", "ipv6-nat", "ipv4-direct")
)
def test_cost(net, bpf, bench, ip, forwarding, flows):
    """ns per packet of tracked flows: none is opened while the clock runs, and next hops come from the table."""
    program = balanced(bpf, ip, forwarding, flows)
    with net["balancer"].enter():
        (measured,) = bench.cost(program, datagram(ip), flows=[flows], subject=f"IPv{ip} {forwarding}")
    assert program.maps["outcomes"].total("NO_HOP") == 0
    assert program.maps["outcomes"].total("REOPENED") == 0
    assert program.maps["backend_counts"].total(0).flows <= flows, "none was evicted and opened again"
    assert program.maps["verdicts"].total("XDP_REDIRECT").packets > flows
    assert measured.p50 > 0


def test_added_latency(bpf, bench):
    """Balanced instead of routed, 99 % of packets take less than 10 µs longer to the backend."""
    added = bench.added_latency(balanced(bpf), PATH, datagram(), below_ns=10_000)
    assert added.p99 < 10_000


def test_rate(bpf, bench):
    """Packets a second to 1,024 flows' backend on one core, none lost."""
    measured = bench.rate(balanced(bpf), PATH, datagram(), flows=1024)
    assert measured.ndr_pps > 100_000


def test_capacity(bpf, bench):
    """A million flows to one backend, each with an entry for either direction, and what more does to a full table."""
    program = balanced(bpf, flows=1_000_000)
    outcomes = program.maps["outcomes"]
    found = bench.capacity(
        program,
        PATH,
        datagram(),
        held="flows4",
        counters=lambda: {str(name.name): outcomes.total(name) for name in outcomes},
        above_per_s=100_000,
    )
    assert found.held.entries == 2_000_000
    assert found.held.entries_full <= 2_500_000
