"""xdp_balance spreads flows of virtual services over backends and keeps each flow on its own."""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Padding, Raw

from lab import Mode, Topology
from lab.bpf import load
from lab.bpf.companion import companion
from lab.net.spec import NamespaceSpec, Route
from lab.wait import wait_until

balance = companion("xdp_balance")

BACKENDS = ("alpha", "beta", "gamma")
TOPOLOGY = Topology.star("balancer", leaves=("client", *BACKENDS), offloads={"tx": False})
VIP = {4: "192.0.2.10", 6: "2001:db8::10"}
DIRECT_VIP = {4: "192.0.2.20", 6: "2001:db8::20"}
EMPTY_VIP = {4: "192.0.2.30", 6: "2001:db8::30"}
SLOTS = 1009
"""A small Maglev table, built in under a millisecond."""

modes = pytest.mark.parametrize("mode", list(Mode), ids=[mode.value for mode in Mode])
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
protocols = pytest.mark.parametrize("protocol", ("tcp", "udp"))


# ---- The verdict table: one frame in, a verdict and a whole frame out ----


@pytest.fixture(scope="module")
def lab_bench() -> Iterator[SimpleNamespace]:
    """The program, unattached, in a balancer with routes: rows share it, each with a client port of its own."""
    from lab.net.network import Network

    with Network(TOPOLOGY) as net, load("xdp_balance") as program:
        services = balance.Balancer(program.maps)
        for ip in (4, 6):
            for protocol in ("tcp", "udp"):
                nat = services.add_service(VIP[ip], 80, protocol=protocol, slots=SLOTS)
                nat.add(address(net, "alpha", ip), 8080)
                direct = services.add_service(DIRECT_VIP[ip], 80, protocol=protocol, forwarding="DIRECT", slots=SLOTS)
                direct.add(address(net, "beta", ip))
                services.add_service(EMPTY_VIP[ip], 80, protocol=protocol, slots=SLOTS)
        yield SimpleNamespace(net=net, program=program, maps=program.maps, balancer=services)


