"""What tc_segment costs: ns per packet of known and denied sessions, the latency it adds, how many it holds."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab import Direction, Network, Topology
from lab.bench.load import load_from
from lab.bench.path import Path, Together
from lab.bench.workload import Workload
from lab.bpf.companion import companion

segment = companion("tc_segment")

TOPOLOGY = Topology.pair("client", "server")
PATH = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", direction=Direction.INGRESS)
CHAIN = Topology.chain("client", "router", "server")
FLOWS = (1, 4096, 65_536, 1_048_576)
ROOM = 1_048_576
LOAD_PPS, LOAD_SESSIONS = 100_000, 65_536


def rules(count: int, last: str) -> str:
    """So many rules, of which the last alone matches the frames here."""
    others = "".join(
        f"- {{name: r{n}, action: deny, from: 172.16.{n >> 8 & 15}.{n & 255}, protocol: tcp, ports: {n + 1}-{n + 9}}}\n"
        for n in range(count - 1)
    )
    return f"default: deny\nrules:\n{others}- {{name: last, action: {last}, protocol: [udp, tcp]}}\n"


def segmenting(bpf: Any, room: int = ROOM, policy: str = "", **knobs: Any) -> Any:
    """The ingress half."""
    program = bpf.load("tc_segment", **segment.sized(room), **knobs)
    segment.Segment(program.maps).apply(segment.read(policy or rules(100, "allow")))
    return program.programs["segment_ingress"]


def packet(ip: int = 4, transport: Any = UDP, topology: Topology = TOPOLOGY) -> Any:
    """A datagram, or a segment, from the client to the server, with 22 bytes of payload."""
    client, server = topology.interface("client/eth0"), topology.interface("server/eth0")
    if ip == 4:
        network = IP(src=str(client.ipv4.ip), dst=str(server.ipv4.ip))
    else:
        network = IPv6(src=str(client.ipv6.ip), dst=str(server.ipv6.ip))
    flags = {"flags": "A"} if transport is TCP else {}
    first_hop = server if topology is TOPOLOGY else topology.interface("router/eth0")
    return (
        Ether(src=client.mac, dst=first_hop.mac) / network / transport(sport=9000, dport=9000, **flags) / Raw(bytes(22))
    )


@dataclass(frozen=True)
class BothHalves(Path):
    """A way through a router that asks the policy on both sides; of a program of another name, that alone."""

    loaded: Any = None

    def attach(self, program: Any, network: Any) -> Any:
        """The program may be another load than `loaded`, with the same maps."""
        first = super().attach(program, network)
        if program.name != self.loaded.name:
            return first
        return Together((first, self.loaded.programs["segment_egress"].attach(network.interface("router/eth1"))))


def workload_datagrams(bpf: Any) -> Workload:
    """IPv4 datagrams of known sessions, room for 65,536."""
    return Workload(segmenting(bpf, 65_536), packet())


def workload_segments(bpf: Any) -> Workload:
    """IPv4 TCP segments of known sessions, room for 65,536."""
    return Workload(segmenting(bpf, 65_536, adopt=1), packet(4, TCP))


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize(("ip", "transport"), ((4, UDP), (6, UDP), (4, TCP)), ids=("ipv4-udp", "ipv6-udp", "ipv4-tcp"))
def test_cost_of_a_known_session(bpf: Any, bench: Any, ip: int, transport: Any, flows: int) -> None:
    """ns per packet of sessions that are there: one look-up, whatever the number of rules."""
    program = segmenting(bpf, adopt=1)
    name = f"IPv{ip} {transport.__name__}, known"
    (measured,) = bench.cost(program, packet(ip, transport), flows=[flows], subject=name)
    counts = segment.Segment(program.maps).outcomes()
    said = {key: each.packets for key, each in counts.items() if each.packets}
    assert said.keys() == {("OPENED", "ingress"), ("IN_SESSION", "ingress")}, said
    assert said["OPENED", "ingress"] == flows, f"no session was opened while the clock ran: {said}"
    assert measured.p50 > 0


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize("count", (1, 100, 1000))
def test_cost_of_a_denied_packet(bpf: Any, bench: Any, count: int, flows: int) -> None:
    """ns per packet of no session that the last of so many rules denies: the five tables are asked."""
    program = segmenting(bpf, policy=rules(count, "deny"))
    (measured,) = bench.cost(program, packet(), flows=[flows], subject=f"IPv4 UDP, denied, {count:,} rules")
    counts = segment.Segment(program.maps).outcomes()
    assert counts["DENIED", "ingress"].packets > flows
    assert counts["IN_SESSION", "ingress"].packets == 0
    assert measured.p50 > 0


def test_added_latency(bpf: Any, bench: Any) -> None:
    """99 % of packets of a known session take less than 10 µs longer, among 65,536 sessions that are busy."""
    program = segmenting(bpf, 2 * LOAD_SESSIONS)
    path = BothHalves(CHAIN, "client/eth0", "router/eth0", "server/eth0", direction=Direction.INGRESS, loaded=program)
    subject = f"forwarded, a known session beside {LOAD_PPS:,} packets/s of {LOAD_SESSIONS:,}"
    with ExitStack() as undo:
        elsewhere = undo.enter_context(Network(TOPOLOGY))
        undo.enter_context(program.attach(elsewhere.interface("server/eth0")))
        undo.enter_context(load_from(elsewhere, "client/eth0", packet(), flows=LOAD_SESSIONS, rate_pps=LOAD_PPS))
        added = bench.added_latency(program, path, packet(topology=CHAIN), below_ns=10_000, subject=subject)
    assert added.p99 < 10_000
    counts = segment.Segment(program.maps).outcomes()
    assert counts["OPENED", "ingress"].packets >= LOAD_SESSIONS
    assert counts["IN_SESSION", "egress"].packets > 0


def test_capacity(bpf: Any, bench: Any) -> None:
    """A million sessions at once: all are held, none finds its places taken."""
    program = segmenting(bpf, 1_000_000, rules(1, "allow") + "full: closed\n")
    segments = segment.Segment(program.maps)
    names = ("OPENED", "NO_ROOM", "EVICTED")
    found = bench.capacity(
        program,
        PATH,
        packet(),
        held=segments.count_sessions,
        counters=lambda: {name: segments.outcomes()[name, "ingress"].packets for name in names},
    )
    assert found.held.entries == 1_000_000
    assert segments.outcomes()["NO_ROOM", "ingress"].packets == 0
