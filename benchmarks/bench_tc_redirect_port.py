"""What tc_redirect_port costs: ns per packet by number of flows, and what it adds to a packet's way."""

from __future__ import annotations

from typing import Any

import pytest

from lab import Direction, Topology
from lab.bench.path import Path
from lab.bench.workload import Workload
from lab.bpf.companion import companion
from lab.traffic import frames

PAIR = Topology.pair("client", "server")
PATH = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", direction=Direction.INGRESS)
FLOWS = (1, 4_096, 65_536, 1_048_576)
HERE = {ip: str(PAIR.address("server", ip)) for ip in (4, 6)}
THERE = {4: "192.0.2.99", 6: "2001:db8::99"}


def redirecting(bpf: Any, ip: int, **knobs: Any) -> Any:
    """The request half, with a rule that changes address and port among 999 others."""
    program = bpf.load("tc_redirect_port", **knobs)
    rules = companion("tc_redirect_port").Redirector(program.maps)
    rules.add("udp", 9000, address=HERE[ip], to_port=9001, to_address=THERE[ip])
    for number in range(999):
        rules.add("tcp", 10_000 + number, to_port=30_000 + number)
    return program.programs["redirect_request"]


def datagram(ip: int, port: int = 9000) -> Any:
    """64 bytes over IPv4, 84 over IPv6."""
    return frames.udp(PAIR, "client", "server", dst_port=port, ip=ip, payload=bytes(22))


def workload_rule(bpf: Any) -> Workload:
    """IPv4, a rule that changes address and port."""
    return Workload(redirecting(bpf, 4), datagram(4))


def workload_no_rule(bpf: Any) -> Workload:
    """IPv4, a port that no rule names."""
    return Workload(redirecting(bpf, 4), datagram(4, 53))


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
@pytest.mark.parametrize("offloaded", (True, False), ids=("by-helper", "inline"))
def test_cost_of_a_redirected_packet(bpf: Any, bench: Any, offloaded: bool, ip: int, flows: int) -> None:
    """ns per packet whose address and port change, checksums too: the number of flows does not matter."""
    program = redirecting(bpf, ip, offloaded_checksums=offloaded)
    how = "helper" if offloaded else "inline"
    (measured,) = bench.cost(program, datagram(ip), flows=[flows], subject=f"IPv{ip}, {how}")
    assert program.maps["hits"].total(0).packets > flows, "every packet met the rule"
    assert measured.p50 > 0


@pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
def test_cost_of_a_packet_that_no_rule_names(bpf: Any, bench: Any, ip: int) -> None:
    """ns per packet of everybody else's traffic: parsing, and one look into the table of ports."""
    program = redirecting(bpf, ip)
    (measured,) = bench.cost(program, datagram(ip, 53), flows=[65_536], subject=f"IPv{ip}, no rule")
    assert program.maps["hits"].total(0).packets == 0
    assert measured.p50 > 0


def test_added_latency(bpf: Any, bench: Any) -> None:
    """Redirected to another port of the same machine, 99 % of packets take less than 10 µs longer."""
    program = bpf.load("tc_redirect_port")
    companion("tc_redirect_port").Redirector(program.maps).add("udp", 9000, to_port=9001)
    added = bench.added_latency(program.programs["redirect_request"], PATH, datagram(4), below_ns=10_000)
    assert added.p99 < 10_000