def address(net: Any, name: str, ip: int) -> str:
    interface = net.interface(f"{name}/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6)


def ether(lab: Any) -> Any:
    peer = lab.net.interface("client/eth0")
    return Ether(src=peer.mac, dst=lab.net.interface("balancer/eth0").mac)


@dataclass(frozen=True)
class Sent:
    """What the rows below vary of a packet from the client to a service."""

    ip: int = 4
    protocol: str = "tcp"
    to: str = ""
    port: int = 80
    ttl: int = 64
    payload: bytes = b"hello"
    options: bool = False
    extensions: tuple[Any, ...] = ()
    vlans: int = 0
    padded: int = 0
    no_checksum: bool = False

    def frame(self, lab: Any, sport: int) -> Any:
        """The packet, by scapy, as it reaches the balancer."""
        frame = ether(lab)
        for tag in range(self.vlans):
            frame /= Dot1Q(vlan=100 + tag, prio=3)
        if self.vlans == 2:
            frame.type = 0x88A8
        source, dest = address(lab.net, "client", self.ip), self.to or VIP[self.ip]
        if self.ip == 4:
            options = [IPOption(b"\x94\x04\x00\x00"), IPOption(b"\x01")] if self.options else []
            frame /= IP(src=source, dst=dest, ttl=self.ttl, id=7, options=options)
        else:
            frame /= IPv6(src=source, dst=dest, hlim=self.ttl, tc=8, fl=99)
            for name in self.extensions:
                frame /= name()
        if self.protocol == "tcp":
            frame /= TCP(sport=sport, dport=self.port, flags="S", seq=1, options=[("MSS", 1460)])
        else:
            frame /= UDP(sport=sport, dport=self.port, **({"chksum": 0} if self.no_checksum else {}))
        return padded(frame / Raw(self.payload), self.padded)


def padded(frame: Any, to_bytes: int) -> Any:
    missing = to_bytes - len(bytes(frame))
    if missing <= 0:
        return Ether(bytes(frame))
    return Ether(bytes(frame / Padding(b"\xee" * missing)))


def translated(lab: Any, frame: Any, ip: int, to: str, port: int) -> bytes:
    """The frame as the backend must get it, by scapy: new addresses, TTL one less, checksums computed afresh."""
    out = frame.copy()
    hop(lab, out, to)
    network, transport = out[IP if ip == 4 else IPv6], out[TCP] if TCP in out else out[UDP]
    network.dst = address(lab.net, to, ip)
    transport.dport = port
    if ip == 4:
        network.ttl -= 1
        del network.chksum
    else:
        network.hlim -= 1
    if transport.chksum:
        del transport.chksum
    return bytes(out)


def hop(lab: Any, frame: Any, to: str) -> bytes:
    """Only the MAC addresses change: from the balancer's interface towards `to`, to its own."""
    interface = lab.net.interface(f"{to}/eth0")
    frame.dst, frame.src = interface.mac, interface.peer.mac
    return bytes(frame)


def run(lab: Any, frame: Any) -> tuple[str, bytes]:
    result = lab.net["balancer"].run(lab.program.run, bytes(frame))
    return result.action.name, result.frame


sports = iter(range(10_000, 60_000))

BALANCED = {
    f"IPv{ip} {protocol} {what}": Sent(ip=ip, protocol=protocol, **fields)
    for ip in (4, 6)
    for protocol in ("tcp", "udp")
    for what, fields in {
        "goes to the backend": {},
        "with an odd payload": {"payload": b"odd"},
        "with nothing in it, padded to 60 bytes": {"payload": b"", "padded": 60},
        "of 1,400 bytes": {"payload": bytes(range(256)) * 5 + bytes(120)},
        "with one VLAN tag keeps it": {"vlans": 1},
        "with two VLAN tags keeps them": {"vlans": 2},
        "with TTL 2 leaves with TTL 1": {"ttl": 2},
    }.items()
} | {
    "IPv4 tcp with options keeps them": Sent(options=True),
    "IPv4 udp with options and two tags": Sent(protocol="udp", options=True, vlans=2),
    "IPv4 udp without a checksum stays without": Sent(protocol="udp", no_checksum=True),
    "IPv6 tcp behind a hop-by-hop header": Sent(ip=6, extensions=(IPv6ExtHdrHopByHop,)),
    "IPv6 udp behind destination options": Sent(ip=6, protocol="udp", extensions=(IPv6ExtHdrDestOpt,)),
    "IPv6 udp behind six extension headers": Sent(ip=6, protocol="udp", extensions=(IPv6ExtHdrDestOpt,) * 6),
    "IPv6 tcp behind two headers and a tag": Sent(ip=6, extensions=(IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt), vlans=1),
    "IPv6 udp in an atomic fragment (RFC 6946)": Sent(ip=6, protocol="udp", extensions=(IPv6ExtHdrFragment,)),
}


@pytest.mark.parametrize("sent", BALANCED.values(), ids=BALANCED.keys())
def test_a_packet_to_a_service_leaves_rewritten(lab_bench, sent):
    """Addresses, port, TTL, MACs and checksums are the backend's; every other byte is as it came."""
    frame = sent.frame(lab_bench, next(sports))
    expected = translated(lab_bench, frame, sent.ip, "alpha", 8080)
    assert run(lab_bench, frame) == ("XDP_REDIRECT", expected)
    assert run(lab_bench, frame) == ("XDP_REDIRECT", expected), "the same packet, now of a tracked flow"


DIRECT = {
    "IPv4 tcp": Sent(to=DIRECT_VIP[4]),
    "IPv4 udp with TTL 1: a layer-2 hop takes none": Sent(to=DIRECT_VIP[4], protocol="udp", ttl=1),
    "IPv4 udp with options and two tags": Sent(to=DIRECT_VIP[4], protocol="udp", options=True, vlans=2),
    "IPv6 tcp": Sent(ip=6, to=DIRECT_VIP[6]),
    "IPv6 udp behind an extension header": Sent(
        ip=6, to=DIRECT_VIP[6], protocol="udp", extensions=(IPv6ExtHdrHopByHop,)
    ),
}


@pytest.mark.parametrize("sent", DIRECT.values(), ids=DIRECT.keys())
def test_direct_return_changes_the_macs_alone(lab_bench, sent):
    """A packet of a DIRECT service leaves with other MAC addresses, and not another byte differs."""
    frame = sent.frame(lab_bench, next(sports))
    assert run(lab_bench, frame) == ("XDP_REDIRECT", hop(lab_bench, frame.copy(), "beta"))


@families
@protocols
def test_the_reply_gets_the_address_of_the_service(lab_bench, ip, protocol):
    """A backend's reply leaves towards the client with the service's address, port and right checksums."""
    sport = next(sports)
    run(lab_bench, Sent(ip=ip, protocol=protocol).frame(lab_bench, sport))
    backend = lab_bench.net.interface("alpha/eth0")
    network, transport = (IP if ip == 4 else IPv6), (TCP if protocol == "tcp" else UDP)
    reply = Ether(src=backend.mac, dst=backend.peer.mac)
    reply /= network(src=address(lab_bench.net, "alpha", ip), dst=address(lab_bench.net, "client", ip))
    reply = Ether(bytes(reply / transport(sport=8080, dport=sport) / Raw(b"world")))
    expected = reply.copy()
    hop(lab_bench, expected, "client")
    expected[network].src, expected[transport].sport = VIP[ip], 80
    if ip == 4:
        expected.ttl -= 1
        del expected[IP].chksum
    else:
        expected.hlim -= 1
    del expected[transport].chksum
    assert run(lab_bench, reply) == ("XDP_REDIRECT", bytes(expected))


def tcp(lab: Any, ip: int = 4, **fields: Any) -> Any:
    return Sent(ip=ip, **fields).frame(lab, next(sports))


def cut(frame: Any, count: int) -> bytes:
    return bytes(frame)[:-count]


def patched(frame: Any, at: int, value: int) -> bytes:
    """The frame with one byte changed; 14 is the first of the network header."""
    whole = bytearray(bytes(frame))
    whole[at] = value
    return bytes(whole)


def fragment(lab: Any, ip: int, offset: int, to: str = "") -> Any:
    """A part of a datagram: the first, if offset is 0, with more to come."""
    sent = Sent(ip=ip, protocol="udp", to=to, payload=bytes(64))
    if ip == 6:
        frame = Ether(bytes(sent.frame(lab, next(sports))))
        header = IPv6ExtHdrFragment(nh=17, offset=offset, m=1, id=9)
        outer = IPv6(src=frame[IPv6].src, dst=frame[IPv6].dst)
        return ether(lab) / outer / header / Raw(bytes(frame[UDP]))
    frame = sent.frame(lab, next(sports))
    frame[IP].flags, frame[IP].frag = "MF", offset
    del frame[IP].chksum
    return frame


def hidden_in_padding(lab: Any) -> bytes:
    """4 bytes of TCP by the IP header's length; what follows to make 60 is no header."""
    frame = ether(lab) / IP(src=address(lab.net, "client", 4), dst=VIP[4], proto=6) / Raw(b"\x30\x39\x00\x50")
    return bytes(frame).ljust(60, b"\x50")


OTHER = "198.51.100.1"
UNTOUCHED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "ARP": ("XDP_PASS", lambda lab: ether(lab) / ARP()),
    "IPv4 ping of a service": ("XDP_PASS", lambda lab: ether(lab) / IP(dst=VIP[4]) / ICMP()),
    "IPv6 ping of a service": ("XDP_PASS", lambda lab: ether(lab) / IPv6(dst=VIP[6]) / ICMPv6EchoRequest()),
    "SCTP": ("XDP_PASS", lambda lab: ether(lab) / IP(dst=VIP[4]) / SCTP(dport=80)),
    "another port of a service's address": ("XDP_PASS", lambda lab: tcp(lab, port=81)),
    "another address": ("XDP_PASS", lambda lab: tcp(lab, to=OTHER)),
    "another IPv6 address": ("XDP_PASS", lambda lab: tcp(lab, 6, to="2001:db8::ffff")),
    "three VLAN tags": ("XDP_PASS", lambda lab: ether(lab) / Dot1Q() / Dot1Q() / Dot1Q() / IP(dst=VIP[4]) / TCP()),
    "IPv4 TTL 1": ("XDP_PASS", lambda lab: tcp(lab, ttl=1)),
    "IPv4 TTL 0": ("XDP_PASS", lambda lab: tcp(lab, ttl=0)),
    "IPv6 hop limit 1": ("XDP_PASS", lambda lab: tcp(lab, 6, ttl=1)),
    "a service without backends": ("XDP_DROP", lambda lab: tcp(lab, to=EMPTY_VIP[4])),
    "an IPv6 service without backends": ("XDP_DROP", lambda lab: tcp(lab, 6, to=EMPTY_VIP[6])),
    "IPv4 first fragment": ("XDP_DROP", lambda lab: fragment(lab, 4, 0)),
    "IPv4 later fragment": ("XDP_DROP", lambda lab: fragment(lab, 4, 8)),
    "IPv4 later fragment to another address": ("XDP_PASS", lambda lab: fragment(lab, 4, 8, to=OTHER)),
    "IPv6 first fragment": ("XDP_DROP", lambda lab: fragment(lab, 6, 0)),
    "IPv6 later fragment": ("XDP_DROP", lambda lab: fragment(lab, 6, 8)),
    "IPv6 fragment to another address": ("XDP_PASS", lambda lab: fragment(lab, 6, 8, to="2001:db8::ffff")),
    "seven extension headers": ("XDP_DROP", lambda lab: tcp(lab, 6, extensions=(IPv6ExtHdrDestOpt,) * 7)),
    "seven extension headers to another address": (
        "XDP_PASS",
        lambda lab: tcp(lab, 6, to="2001:db8::ffff", extensions=(IPv6ExtHdrDestOpt,) * 7),
    ),
    "an Ethernet header alone": ("XDP_DROP", lambda lab: bytes(ether(lab) / IP())[:14]),
    "a VLAN tag cut short": ("XDP_DROP", lambda lab: bytes(ether(lab) / Dot1Q())[:16]),
    "an IPv4 header cut short": ("XDP_DROP", lambda lab: bytes(tcp(lab))[:33]),
    "IPv4 options cut short": ("XDP_DROP", lambda lab: bytes(tcp(lab, options=True))[:36]),
    "IPv4 header length 4": ("XDP_DROP", lambda lab: patched(tcp(lab), 14, 0x44)),
    "IPv4 with version 5": ("XDP_DROP", lambda lab: patched(tcp(lab), 14, 0x55)),
    "IPv4 total length beyond the frame": ("XDP_DROP", lambda lab: cut(tcp(lab), 1)),
    "IPv4 total length below its header": ("XDP_DROP", lambda lab: patched(patched(tcp(lab), 16, 0), 17, 19)),
    "IPv6 header cut short": ("XDP_DROP", lambda lab: bytes(tcp(lab, 6))[:53]),
    "IPv6 with version 4": ("XDP_DROP", lambda lab: patched(tcp(lab, 6), 14, 0x40)),
    "IPv6 payload length beyond the frame": ("XDP_DROP", lambda lab: cut(tcp(lab, 6), 1)),
    "IPv6 extension header beyond the packet": (
        "XDP_DROP",
        lambda lab: patched(tcp(lab, 6, extensions=(IPv6ExtHdrDestOpt,)), 55, 200),
    ),
    "TCP header cut short": ("XDP_DROP", lambda lab: short(lab, TCP, 19)),
    "TCP header that only the padding completes": ("XDP_DROP", hidden_in_padding),
    "TCP data offset 4": ("XDP_DROP", lambda lab: patched(tcp(lab), 46, 0x40)),
    "TCP data offset beyond the packet": ("XDP_DROP", lambda lab: patched(tcp(lab, payload=b""), 46, 0xF0)),
    "UDP header cut short": ("XDP_DROP", lambda lab: short(lab, UDP, 7)),
    "UDP length below its header": ("XDP_DROP", lambda lab: patched(tcp(lab, protocol="udp"), 39, 7)),
    "UDP length beyond the packet": ("XDP_DROP", lambda lab: patched(tcp(lab, protocol="udp"), 39, 14)),
}


def short(lab: Any, layer: Any, count: int) -> Any:
    """An IP packet that says itself how little of the transport header is in it."""
    network = IP(src=address(lab.net, "client", 4), dst=VIP[4], proto=6 if layer is TCP else 17)
    return ether(lab) / network / Raw(bytes(layer(sport=next(sports), dport=80))[:count])


@pytest.mark.parametrize(("action", "make"), UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_what_is_not_balanced_is_never_altered(lab_bench, action, make):
    """The frame gets the verdict of the table in the program's header, and not a byte of it is changed."""
    frame = bytes(make(lab_bench))
    assert run(lab_bench, frame) == (action, frame)


def test_every_outcome_is_counted_by_name(lab_bench):
    """A malformed, a fragmented and an unbalanced packet each count once more under their own reason."""
    outcomes = lab_bench.maps["outcomes"]
    before = {name: outcomes.total(name) for name in ("MALFORMED", "FRAGMENT", "NOT_IP", "NOT_SERVICE")}
    for row in ("TCP data offset 4", "IPv4 later fragment", "ARP", "another port of a service's address"):
        run(lab_bench, UNTOUCHED[row][1](lab_bench))
    assert {name: outcomes.total(name) - count for name, count in before.items()} == dict.fromkeys(before, 1)


# ---- What a packet does to the flow it belongs to, by PROG_RUN with a program of each test's own ----

FAR = "198.51.100.7"
"""An address that the balancer reaches by way of alpha, so not on its own wire."""
NOWHERE = "203.0.113.1"


def behind_alpha() -> Topology:
    route = Route("198.51.100.0/24", str(TOPOLOGY.interface("alpha/eth0").ipv4.ip))
    return TOPOLOGY.extended(namespaces=[NamespaceSpec("balancer", forwarding=True, routes=(route,))])


def placed(net: Any, program: Any) -> SimpleNamespace:
    return SimpleNamespace(net=net, program=program, maps=program.maps)


def test_without_a_route_the_kernel_gets_the_rewritten_packet(net, bpf):
    """No route to the backend: the packet is passed on with new addresses, its MACs and TTL left to the kernel."""
    lab = placed(net, bpf.load("xdp_balance"))
    balance.Balancer(lab.maps).add_service(VIP[4], 80, slots=SLOTS).add(NOWHERE, 8080)
    frame = tcp(lab)
    expected = frame.copy()
    expected[IP].dst, expected[TCP].dport = NOWHERE, 8080
    del expected[IP].chksum, expected[TCP].chksum
    assert run(lab, frame) == ("XDP_PASS", bytes(expected))


@pytest.mark.topology(behind_alpha())
def test_direct_return_needs_the_backend_on_the_wire(net, bpf):
    """A DIRECT backend behind a gateway would send the packet round in circles: it is dropped as NO_HOP."""
    lab = placed(net, bpf.load("xdp_balance"))
    balance.Balancer(lab.maps).add_service(VIP[4], 80, forwarding="DIRECT", slots=SLOTS).add(FAR)
    frame = tcp(lab)
    assert run(lab, frame) == ("XDP_DROP", bytes(frame))
    assert lab.maps["outcomes"].total("NO_HOP") == 1


@pytest.mark.topology(behind_alpha())
def test_a_backend_behind_a_gateway_is_reached(net, bpf):
    """NAT goes wherever the routing table says: the frame goes to the gateway's MAC."""
    lab = placed(net, bpf.load("xdp_balance"))
    balance.Balancer(lab.maps).add_service(VIP[4], 80, slots=SLOTS).add(FAR, 8080)
    action, frame = run(lab, tcp(lab))
    assert (action, Ether(frame).dst, Ether(frame)[IP].dst) == ("XDP_REDIRECT", net.interface("alpha/eth0").mac, FAR)


@pytest.mark.parametrize(("refresh_s", "follows"), ((0, True), (3600, False)))
def test_the_next_hop_is_looked_up_again_in_time(net, bpf, refresh_s, follows):
    """A neighbour's new MAC address is used once hop_refresh_s has passed, and not before."""
    lab = placed(net, bpf.load("xdp_balance", hop_refresh_s=refresh_s))
    balance.Balancer(lab.maps).add_service(VIP[4], 80, slots=SLOTS).add(address(net, "alpha", 4))
    frame = tcp(lab)
    run(lab, frame)
    old = Ether(run(lab, frame)[1]).dst
    alpha = net.interface("alpha/eth0")
    change = ["ip", "neigh", "replace", str(alpha.ipv4), "lladdr", "02:00:00:00:aa:aa", "nud", "permanent"]
    assert net["balancer"].popen([*change, "dev", alpha.peer.short_name]).wait(timeout=5) == 0
    assert Ether(run(lab, frame)[1]).dst == ("02:00:00:00:aa:aa" if follows else old)


def test_a_port_used_again_after_closing_is_a_new_flow(net, bpf):
    """After a FIN a SYN from the same port takes the wheel's next turn; a retransmitted SYN stays where it was."""
    lab = placed(net, bpf.load("xdp_balance"))
    serve(net, lab.program, scheduler="ROUND_ROBIN")
    syn = tcp(lab)
    fin = syn.copy()
    fin[TCP].flags = "FA"
    targets = [Ether(run(lab, frame)[1])[IP].dst for frame in (syn, syn, fin, fin, syn, syn)]
    alpha, beta = address(net, "alpha", 4), address(net, "beta", 4)
    assert targets == [alpha, alpha, alpha, alpha, beta, beta]


@pytest.mark.parametrize(("idle_s", "moves"), ((0, True), (3600, False)))
def test_a_flow_silent_for_too_long_is_a_new_flow(net, bpf, idle_s, moves):
    """A UDP flow keeps its backend while it is heard from within udp_idle_s; after that it takes the next turn."""
    lab = placed(net, bpf.load("xdp_balance", udp_idle_s=idle_s))
    serve(net, lab.program, protocol="udp", scheduler="ROUND_ROBIN")
    frame = tcp(lab, protocol="udp")
    run(lab, frame)
    seen = lab.maps["flows4"].items()[0][1].seen_ns
    wait_until(lambda: time.monotonic_ns() > seen + 20_000_000, what="two ticks of the slowest kernel")
    assert Ether(run(lab, frame)[1])[IP].dst == address(net, "beta" if moves else "alpha", 4)
    assert lab.maps["outcomes"].total("REOPENED") == moves


def test_maglev_uses_the_whole_5_tuple_and_a_seed(net, bpf):
    """Ports alone spread a client's flows over all backends; balancers of one seed agree, of another don't."""
    frames = [bytes(Sent().frame(SimpleNamespace(net=net), port)) for port in range(20_000, 20_064)]
    chosen = []
    for seed in (0, 0, 1):
        lab = placed(net, bpf.load("xdp_balance", hash_seed=seed))
        serve(net, lab.program)
        chosen.append([socket.inet_ntoa(run(lab, frame)[1][30:34]) for frame in frames])
    assert set(chosen[0]) == {address(net, name, 4) for name in BACKENDS}
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_lost_flow_finds_its_maglev_backend_again(net, bpf):
    """With the flow table emptied, as after a restart or on another balancer, every flow goes where it went."""
    lab = placed(net, bpf.load("xdp_balance"))
    serve(net, lab.program)
    frames = [tcp(lab) for _ in range(32)]
    before = [run(lab, frame) for frame in frames]
    lab.maps["flows4"].clear()
    assert [run(lab, frame) for frame in frames] == before
    assert len({Ether(frame)[IP].dst for _, frame in before}) > 1


# ---- On a live network: real sockets, the return path, backends that come and go ----

SEGMENT = Topology.bridge("switch", leaves=("client", "balancer", *BACKENDS), offloads={"tx": False})


def one_armed() -> Topology:
    """One segment: the client reaches the service by way of the balancer; the backends hold its address themselves."""
    prefixes = {4: f"{DIRECT_VIP[4]}/32", 6: f"{DIRECT_VIP[6]}/128"}
    router = SEGMENT.interface("balancer/eth0")
    ways = {4: router.ipv4, 6: router.ipv6}
    client = NamespaceSpec("client", routes=tuple(Route(prefixes[ip], str(ways[ip].ip)) for ip in (4, 6)))
    backends = [NamespaceSpec(name, loopback=tuple(prefixes.values())) for name in BACKENDS]
    return SEGMENT.extended(namespaces=(client, NamespaceSpec("balancer", forwarding=True), *backends))


def routed_back() -> Topology:
    """The balancer's kernel has a route for the service's address: without one it says "unreachable" first."""
    client = TOPOLOGY.interface("client/eth0")
    route = Route(f"{VIP[4]}/32", str(client.ipv4.ip))
    return TOPOLOGY.extended(namespaces=[NamespaceSpec("balancer", forwarding=True, routes=(route,))])


@contextmanager
def attached(net: Any, program: Any, mode: Mode) -> Iterator[None]:
    """The program on every interface of the balancer: requests come in by one, replies by the others."""
    with ExitStack() as stack:
        for interface in net["balancer"].interfaces:
            stack.enter_context(program.attach(interface, mode=mode))
        yield


class Servers:
    """A TCP and a UDP socket on one port in each backend; all in this thread, the kernel does the handshakes."""

    def __init__(self, net: Any, ip: int, host: str, port: int) -> None:
        self.family = socket.AF_INET if ip == 4 else socket.AF_INET6
        self.net = net
        self.tcp = {self._bound(name, socket.SOCK_STREAM, host, port): name for name in BACKENDS}
        self.udp = {self._bound(name, socket.SOCK_DGRAM, host, port): name for name in BACKENDS}

    def _bound(self, name: str, kind: int, host: str, port: int) -> socket.socket:
        server = self.net[name].socket(self.family, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        if kind == socket.SOCK_STREAM:
            server.listen(64)
        return server

    def connect(self, host: str, port: int) -> Connection:
        """A TCP connection from the client to a service, and the backend that took it."""
        client = self.net["client"].socket(self.family, socket.SOCK_STREAM)
        client.settimeout(2)
        client.connect((host, port))
        taker = ready(self.tcp)
        served, peer = taker.accept()
        assert peer[:2] == client.getsockname()[:2], "the backend sees the client's own address and port"
        return Connection(client, served, self.tcp[taker])

    def ask(self, client: socket.socket, host: str, port: int) -> str:
        """One datagram to a service and its answer back; the backend that gave it."""
        client.sendto(b"question", (host, port))
        taker = ready(self.udp)
        _, peer = taker.recvfrom(2048)
        taker.sendto(b"answer", peer)
        answer, origin = client.recvfrom(2048)
        assert (answer, origin[:2]) == (b"answer", (host, port)), "the answer comes from the service's address"
        return self.udp[taker]

    def datagram_client(self) -> socket.socket:
        """A UDP socket of the client's: one flow."""
        client = self.net["client"].socket(self.family, socket.SOCK_DGRAM)
        client.settimeout(2)
        return client

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (*self.tcp, *self.udp):
            server.close()


@dataclass
class Connection:
    """Both ends of a connection through the balancer."""

    client: socket.socket
    served: socket.socket
    backend: str

    def talk(self, data: bytes = b"over the wire") -> bool:
        """True when the same bytes arrive, there and back."""
        self.client.sendall(data)
        there = received(self.served, len(data))
        self.served.sendall(there)
        return received(self.client, len(data)) == data

    def close(self) -> None:
        """The client goes first."""
        self.client.close()
        self.served.close()


def ready(sockets: Any, within_s: float = 2.0) -> socket.socket:
    readable, _, _ = select.select(list(sockets), [], [], within_s)
    assert readable, "nothing arrived at any backend"
    return readable[0]


def received(end: socket.socket, count: int) -> bytes:
    end.settimeout(2)
    data = b""
    while len(data) < count:
        data += end.recv(count - len(data)) or pytest.fail("closed by the other side")
    return data


def serve(net: Any, program: Any, ip: int = 4, protocol: str = "tcp", **options: Any) -> tuple[Any, dict[str, Any]]:
    """A service on port 80 with the three backends' port 8080; the backends by name."""
    service = balance.Balancer(program.maps).add_service(VIP[ip], 80, protocol=protocol, slots=SLOTS, **options)
    return service, {name: service.add(address(net, name, ip), 8080) for name in BACKENDS}


def any_address(ip: int) -> str:
    return "0.0.0.0" if ip == 4 else "::"


@modes
@families
def test_connections_reach_every_backend_and_come_back(net, bpf, mode, ip):
    """Six TCP connections by round robin make two a backend, and each carries 100 kB both ways."""
    program = bpf.load("xdp_balance")
    service, _ = serve(net, program, ip, scheduler="ROUND_ROBIN")
    with attached(net, program, mode), Servers(net, ip, any_address(ip), 8080) as servers:
        connections = [servers.connect(VIP[ip], 80) for _ in range(6)]
        assert all(each.talk(bytes(range(256)) * 400) for each in connections)
        for each in connections:
            each.close()
    assert Counter(each.backend for each in connections) == dict.fromkeys(BACKENDS, 2)
    assert service.counts.flows == 6


@modes
@families
def test_datagrams_reach_every_backend_and_come_back(net, bpf, mode, ip):
    """Each of twelve UDP flows keeps its backend over three questions; replies bear the service's address."""
    program = bpf.load("xdp_balance")
    service, backends = serve(net, program, ip, "udp", scheduler="ROUND_ROBIN")
    with attached(net, program, mode), Servers(net, ip, any_address(ip), 8080) as servers:
        asked = [{servers.ask(client, VIP[ip], 80) for _ in range(3)} for client in clients(servers, 12)]
    assert all(len(names) == 1 for names in asked)
    assert Counter(name for names in asked for name in names) == dict.fromkeys(BACKENDS, 4)
    header = 42 if ip == 4 else 62
    assert service.counts == balance.Counts(36, 36 * (header + 8), 36, 36 * (header + 6), 12)
    for backend in backends.values():
        assert backend.counts == balance.Counts(12, 12 * (header + 8), 12, 12 * (header + 6), 4)


def clients(servers: Servers, count: int) -> list[socket.socket]:
    return [servers.datagram_client() for _ in range(count)]


@modes
@families
@pytest.mark.topology(one_armed())
def test_direct_return_by_passes_the_balancer(net, bpf, mode, ip):
    """On one segment requests go out of the interface they came in by; replies go straight to the client."""
    program = bpf.load("xdp_balance")
    balancer = balance.Balancer(program.maps)
    for protocol in ("tcp", "udp"):
        service = balancer.add_service(
            DIRECT_VIP[ip], 80, protocol=protocol, forwarding="DIRECT", scheduler="ROUND_ROBIN"
        )
        for name in BACKENDS:
            service.add(address(net, name, ip))
    with attached(net, program, mode), Servers(net, ip, DIRECT_VIP[ip], 80) as servers:
        connections = [servers.connect(DIRECT_VIP[ip], 80) for _ in range(3)]
        asked = [servers.ask(client, DIRECT_VIP[ip], 80) for client in clients(servers, 3)]
        assert all(each.talk() for each in connections)
        for each in connections:
            each.close()
    assert {each.backend for each in connections} == set(asked) == set(BACKENDS)
    assert service.counts == balance.Counts(3, 3 * ((42 if ip == 4 else 62) + 8), 0, 0, 3)
    assert program.maps["verdicts"].total("XDP_TX").packets == sum(each.counts.packets for each in balancer.services)


@modes
def test_connections_stay_while_backends_come_and_go(net, bpf, mode):
    """Twenty connections keep their backends while one is added, one drained and weights change."""
    program = bpf.load("xdp_balance")
    service = balance.Balancer(program.maps).add_service(VIP[4], 80, slots=SLOTS)
    first = service.add(address(net, "alpha", 4), 8080)
    service.add(address(net, "beta", 4), 8080)
    with attached(net, program, mode), Servers(net, 4, "0.0.0.0", 8080) as servers:
        connections = [servers.connect(VIP[4], 80) for _ in range(20)]
        service.add(address(net, "gamma", 4), 8080, weight=3)
        assert all(each.talk() for each in connections)
        first.drain()
        assert all(each.talk() for each in connections)
        assert first.open_flows() == sum(each.backend == "alpha" for each in connections) > 0
        later = [servers.connect(VIP[4], 80) for _ in range(20)]
        assert "alpha" not in {each.backend for each in later}
        for each in (*connections, *later):
            each.close()
    assert program.maps["outcomes"].total("REOPENED") == 0


def test_a_drained_backend_runs_empty(net, bpf):
    """Its open flows come to 0 when the last of its connections closes, and it can go."""
    program = bpf.load("xdp_balance")
    service, backends = serve(net, program, scheduler="ROUND_ROBIN")
    with attached(net, program, Mode.NATIVE), Servers(net, 4, "0.0.0.0", 8080) as servers:
        connections = [servers.connect(VIP[4], 80) for _ in range(3)]
        backends["beta"].drain()
        assert backends["beta"].open_flows() == 1
        for each in connections:
            each.close()
        wait_until(lambda: backends["beta"].open_flows() == 0, what="beta has no open flows")
        backends["beta"].remove()
    assert [each.slot for each in service.backends] == [backends["alpha"].slot, backends["gamma"].slot]


@modes
def test_a_failed_backend_loses_its_flows_and_no_other_does(net, bpf, mode):
    """UDP flows of a backend that went down continue at another; every other flow stays where it was."""
    program = bpf.load("xdp_balance")
    _, backends = serve(net, program, protocol="udp")
    with attached(net, program, mode), Servers(net, 4, "0.0.0.0", 8080) as servers:
        flows = clients(servers, 24)
        before = [servers.ask(client, VIP[4], 80) for client in flows]
        backends["beta"].fail()
        after = [servers.ask(client, VIP[4], 80) for client in flows]
        backends["beta"].recover()
        recovered = [servers.ask(client, VIP[4], 80) for client in flows]
    assert "beta" in before and "beta" not in after
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "beta")
    assert recovered == after, "a recovered backend takes no flow back"
    assert program.maps["outcomes"].total("REOPENED") == before.count("beta")


def test_a_flow_never_follows_its_slot_to_another_service(net, bpf):
    """A restarted user space gives a backend's slot to another service: the old flow goes to its own service's."""
    program = bpf.load("xdp_balance")
    balance.Balancer(program.maps).add_service(VIP[4], 53, protocol="udp", slots=SLOTS).add(
        address(net, "alpha", 4), 8080
    )
    with attached(net, program, Mode.NATIVE), Servers(net, 4, "0.0.0.0", 8080) as servers:
        client = servers.datagram_client()
        assert servers.ask(client, VIP[4], 53) == "alpha"
        restarted = balance.Balancer(program.maps)
        other = restarted.add_service(VIP[4], 123, protocol="udp", slots=SLOTS).add(address(net, "gamma", 4), 8080)
        restarted.add_service(VIP[4], 53, protocol="udp", slots=SLOTS).add(address(net, "beta", 4), 8080)
        assert other.slot == 0, "the slot that was alpha's"
        assert servers.ask(client, VIP[4], 53) == "beta"


def test_health_works_before_the_table_is_rebuilt(net, bpf):
    """A state written into the map alone, by any program, turns new flows away from that backend at once."""
    program = bpf.load("xdp_balance")
    _, backends = serve(net, program, protocol="udp", scheduler="ROUND_ROBIN")
    backends["alpha"].state = "DOWN"
    backends["alpha"].write()
    with attached(net, program, Mode.NATIVE), Servers(net, 4, "0.0.0.0", 8080) as servers:
        asked = Counter(servers.ask(client, VIP[4], 80) for client in clients(servers, 6))
    assert asked == {"beta": 4, "gamma": 2}, "alpha's turns fall to its neighbour"


def test_weights_share_out_new_flows(net, bpf):
    """With weights 1, 2 and 3, twelve new flows by round robin make 2, 4 and 6."""
    program = bpf.load("xdp_balance")
    _, backends = serve(net, program, protocol="udp", scheduler="ROUND_ROBIN")
    for weight, name in enumerate(BACKENDS, start=1):
        backends[name].set_weight(weight)
    with attached(net, program, Mode.NATIVE), Servers(net, 4, "0.0.0.0", 8080) as servers:
        asked = Counter(servers.ask(client, VIP[4], 80) for client in clients(servers, 12))
    assert asked == {"alpha": 2, "beta": 4, "gamma": 6}


def test_services_are_kept_apart(net, bpf):
    """Two services of one address go to different backends, and a removed one goes nowhere while the other stays."""
    program = bpf.load("xdp_balance")
    balancer = balance.Balancer(program.maps)
    names = {}
    for port, name in ((53, "alpha"), (123, "beta")):
        names[port] = balancer.add_service(VIP[4], port, protocol="udp", slots=SLOTS)
        names[port].add(address(net, name, 4), 8080)
    with attached(net, program, Mode.NATIVE), Servers(net, 4, "0.0.0.0", 8080) as servers:
        one, other = clients(servers, 2)
        assert (servers.ask(one, VIP[4], 53), servers.ask(other, VIP[4], 123)) == ("alpha", "beta")
        names[53].remove()
        before = program.maps["outcomes"].total("NOT_SERVICE")
        one.sendto(b"question", (VIP[4], 53))
        assert servers.ask(other, VIP[4], 123) == "beta"
        wait_until(lambda: program.maps["outcomes"].total("NOT_SERVICE") > before, what="53 is no service any more")
        assert not select.select(list(servers.udp), [], [], 0)[0]


def test_replies_that_could_not_be_told_apart_are_prevented(net, bpf):
    """One client port on two services with one backend port: the second flow is dropped, the first lives on."""
    program = bpf.load("xdp_balance")
    balancer = balance.Balancer(program.maps)
    for port in (53, 123):
        balancer.add_service(VIP[4], port, protocol="udp", slots=SLOTS).add(address(net, "alpha", 4), 8080)
    with attached(net, program, Mode.NATIVE), Servers(net, 4, "0.0.0.0", 8080) as servers:
        client = servers.datagram_client()
        servers.ask(client, VIP[4], 53)
        client.sendto(b"question", (VIP[4], 123))
        wait_until(lambda: program.maps["outcomes"].total("AMBIGUOUS") == 1, what="the second flow is refused")
        assert servers.ask(client, VIP[4], 53) == "alpha"


@pytest.mark.topology(routed_back())
def test_an_expired_packet_is_answered_by_the_kernel(net, bpf):
    """TTL 1 brings the client an ICMP "time exceeded" from the balancer, and no flow is opened for it."""
    program = bpf.load("xdp_balance")
    serve(net, program, protocol="udp")
    with attached(net, program, Mode.NATIVE):
        client = net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        client.connect((VIP[4], 80))
        client.send(b"traceroute")
        _, ancillary, _, _ = wait_until(lambda: error_of(client), what="an ICMP error at the client")
    kind = ancillary[0][2][5]
    assert kind == 11, "ICMP type: time exceeded"
    assert program.maps["outcomes"].total("TTL_EXPIRED") == 1
    assert program.maps["flows4"].items() == []


IP_RECVERR = 11  # linux/in.h; the socket module lacks it


def error_of(client: socket.socket) -> Any:
    try:
        return client.recvmsg(512, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except OSError:
        return None


# ---- Tables: pure arithmetic ----


@pytest.mark.parametrize("count", (3, 10, 100))
def test_maglev_disrupts_little_when_a_backend_leaves(count):
    """When one of N leaves, its slots are shared out and under 2 % of all others change hands, whichever it is."""
    names = [f"10.0.0.{number}:80" for number in range(count)]
    before = [names[index] for index in balance.maglev(names, [1] * count)]
    for gone in (names[0], names[count // 2], names[-1]):
        left = [name for name in names if name != gone]
        after = [left[index] for index in balance.maglev(left, [1] * len(left))]
        assert balance.disruption(before, after, gone) < 0.02
        assert gone not in after


@pytest.mark.parametrize("weights", ([1, 1, 1], [1, 2, 3], [10, 1, 1, 1]))
def test_maglev_shares_follow_the_weights(weights):
    """Each backend has its weight's share of the table to within 1 % of the slots."""
    table = balance.maglev([f"backend {index}" for index in range(len(weights))], weights)
    for index, weight in enumerate(weights):
        assert table.count(index) / len(table) == pytest.approx(weight / sum(weights), abs=0.01)


def test_maglev_tables_agree_anywhere():
    """A table depends on names and weights alone: this one was computed once and written down."""
    assert balance.maglev(("a", "b", "c"), (1, 1, 1), 13) == WRITTEN_DOWN


WRITTEN_DOWN = [1, 2, 0, 1, 0, 0, 2, 2, 2, 0, 1, 1, 0]


def test_the_wheel_spreads_a_heavy_backend_out():
    """Five turns of seven are not five in a row."""
    assert balance.wheel([5, 1, 1]) == [0, 0, 1, 0, 2, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    (
        ((("a", "a"), (1, 1), 13), "one name"),
        ((("a",), (0,), 13), "weight"),
        ((("a",), (1,), 12), "prime"),
        ((("a", "b", "c"), (1, 1, 1), 2), "do not fit"),
    ),
)
def test_a_table_that_could_not_work_is_refused(arguments, reason):
    """Equal names, weights below 1, a size that is no prime and too few slots are ValueErrors that say so."""
    with pytest.raises(ValueError, match=reason):
        balance.maglev(*arguments)
