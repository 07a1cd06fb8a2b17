"""xdp_filter lets through what its rules allow, and drops what they deny."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from threading import Event, Thread
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Padding, Raw

from lab import Mode, Stream, Topology, expect
from lab.bpf import load
from lab.bpf.companion import companion
from lab.effort import effort

rules = companion("xdp_filter")
allow, deny = rules.allow, rules.deny

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})
SERVER = {4: str(TOPOLOGY.address("server", 4)), 6: str(TOPOLOGY.address("server", 6))}
CLIENT = {4: str(TOPOLOGY.address("client", 4)), 6: str(TOPOLOGY.address("client", 6))}

modes = pytest.mark.parametrize("mode", list(Mode), ids=[mode.value for mode in Mode])
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


# ---- By hand, without rules ----


@modes
def test_only_the_denied_port_is_dropped(net, bpf, mode):
    """100 datagrams to 9000 vanish; 100 to 9001 arrive."""
    program = bpf.load("xdp_filter")
    program.maps["deny_ports"][9000] = 1

    with program.attach(net["server"].interface("eth0"), mode=mode):
        denied = net.send(Stream.udp("client", "server", dst_port=9000, count=100))
        passed = net.send(Stream.udp("client", "server", dst_port=9001, count=100))

    assert (denied.received, passed.received) == (0, 100)
    assert program.maps["verdicts"].total("XDP_DROP").packets == 100
    assert program.maps["counts"].total("CLOSED_PORT").packets == 100


def test_a_closed_port_stays_closed_whatever_the_rules_say(bpf):
    """deny_ports comes before the strongest of rules and is opened again by a 0, not by a new rule set."""
    program = bpf.load("xdp_filter")
    made = rules.Filter(program.maps)
    program.maps["deny_ports"][9000] = 1
    made.replace([allow(ports=9000, priority=100)], default="ALLOW")
    assert verdict(program, packet(dport=9000)) == "XDP_DROP"
    program.maps["deny_ports"][9000] = 0
    assert verdict(program, packet(dport=9000)) == "XDP_PASS"


# ---- The verdict table: the form of a frame. 9000 is closed by hand, everything else is allowed by default ----


def ether() -> Any:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def packet(
    ip: int = 4,
    *,
    src: str = "",
    dst: str = "",
    protocol: str = "udp",
    sport: int = 40_000,
    dport: int = 9001,
    vlans: int = 0,
    between: Any = None,
    payload: bytes = b"twelve bytes",
    **fields: Any,
) -> Any:
    """A whole frame; `between` stands between the IP header and the transport header, `fields` go into the former."""
    frame = ether()
    for tag in range(vlans):
        frame /= Dot1Q(vlan=100 + tag)
    if ip == 4:
        frame /= IP(src=src or "10.1.2.3", dst=dst or "192.0.2.1", **fields)
    else:
        frame /= IPv6(src=src or "2001:db8:1::3", dst=dst or "2001:db8:2::1", **fields)
    for header in between or ():
        frame /= header
    if protocol == "icmp":
        return frame / (ICMP() if ip == 4 else ICMPv6EchoRequest()) / Raw(payload)
    layer = {"udp": UDP, "tcp": TCP, "sctp": SCTP}[protocol]
    return frame / layer(sport=sport, dport=dport) / Raw(payload)


def verdict(program: Any, frame: Any) -> str:
    return str(program.run(bytes(frame)).action.name)


def cut(frame: Any, keep: int) -> bytes:
    return bytes(frame)[:keep]


def patched(frame: Any, **bytes_at: int) -> bytes:
    """The frame with bytes changed: at14=0x44 is the first of the network header."""
    raw = bytearray(bytes(frame))
    for name, value in bytes_at.items():
        raw[int(name.removeprefix("at"))] = value
    return bytes(raw)


def holding(ip: int, protocol: int, transport: bytes, **fields: Any) -> Any:
    """An IP packet that says itself how short its transport header is."""
    if ip == 4:
        return ether() / IP(src="10.1.2.3", dst="192.0.2.1", proto=protocol, **fields) / Raw(transport)
    return ether() / IPv6(src="2001:db8::1", dst="2001:db8::2", nh=protocol) / Raw(transport)


def udp_header(dport: int, length: int = 8) -> bytes:
    return struct.pack(">HHHH", 40_000, dport, length, 0)


def fragment6(offset: int, more: int, body: bytes, protocol: int = 17) -> Any:
    header = IPv6ExtHdrFragment(nh=protocol, offset=offset, m=more, id=9)
    return ether() / IPv6(src="2001:db8::1", dst="2001:db8::2") / header / Raw(body)


PASS, CLOSED = ("XDP_PASS", "DEFAULT_POLICY"), ("XDP_DROP", "CLOSED_PORT")
NOT_IP, BAD, DEEP = ("XDP_PASS", "NOT_IP"), ("XDP_DROP", "MALFORMED"), ("XDP_DROP", "TOO_DEEP")
OPTIONS = [IPOption(b"\x94\x04\x00\x00")] * 3
LONG_OPTIONS = [IPOption(b"\x01")] * 40
DESTINATION, HOP_BY_HOP, ROUTING = IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting

BOTH_WAYS: dict[str, Callable[[int], Any]] = {
    f"IPv{ip} {what}": (lambda dport, ip=ip, fields=fields: packet(ip, dport=dport, **fields))
    for ip in (4, 6)
    for what, fields in {
        "UDP": {},
        "TCP": {"protocol": "tcp"},
        "SCTP": {"protocol": "sctp"},
        "without payload": {"payload": b""},
        "TCP without payload": {"payload": b"", "protocol": "tcp"},
        "behind one VLAN tag": {"vlans": 1},
        "behind two VLAN tags": {"vlans": 2},
    }.items()
} | {
    "IPv4 with options": lambda dport: packet(dport=dport, options=OPTIONS),
    "IPv4 with 40 bytes of options": lambda dport: packet(dport=dport, options=LONG_OPTIONS),
    "IPv4 with options behind two tags": lambda dport: packet(dport=dport, options=OPTIONS, vlans=2),
    "IPv4 padded to 60 bytes": lambda dport: packet(dport=dport, payload=b"") / Padding(bytes(18)),
    "IPv4 first fragment": lambda dport: packet(dport=dport, flags="MF", payload=bytes(24)),
    "IPv4 first fragment of a long datagram": lambda dport: holding(
        4, 17, udp_header(dport, 5000) + bytes(24), flags="MF"
    ),
    "IPv4 with the don't-fragment bit": lambda dport: packet(dport=dport, flags="DF"),
    "IPv6 behind a hop-by-hop header": lambda dport: packet(6, dport=dport, between=[HOP_BY_HOP()]),
    "IPv6 behind hop-by-hop, routing and destination options": lambda dport: packet(
        6, dport=dport, between=[HOP_BY_HOP(), ROUTING(addresses=["2001:db8::9"]), DESTINATION()]
    ),
    "IPv6 behind six extension headers": lambda dport: packet(6, dport=dport, between=[DESTINATION()] * 6),
    "IPv6 behind an extension header and two tags": lambda dport: packet(
        6, dport=dport, between=[HOP_BY_HOP()], vlans=2
    ),
    "IPv6 in an atomic fragment (RFC 6946)": lambda dport: fragment6(0, 0, udp_header(dport)),
    "IPv6 first fragment": lambda dport: fragment6(0, 1, udp_header(dport, 5000) + bytes(16)),
    "IPv6 first fragment behind a hop-by-hop header": lambda dport: packet(
        6, dport=dport, between=[HOP_BY_HOP(), IPv6ExtHdrFragment(m=1)], payload=bytes(24)
    ),
}


@pytest.fixture(scope="module")
def closed() -> Iterator[Any]:
    """The program with port 9000 closed by hand; rows share it."""
    with load("xdp_filter") as program:
        program.maps["deny_ports"][9000] = 1
        yield program


@pytest.mark.parametrize("make", BOTH_WAYS.values(), ids=BOTH_WAYS.keys())
def test_ports_are_found_in_every_form_of_packet(closed, make):
    """To 9000 it is dropped; to 8999 and 9001, the neighbours, it passes. Not a byte of it is changed."""
    for dport, (action, _) in ((8999, PASS), (9000, CLOSED), (9001, PASS)):
        frame = bytes(make(dport))
        result = closed.run(frame)
        assert (result.action.name, result.frame) == (action, frame), f"to port {dport}"


FORMS: dict[str, tuple[tuple[str, str], Callable[[], Any]]] = {
    "ARP": (NOT_IP, lambda: ether() / ARP()),
    "LLDP": (NOT_IP, lambda: Ether(src="02:00:00:00:00:01", dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(46))),
    "ARP behind two tags": (NOT_IP, lambda: ether() / Dot1Q() / Dot1Q() / ARP()),
    "an IEEE 802.3 length for a type": (NOT_IP, lambda: Ether(type=46) / Raw(bytes(46))),
    "three VLAN tags": (DEEP, lambda: packet(vlans=3, dport=9000)),
    "four VLAN tags": (DEEP, lambda: packet(vlans=4, dport=9000)),
    "three VLAN tags, the third cut short": (DEEP, lambda: cut(packet(vlans=3), 22)),
    "IPv4 ping": (PASS, lambda: packet(protocol="icmp")),
    "IPv6 ping": (PASS, lambda: packet(6, protocol="icmp")),
    "ESP, whose first bytes are no ports": (PASS, lambda: holding(4, 50, udp_header(9000))),
    "IPv6 without a next header": (PASS, lambda: holding(6, 59, udp_header(9000))),
    "IPv4 in IPv4: what is inside is not looked at": (
        PASS,
        lambda: ether() / IP(src="10.0.0.1", dst="10.0.0.2") / bytes(packet(dport=9000))[14:],
    ),
    "UDP from port 9000": (PASS, lambda: packet(sport=9000)),
    "IPv4 later fragment whose payload looks like port 9000": (
        PASS,
        lambda: holding(4, 17, udp_header(9000) + bytes(24), flags="MF", frag=100),
    ),
    "IPv4 last fragment of two bytes": (PASS, lambda: holding(4, 17, b"xy", frag=100)),
    "IPv4 fragment at offset 1": (PASS, lambda: holding(4, 6, bytes(24), frag=1)),
    "IPv6 later fragment whose payload looks like port 9000": (
        PASS,
        lambda: fragment6(100, 1, udp_header(9000) + bytes(16)),
    ),
    "IPv6 last fragment of two bytes": (PASS, lambda: fragment6(100, 0, b"xy")),
    "IPv6 with seven extension headers": (DEEP, lambda: packet(6, between=[DESTINATION()] * 7)),
    "an Ethernet header alone, of IPv4": (BAD, lambda: cut(packet(), 14)),
    "an Ethernet header alone, of IPv6": (BAD, lambda: cut(packet(6), 14)),
    "a VLAN tag cut short": (BAD, lambda: cut(packet(vlans=1), 17)),
    "a second VLAN tag cut short": (BAD, lambda: cut(packet(vlans=2), 21)),
    "IPv4 header cut short": (BAD, lambda: cut(packet(), 33)),
    "IPv4 header length 4": (BAD, lambda: patched(packet(), at14=0x44)),
    "IPv4 header length 0": (BAD, lambda: patched(packet(), at14=0x40)),
    "IPv4 with version 6": (BAD, lambda: patched(packet(), at14=0x65)),
    "IPv4 options beyond the frame": (BAD, lambda: patched(packet(payload=b""), at14=0x4F)),
    "IPv4 total length below its header": (BAD, lambda: patched(packet(), at16=0, at17=19)),
    "IPv4 total length beyond the frame": (BAD, lambda: cut(packet(), -1)),
    "IPv6 header cut short": (BAD, lambda: cut(packet(6), 53)),
    "IPv6 with version 4": (BAD, lambda: patched(packet(6), at14=0x40)),
    "IPv6 payload length beyond the frame": (BAD, lambda: cut(packet(6), -1)),
    "IPv6 extension header beyond the packet": (BAD, lambda: patched(packet(6, between=[DESTINATION()]), at55=200)),
    "IPv6 extension header cut short": (BAD, lambda: holding(6, 60, b"\x11")),
    "IPv6 fragment header cut short": (BAD, lambda: holding(6, 44, bytes(7))),
    "IPv6 jumbogram": (BAD, lambda: patched(packet(6, between=[HOP_BY_HOP()]), at18=0, at19=0)),
    **{
        f"IPv{ip} {name} header a byte short": (
            BAD,
            lambda ip=ip, number=number, least=least: holding(
                ip, number, (udp_header(9001) + b"\0\0\0\0\x50" + bytes(20))[: least - 1]
            ),
        )
        for ip in (4, 6)
        for name, number, least in (("UDP", 17, 8), ("TCP", 6, 20), ("SCTP", 132, 12))
    },
    "ports that only the padding completes": (BAD, lambda: bytes(holding(4, 17, b"\x9c\x40\x23")).ljust(60, b"\x28")),
    "TCP data offset 4": (BAD, lambda: patched(packet(protocol="tcp"), at46=0x40)),
    "TCP data offset beyond the packet": (BAD, lambda: patched(packet(protocol="tcp", payload=b""), at46=0x60)),
    "UDP length below its header": (BAD, lambda: holding(4, 17, udp_header(9001, 7))),
    "UDP length beyond the packet": (BAD, lambda: holding(4, 17, udp_header(9001, 9))),
    "IPv4 first fragment too small for its TCP header (RFC 1858)": (
        BAD,
        lambda: holding(4, 6, udp_header(9001), flags="MF"),
    ),
    "IPv4 first fragment whose UDP header only the padding completes": (
        BAD,
        lambda: bytes(holding(4, 17, udp_header(9001)[:6], flags="MF")).ljust(60, b"\0"),
    ),
    "IPv6 first fragment too small for its UDP header": (BAD, lambda: fragment6(0, 1, b"\x9c\x40\x23\x28")),
}


@pytest.mark.parametrize(("expected", "make"), FORMS.values(), ids=FORMS.keys())
def test_every_form_of_frame_has_a_verdict_and_a_reason(closed, expected, make):
    """The frame gets the verdict of the table in the program's header, is counted under it, and stays as it was."""
    frame = bytes(make())
    action, decider = expected
    before = closed.maps["counts"].total(decider)
    result = closed.run(frame)
    after = closed.maps["counts"].total(decider)
    assert (result.action.name, result.frame) == (action, frame)
    assert (after.packets - before.packets, after.bytes - before.bytes) == (1, len(frame))


def test_what_is_not_ip_can_be_refused(bpf):
    """With pass_not_ip = 0 ARP is dropped, and IPv4 is not."""
    program = bpf.load("xdp_filter", pass_not_ip=0)
    assert verdict(program, ether() / ARP()) == "XDP_DROP"
    assert verdict(program, packet()) == "XDP_PASS"


# ---- The verdict table: what rules say ----

DEEP_ADDRESS = "2001:db8:1:2:3:4:5:6"


def sibling(octet: int, other: int) -> str:
    """DEEP_ADDRESS with another value in one of its 16 octets."""
    return str(ip_address(int(ip_address(DEEP_ADDRESS)) ^ other << 8 * (15 - octet)))


def siblings(octets: range) -> list[Any]:
    """Four allowed prefixes beside it that end in each octet: too many to compare, so each takes a node."""
    return [
        allow(str(ip_network((sibling(octet, other), 8 * octet + 8), strict=False)))
        for octet in octets
        for other in (1, 2, 3, 4)
    ]


def flipped(bit: int) -> str:
    """DEEP_ADDRESS with one bit turned, the first being 0."""
    return str(ip_address(int(ip_address(DEEP_ADDRESS)) ^ 1 << 127 - bit))


RULES: dict[str, tuple[list[Any], str, list[tuple[str, Any]]]] = {
    # name: rules, default, (verdict, packet) ...
    "no rule, default ALLOW": ([], "ALLOW", [("XDP_PASS", {}), ("XDP_PASS", {"ip": 6})]),
    "no rule, default DENY": ([], "DENY", [("XDP_DROP", {}), ("XDP_DROP", {"ip": 6, "protocol": "icmp"})]),
    "a source prefix ends where it says": (
        [deny("10.1.0.0/16")],
        "ALLOW",
        [
            ("XDP_PASS", {"src": "10.0.255.255"}),
            ("XDP_DROP", {"src": "10.1.0.0"}),
            ("XDP_DROP", {"src": "10.1.255.255"}),
            ("XDP_PASS", {"src": "10.2.0.0"}),
            ("XDP_PASS", {"src": "1.2.3.4", "dst": "10.1.2.3"}),
        ],
    ),
    "a destination prefix of an odd length": (
        [allow(None, "192.0.2.128/27")],
        "DENY",
        [
            ("XDP_DROP", {"dst": "192.0.2.127"}),
            ("XDP_PASS", {"dst": "192.0.2.128"}),
            ("XDP_PASS", {"dst": "192.0.2.159"}),
            ("XDP_DROP", {"dst": "192.0.2.160"}),
        ],
    ),
    "an IPv6 prefix of an odd length": (
        [deny("2001:db8:0:8000::/49")],
        "ALLOW",
        [
            ("XDP_PASS", {"ip": 6, "src": "2001:db8:0:7fff::1"}),
            ("XDP_DROP", {"ip": 6, "src": "2001:db8:0:8000::1"}),
            ("XDP_DROP", {"ip": 6, "src": "2001:db8:0:ffff::1"}),
            ("XDP_PASS", {"ip": 6, "src": "2001:db8:1::1"}),
        ],
    ),
    "single addresses": (
        [deny("10.1.2.3"), deny(None, "2001:db8::1")],
        "ALLOW",
        [
            ("XDP_DROP", {"src": "10.1.2.3"}),
            ("XDP_PASS", {"src": "10.1.2.2"}),
            ("XDP_PASS", {"src": "10.1.2.4"}),
            ("XDP_DROP", {"ip": 6, "dst": "2001:db8::1"}),
            ("XDP_PASS", {"ip": 6, "dst": "2001:db8::"}),
        ],
    ),
    "the longest prefix decides, in whichever order": (
        [deny("10.1.0.0/16"), allow("10.0.0.0/8"), allow("10.1.2.0/24"), deny("10.1.2.3")],
        "DENY",
        [
            ("XDP_PASS", {"src": "10.9.9.9"}),
            ("XDP_DROP", {"src": "10.1.9.9"}),
            ("XDP_PASS", {"src": "10.1.2.4"}),
            ("XDP_DROP", {"src": "10.1.2.3"}),
            ("XDP_DROP", {"src": "11.0.0.1"}),
        ],
    ),
    "prefixes of all lengths around one address": (
        [
            (allow if length % 2 else deny)(str(ip_network(("10.255.170.85", length), strict=False)))
            for length in range(33)
        ],
        "DENY",
        [
            ("XDP_PASS" if length % 2 else "XDP_DROP", {"src": str(ip_address(0x0AFFAA55 ^ (1 << 31 >> length)))})
            for length in range(32)
        ],
    ),
    "IPv6 prefixes of all lengths around one address": (
        [
            (allow if length % 2 else deny)(str(ip_network((0xFD << 120 | 0xA5, length), strict=False)))
            for length in range(129)
        ],
        "DENY",
        [
            (
                "XDP_PASS" if length % 2 else "XDP_DROP",
                {"ip": 6, "src": str(ip_address((0xFD << 120 | 0xA5) ^ (1 << 127 >> length)))},
            )
            for length in range(128)
        ],
    ),
    "a prefix around a crowd of single addresses": (
        [deny("10.1.2.0/24"), *(allow(f"10.1.2.{last}") for last in range(1, 9))],
        "ALLOW",
        [
            ("XDP_DROP", {"src": "10.1.2.0"}),
            ("XDP_PASS", {"src": "10.1.2.8"}),
            ("XDP_DROP", {"src": "10.1.2.9"}),
            ("XDP_PASS", {"src": "10.1.3.9"}),
            ("XDP_PASS", {"src": "10.1.1.9"}),
        ],
    ),
    "a trie as deep as can be": (
        [*siblings(range(2, 16)), allow(DEEP_ADDRESS)],
        "DENY",
        [("XDP_PASS", {"ip": 6, "src": DEEP_ADDRESS})]
        + [("XDP_DROP", {"ip": 6, "src": sibling(octet, 5)}) for octet in range(2, 16)]
        + [("XDP_PASS", {"ip": 6, "src": sibling(octet, 4)}) for octet in range(2, 16)],
    ),
    "a trie that ends in prefixes to compare": (
        [*siblings(range(2, 15)), *(allow(str(ip_network((DEEP_ADDRESS, bits), strict=False))) for bits in (121, 123))]
        + [deny(str(ip_network((DEEP_ADDRESS, bits), strict=False))) for bits in (122, 124)],
        "DENY",
        [("XDP_DROP", {"ip": 6, "src": DEEP_ADDRESS}), ("XDP_PASS", {"ip": 6, "src": flipped(123)})]
        + [("XDP_DROP", {"ip": 6, "src": flipped(bit)}) for bit in (120, 122)]
        + [("XDP_PASS", {"ip": 6, "src": flipped(121)})],
    ),
    "::/0 is IPv6 alone": ([deny("::/0")], "ALLOW", [("XDP_PASS", {}), ("XDP_DROP", {"ip": 6})]),
    "a longer source beats a longer destination": (
        [deny("10.1.0.0/16"), allow(None, "192.0.2.1/32")],
        "ALLOW",
        [("XDP_DROP", {"src": "10.1.0.1"}), ("XDP_PASS", {"src": "10.2.0.1"})],
    ),
    "both addresses must fit a pair": (
        [deny("10.1.0.0/16", "192.0.2.0/24"), allow("10.1.7.0/24")],
        "ALLOW",
        [
            ("XDP_DROP", {"src": "10.1.0.1"}),
            ("XDP_PASS", {"src": "10.1.0.1", "dst": "192.0.3.1"}),
            ("XDP_PASS", {"src": "10.2.0.1"}),
            ("XDP_PASS", {"src": "10.1.7.1"}),
        ],
    ),
    "of two pairs the longer destination decides": (
        [deny("10.1.0.0/16", "192.0.2.0/24"), allow("10.1.0.0/16", "192.0.2.1")],
        "DENY",
        [("XDP_PASS", {}), ("XDP_DROP", {"dst": "192.0.2.2"})],
    ),
    "a port range has two ends": (
        [deny(ports="8000-8999")],
        "ALLOW",
        [
            ("XDP_PASS", {"dport": 7999}),
            ("XDP_DROP", {"dport": 8000}),
            ("XDP_DROP", {"dport": 8999}),
            ("XDP_PASS", {"dport": 9000}),
            ("XDP_PASS", {"sport": 8500}),
            ("XDP_DROP", {"ip": 6, "dport": 8500}),
        ],
    ),
    "ports 0 and 65535 are ports": (
        [deny(ports="0-1"), deny(ports=65535)],
        "ALLOW",
        [
            ("XDP_DROP", {"dport": 0}),
            ("XDP_PASS", {"dport": 2}),
            ("XDP_PASS", {"dport": 65534}),
            ("XDP_DROP", {"dport": 65535}),
        ],
    ),
    "the narrower range decides": (
        [deny(ports="8000-8999"), allow(ports="8080-8089"), deny(ports=8085)],
        "ALLOW",
        [
            ("XDP_DROP", {"dport": 8079}),
            ("XDP_PASS", {"dport": 8080}),
            ("XDP_PASS", {"dport": 8089}),
            ("XDP_DROP", {"dport": 8090}),
            ("XDP_DROP", {"dport": 8085}),
        ],
    ),
    "source ports": (
        [allow(source_ports=53), allow(source_ports="1000-1001", ports=5353)],
        "DENY",
        [
            ("XDP_PASS", {"sport": 53}),
            ("XDP_DROP", {"sport": 54}),
            ("XDP_PASS", {"sport": 1001, "dport": 5353}),
            ("XDP_DROP", {"sport": 1001}),
            ("XDP_DROP", {"sport": 1002, "dport": 5353}),
        ],
    ),
    "a rule of ports alone holds for TCP, UDP and SCTP": (
        [allow(ports=9001)],
        "DENY",
        [("XDP_PASS", {"protocol": name}) for name in ("tcp", "udp", "sctp")] + [("XDP_DROP", {"protocol": "icmp"})],
    ),
    "a protocol": (
        [allow(protocol="tcp"), allow(protocol=58)],
        "DENY",
        [
            ("XDP_PASS", {"protocol": "tcp"}),
            ("XDP_DROP", {}),
            ("XDP_DROP", {"protocol": "icmp"}),
            ("XDP_PASS", {"ip": 6, "protocol": "icmp"}),
            ("XDP_PASS", {"ip": 6, "protocol": "tcp"}),
        ],
    ),
    "a port of one protocol": (
        [deny(protocol="tcp", ports=9001)],
        "ALLOW",
        [("XDP_DROP", {"protocol": "tcp"}), ("XDP_PASS", {}), ("XDP_PASS", {"protocol": "tcp", "dport": 9002})],
    ),
    "a prefix, a protocol and a port at once": (
        [allow("10.1.0.0/16", protocol="tcp", ports=443), deny("10.0.0.0/8")],
        "ALLOW",
        [
            ("XDP_PASS", {"protocol": "tcp", "dport": 443}),
            ("XDP_DROP", {"protocol": "tcp", "dport": 444}),
            ("XDP_DROP", {"dport": 443}),
            ("XDP_DROP", {"src": "10.2.0.1", "protocol": "tcp", "dport": 443}),
            ("XDP_PASS", {"src": "11.0.0.1"}),
        ],
    ),
    "a longer prefix that does not fit otherwise leaves it to the shorter": (
        [allow("10.1.2.0/24", ports=1), deny("10.1.0.0/16")],
        "ALLOW",
        [("XDP_DROP", {"src": "10.1.2.3"}), ("XDP_PASS", {"src": "10.1.2.3", "dport": 1})],
    ),
    "priority beats length": (
        [deny("10.1.2.3"), allow(ports=22, priority=1), deny(None, "192.0.2.9", priority=2)],
        "ALLOW",
        [("XDP_DROP", {}), ("XDP_PASS", {"dport": 22}), ("XDP_DROP", {"dport": 22, "dst": "192.0.2.9"})],
    ),
    "of equally strong rules the first decides": (
        [deny(ports="8000-8099"), allow(ports="8050-8149")],
        "DENY",
        [("XDP_DROP", {"dport": 8050}), ("XDP_DROP", {"dport": 8099}), ("XDP_PASS", {"dport": 8100})],
    ),
    "tags, options and extension headers change nothing": (
        [deny("10.1.2.3", ports=9001), deny("2001:db8:1::/48", protocol="udp")],
        "ALLOW",
        [
            ("XDP_DROP", {"vlans": 1}),
            ("XDP_DROP", {"vlans": 2}),
            ("XDP_DROP", {"options": OPTIONS}),
            ("XDP_PASS", {"vlans": 2, "dport": 9002}),
            ("XDP_DROP", {"ip": 6, "between": [HOP_BY_HOP(), DESTINATION()]}),
            ("XDP_PASS", {"ip": 6, "between": [HOP_BY_HOP()], "protocol": "tcp"}),
        ],
    ),
    "narrow ports beat a protocol": (
        [deny(protocol="udp"), allow(ports="9000-9001")],
        "DENY",
        [("XDP_PASS", {}), ("XDP_DROP", {"dport": 9002})],
    ),
    "a later fragment is judged by the rules without ports": (
        [deny("10.1.0.0/16", protocol="udp"), allow("10.1.0.0/16", ports=9001), allow("10.2.0.0/16", ports=9001)],
        "DENY",
        [
            ("XDP_PASS", {}),
            ("XDP_DROP", {"frag": 4}),
            ("XDP_PASS", {"src": "10.2.0.1"}),
            ("XDP_DROP", {"src": "10.2.0.1", "frag": 4}),
        ],
    ),
}


@pytest.mark.parametrize(("listed", "default", "rows"), RULES.values(), ids=RULES.keys())
def test_the_strongest_rule_decides(listed, default, rows, bpf):
    """Each packet gets the verdict of the strongest rule that matches it, or the default's."""
    program = bpf.load("xdp_filter")
    rules.Filter(program.maps).replace(listed, default=default)
    found = [(verdict(program, packet(**fields)), fields) for _, fields in rows]
    assert found == rows


def test_hits_and_bytes_are_counted_by_rule(bpf):
    """Every packet is counted once, with the bytes of its whole frame, at the rule that decided."""
    program = bpf.load("xdp_filter")
    made = rules.Filter(program.maps)
    outer, inner, port = allow("10.0.0.0/8"), deny("10.1.0.0/16"), deny(ports=22)
    made.replace([outer, inner, port])
    frames = [packet(src=src, dport=dport) for src, dport in (("10.2.0.1", 1), ("10.1.0.1", 22), ("11.0.0.1", 22))]
    for frame in (*frames, *frames[:1], packet(src="11.0.0.1")):
        program.run(bytes(frame))
    size = len(bytes(frames[0]))
    assert made.counts(outer) == rules.Counts(2, 2 * size)
    assert made.counts(inner) == made.counts(port) == made.default_counts() == rules.Counts(1, size)
    everything = program.maps["counts"].total()
    assert (everything.packets, everything.bytes) == (5, 5 * size)
    assert sum(program.maps["verdicts"].total(name).packets for name in ("XDP_PASS", "XDP_DROP")) == 5


# ---- Changing rules ----


def test_a_rule_counts_on_while_others_come_and_go(bpf):
    """A rule keeps its count through changes; one that went and came back begins at 0."""
    program = bpf.load("xdp_filter")
    made = rules.Filter(program.maps)
    kept, other = deny("10.1.2.3"), deny("10.9.0.0/16")
    made.replace([kept])
    for step in (lambda: made.add(other), lambda: made.remove(other), lambda: made.replace([kept], default="DENY")):
        program.run(bytes(packet()))
        step()
    program.run(bytes(packet()))
    assert made.counts(kept).packets == 4
    made.remove(kept)
    program.run(bytes(packet()))
    made.add(kept)
    assert made.counts(kept).packets == 0
    assert made.rules == (kept,) and made.default == "DENY"


def test_a_counter_is_given_to_another_rule_at_zero(bpf):
    """Of many rule sets one after the other, each begins to count at 0 though counters are few."""
    program = bpf.load("xdp_filter", max_entries={"counts": rules.FIRST_COUNTER + 2})
    made = rules.Filter(program.maps)
    for port in range(9001, 9011):
        rule = deny(ports=port)
        made.replace([rule])
        program.run(bytes(packet(dport=port)))
        assert made.counts(rule).packets == 1


@pytest.mark.parametrize("table", ("steps", "nodes", "cells", "rules", "counts", "pairs", "rows"))
def test_a_rule_set_without_room_changes_nothing(bpf, table):
    """It is refused with the name of the map that is too small, and the old rules are still in force."""
    program = bpf.load("xdp_filter", max_entries={table: 9})
    made = rules.Filter(program.maps)
    first = deny("10.1.2.3")
    made.replace([first])
    many = [deny(f"10.{place}.0.0/16", f"192.0.{place}.0/24", ports=place) for place in range(9)]
    many += [allow(f"10.{high}.{low}.0/25", protocol="tcp") for high in range(10, 18) for low in range(5)]
    with pytest.raises(ValueError, match=f"map {table}"):
        made.replace(many, default="DENY")
    assert (made.rules, made.default) == ((first,), "ALLOW")
    assert [verdict(program, packet(src=src)) for src in ("10.1.2.3", "10.3.0.1")] == ["XDP_DROP", "XDP_PASS"]


def test_a_second_filter_takes_over(bpf):
    """User space was restarted: its rules replace those in force, and their counts begin at 0."""
    program = bpf.load("xdp_filter")
    rules.Filter(program.maps).replace([deny("10.1.2.3")])
    program.run(bytes(packet()))
    made = rules.Filter(program.maps)
    mine = allow("10.1.2.3")
    made.replace([mine], default="DENY")
    assert verdict(program, packet()) == "XDP_PASS"
    assert verdict(program, packet(src="10.1.2.4")) == "XDP_DROP"
    assert made.counts(mine).packets == 1


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "no address": ("no address", lambda: deny("10.0.0")),
    "a length beyond 32": ("0 to 32", lambda: deny("10.0.0.0/33")),
    "bits behind the prefix": ("behind its prefix", lambda: deny("10.0.0.1/8")),
    "two families": ("both families", lambda: deny("10.0.0.0/8", "2001:db8::/32")),
    "ports of ICMP": ("have ports", lambda: deny(protocol="icmp", ports=1)),
    "an unknown protocol": ("protocol 'tpc'", lambda: deny(protocol="tpc")),
    "port 65536": ("ports 65536", lambda: deny(ports=65536)),
    "a range the wrong way round": ("ports '9-8'", lambda: deny(ports="9-8")),
    "three ends": ("ports '1-2-3'", lambda: deny(ports="1-2-3")),
    "one rule twice": ("same packets", lambda: rules.ranked([deny(ports=1), deny(ports="1-1")])),
    "allow and deny of the same": ("same packets", lambda: rules.ranked([deny("::1"), allow("::1/128")])),
}


@pytest.mark.parametrize(("words", "make"), REFUSED.values(), ids=REFUSED.keys())
def test_a_rule_that_makes_no_sense_is_refused(words, make):
    """With a sentence that says what is wrong."""
    with pytest.raises(ValueError, match=words):
        make()


# ---- Against a model: rules applied one by one, in plain Python ----


@dataclass(frozen=True)
class Seen:
    """What a packet is to the rules; ports are None where it carries none."""

    ip: int
    source: int
    dest: int
    protocol: int
    sport: int | None
    dport: int | None


def matches(rule: Any, seen: Seen) -> bool:
    for prefix, address in ((rule.source, seen.source), (rule.destination, seen.dest)):
        if prefix is not None:
            below = (32 if prefix.family == 4 else 128) - prefix.length
            if prefix.family != seen.ip or prefix.number >> below != address >> below:
                return False
    for ports, port in ((rule.ports, seen.dport), (rule.source_ports, seen.sport)):
        if ports is not None and (port is None or not ports[0] <= port <= ports[1]):
            return False
    return rule.protocol in (None, seen.protocol)


def specificity(rule: Any) -> list[int]:
    """The order that the program's header states, spelled out anew."""
    lengths = [-1 if prefix is None else prefix.length for prefix in (rule.source, rule.destination)]
    widths = [1 << 17 if ports is None else ports[1] - ports[0] + 1 for ports in (rule.ports, rule.source_ports)]
    return [rule.priority, *lengths, *(-width for width in widths), 0 if rule.protocol is None else 1]


def judged(listed: list[Any], seen: Seen) -> Any:
    """The rule that decides, or None: max() keeps the first of equals."""
    return max((rule for rule in listed if matches(rule, seen)), key=specificity, default=None)


class Dice:
    """Random rules and packets from pools so small that they meet."""

    def __init__(self, seed: int) -> None:
        self.roll = random.Random(seed)
        self.addresses = {4: self._pool(32), 6: self._pool(128)}
        self.ports = [0, 65535, *self.roll.sample(range(65536), 8)]

    def _pool(self, width: int) -> list[int]:
        """Addresses that share beginnings of all lengths."""
        pool = [self.roll.getrandbits(width)]
        for _ in range(40):
            pool.append(self.roll.choice(pool) ^ (1 << self.roll.randrange(width)))
        return pool

    def maybe(self, share: float) -> bool:
        """True as often as that."""
        return self.roll.random() < share

    def prefix(self, ip: int) -> str:
        """Around a known address."""
        width = 32 if ip == 4 else 128
        length = self.roll.choice((width, self.roll.randrange(width + 1), self.roll.randrange(width + 1)))
        number = self.roll.choice(self.addresses[ip]) >> width - length << width - length
        text = socket.inet_ntop(socket.AF_INET if ip == 4 else socket.AF_INET6, number.to_bytes(width // 8, "big"))
        return f"{text}/{length}"

    def port(self) -> int:
        """A known one, or its neighbour."""
        return min(65535, max(0, self.roll.choice(self.ports) + self.roll.choice((-1, 0, 0, 1))))

    def range(self) -> tuple[int, int]:
        """Often a single port."""
        first, last = sorted((self.port(), self.port()))
        return (first, first) if self.maybe(0.4) else (first, last)

    def rule(self) -> Any:
        """Of any kind that makes sense."""
        ip = self.roll.choice((4, 6))
        ports = self.range() if self.maybe(0.4) else None
        source_ports = self.range() if self.maybe(0.15) else None
        protocols = (6, 17, 132) if ports or source_ports else (1, 6, 17, 50, 58, 132)
        return self.roll.choice((allow, deny))(
            self.prefix(ip) if self.maybe(0.6) else None,
            self.prefix(ip) if self.maybe(0.4) else None,
            protocol=self.roll.choice(protocols) if self.maybe(0.3) else None,
            ports=ports,
            source_ports=source_ports,
            priority=self.roll.choice((0, 0, 0, 0, 1, -1)),
        )

    def rules(self, count: int) -> list[Any]:
        """No two that match the very same packets."""
        made = {}
        for rule in (self.rule() for _ in range(count)):
            made.setdefault((rule.source, rule.destination, rule.protocol, rule.ports, rule.source_ports), rule)
        return list(made.values())

    def packet(self) -> tuple[Seen, bytes]:
        """With options or extension headers, tags, padding and fragments as they fall."""
        ip, protocol = self.roll.choice((4, 6)), self.roll.choice((1, 6, 6, 17, 17, 50, 58, 132))
        source, dest = self.roll.choices(self.addresses[ip], k=2)
        sport, dport = self.port(), self.port()
        fragment = self.roll.choice(("", "", "", "", "first", "later"))
        body = transport(protocol, sport, dport) + bytes(self.roll.randrange(20))
        network = (self._ip4 if ip == 4 else self._ip6)(source, dest, protocol, fragment, body)
        frame = bytes(12) + self._tags() + (b"\x08\x00" if ip == 4 else b"\x86\xdd") + network
        if fragment == "later" or protocol not in (6, 17, 132):
            return Seen(ip, source, dest, protocol, None, None), frame
        return Seen(ip, source, dest, protocol, sport, dport), frame

    def _tags(self) -> bytes:
        kinds = self.roll.choices((b"\x81\x00", b"\x88\xa8"), k=self.roll.choice((0, 0, 1, 2)))
        return b"".join(kind + struct.pack(">H", self.roll.getrandbits(16)) for kind in kinds)

    def _ip4(self, source: int, dest: int, protocol: int, fragment: str, body: bytes) -> bytes:
        options = b"\x01" * (4 * self.roll.choice((0, 0, 0, 1, 5, 10)))
        words, flags = (
            5 + len(options) // 4,
            {"": 0x4000, "first": 0x2000, "later": 0x2000 | self.roll.randrange(1, 8191)},
        )
        total = 20 + len(options) + len(body)
        header = struct.pack(">BBHHHBBHII", 0x40 | words, 0, total, 7, flags[fragment], 64, protocol, 0, source, dest)
        return header + options + body + bytes(self.roll.choice((0, 0, 6)))

    def _ip6(self, source: int, dest: int, protocol: int, fragment: str, body: bytes) -> bytes:
        if fragment:
            offset = 0 if fragment == "first" else self.roll.randrange(1, 8191) << 3
            protocol, body = 44, struct.pack(">BBHI", protocol, 0, offset | 1, 9) + body
        for kind in self.roll.choices((0, 43, 51, 60, 135), k=self.roll.choice((0, 0, 0, 1, 2, 5))):
            units = self.roll.randrange(3)
            octets = (units + 2) * 4 if kind == 51 else (units + 1) * 8
            protocol, body = kind, bytes((protocol, units)).ljust(octets, b"\0") + body
        header = struct.pack(">IHBB", 6 << 28, len(body), protocol, 64)
        return (
            header + source.to_bytes(16, "big") + dest.to_bytes(16, "big") + body + bytes(self.roll.choice((0, 0, 6)))
        )


def transport(protocol: int, sport: int, dport: int) -> bytes:
    """The smallest header that is whole."""
    ports = struct.pack(">HH", sport, dport)
    return ports + {6: bytes(8) + b"\x50" + bytes(7), 17: b"\0\x08\0\0", 132: bytes(8)}.get(protocol, bytes(4))


@pytest.mark.parametrize("count", (1, 5, 40, 200))
def test_random_frames_agree_with_the_model(bpf, count):
    """Five sets of so many rules, 500 frames each ($LAB_EFFORT): verdicts and counts are the model's."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = Dice(seed)
    program = bpf.load("xdp_filter", max_entries={"cells": 1 << 20, "pairs": 1 << 17})
    made = rules.Filter(program.maps)
    for default in ("ALLOW", "DENY") * 2 + ("ALLOW",):
        listed = dice.rules(count)
        made.replace(listed, default=default)
        before, begun = made.default_counts(), {rule: made.counts(rule) for rule in listed}
        packets = [dice.packet() for _ in range(effort(500))]
        decided, sizes = Counter(), Counter()
        for (seen, frame), result in zip(packets, program.run_many([raw for _, raw in packets]), strict=True):
            rule = judged(listed, seen)
            action = rule.action if rule else default
            assert result.action.name == ("XDP_DROP" if action == "DENY" else "XDP_PASS"), f"{seen}: {rule}"
            decided[rule] += 1
            sizes[rule] += len(frame)
        counted = {rule: made.counts(rule) for rule in listed}
        assert counted == {
            rule: rules.Counts(old.packets + decided[rule], old.bytes + sizes[rule]) for rule, old in begun.items()
        }
        assert made.default_counts().packets - before.packets == decided[None]


def random_prefixes(roll: random.Random, ip: int, count: int) -> dict[tuple[int, int, int], Any]:
    """Rules by side (0 source, 1 destination), number and length; of all lengths, around 200 addresses."""
    width, shortest = (32, 8) if ip == 4 else (128, 16)
    bases = [roll.getrandbits(width) for _ in range(200)]
    known: dict[tuple[int, int, int], Any] = {}
    while len(known) < count:
        length, side = roll.randrange(shortest, width + 1), roll.randrange(2)
        number = (roll.choice(bases) ^ roll.getrandbits(width - 10)) >> width - length << width - length
        prefix = rules.Prefix(ip, number, length)
        rule = rules.Rule(roll.choice(("ALLOW", "DENY")), *((prefix, None) if side == 0 else (None, prefix)))
        known.setdefault((side, number, length), rule)
    return known


def longest(known: dict[tuple[int, int, int], Any], side: int, width: int, address: int) -> Any:
    """The rule of the longest prefix that holds the address, or None: each length is looked up."""
    found = (known.get((side, address >> width - length << width - length, length)) for length in range(width, 7, -1))
    return next((rule for rule in found if rule), None)


def test_many_prefixes_agree_with_a_dictionary(bpf):
    """Longest match over 50,000 random prefixes of each family, sources and destinations, for 2,000 packets of each.

    $LAB_EFFORT of both.
    """
    prefixes, packets = effort(50_000), effort(2_000)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    roll = random.Random(seed)
    known = {ip: random_prefixes(roll, ip, prefixes) for ip in (4, 6)}
    listed = [*known[4].values(), *known[6].values()]
    program = bpf.load("xdp_filter", max_entries=rules.room(listed))
    rules.Filter(program.maps).replace(listed, default="DENY")
    for ip, width in ((4, 32), (6, 128)):
        near = [number for _, number, _ in roll.sample(list(known[ip]), packets)]
        pairs = [
            (roll.choice(near) ^ roll.getrandbits(roll.randrange(width)), roll.choice(near)) for _ in range(packets)
        ]
        results = program.run_many([bare_frame(ip, source, dest) for source, dest in pairs])
        for (source, dest), result in zip(pairs, results, strict=True):
            rule = longest(known[ip], 0, width, source) or longest(known[ip], 1, width, dest)
            action = rule.action if rule else "DENY"
            expected = "XDP_PASS" if action == "ALLOW" else "XDP_DROP"
            assert result.action.name == expected, f"{source:x} {dest:x}: {rule}"


def bare_frame(ip: int, source: int, dest: int) -> bytes:
    """An IP packet of no protocol."""
    if ip == 4:
        return bytes(12) + b"\x08\x00" + struct.pack(">BBHHHBBHII", 0x45, 0, 20, 0, 0, 64, 59, 0, source, dest)
    addresses = source.to_bytes(16, "big") + dest.to_bytes(16, "big")
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 0, 59, 64) + addresses


# ---- On a live network ----


@modes
@families
def test_streams_are_filtered_by_prefix_port_and_protocol(net, bpf, mode, ip):
    """From a denied prefix only what a longer rule allows arrives, by UDP, TCP and ping; each is counted."""
    program = bpf.load("xdp_filter")
    made = rules.Filter(program.maps)
    wide, udp, tcp = deny(CLIENT[ip]), allow(CLIENT[ip], protocol="udp", ports="9000-9009"), allow(CLIENT[ip], ports=80)
    with program.attach(net.interface("server/eth0"), mode=mode):
        assert net.send(Stream.icmp("client", "server", count=5, ip=ip)).received == 5
        made.replace([wide, udp, tcp])
        received = {
            port: net.send(Stream.udp("client", "server", dst_port=port, count=50, ip=ip, frame_bytes=200)).received
            for port in (8999, 9000, 9009, 9010)
        }
        connected = net.send(Stream.tcp("client", "server", dst_port=80, count=10, ip=ip))
        pinged = net.send(Stream.icmp("client", "server", count=5, ip=ip))
    assert received == {8999: 0, 9000: 50, 9009: 50, 9010: 0}
    assert (connected.received, pinged.received) == (10, 0)
    assert made.counts(udp) == rules.Counts(100, 100 * 200)
    assert made.counts(wide).packets == 100 + 5
    assert made.counts(tcp).packets >= 10


@modes
def test_a_denied_connection_is_never_made(net, bpf, mode):
    """With default DENY and one port allowed, TCP to it carries all messages and TCP to its neighbour none."""
    program = bpf.load("xdp_filter")
    rules.Filter(program.maps).replace([allow(protocol="tcp", ports=8080)], default="DENY")
    with program.attach(net.interface("server/eth0"), mode=mode):
        reached = net.send(Stream.tcp("client", "server", dst_port=8080, count=20))
        refused = net.send(Stream.tcp("client", "server", dst_port=8081, count=1))
    assert (reached.received, refused.received) == (20, 0)


@modes
def test_every_form_of_packet_arrives_as_it_was_or_not_at_all(net, bpf, mode):
    """Tags, options, extension headers and fragments on the wire: to 9001 whole, to 9000 nothing."""
    program = bpf.load("xdp_filter")
    rules.Filter(program.maps).replace([deny(ports=9000)])
    passed = [bytes(make(9001)) for make in BOTH_WAYS.values()]
    denied = [bytes(make(9000)) for make in BOTH_WAYS.values()]
    with program.attach(net.interface("server/eth0"), mode=mode):
        received = net.exchange(
            [frame for both in zip(denied, passed, strict=True) for frame in both], at="client/eth0"
        )
    expect(received["server/eth0"]).equals(passed)
    assert program.maps["verdicts"].total("XDP_DROP").packets == len(denied)


STAR = Topology.star("server", leaves=("first", "second"), offloads={"tx": False})


@pytest.mark.topology(STAR)
def test_rules_change_again_and_again_and_nothing_slips(net, bpf):
    """Under running streams, native and generic: what every rule set allows all arrives, what all deny never does."""
    program = bpf.load("xdp_filter")
    made = rules.Filter(program.maps)
    always = [allow(protocol="udp", ports=9001), deny(protocol="udp", ports=9000)]
    crowd = [(allow if place % 2 else deny)(f"172.16.{place}.0/24", ports=(place, 9500)) for place in range(100)]
    sets = [
        (always, "ALLOW"),
        ([*crowd, always[0]], "DENY"),
        ([always[1], *crowd[:7]], "ALLOW"),
        ([allow("0.0.0.0/0", ports="9001-9100"), deny("0.0.0.0/0", priority=-1)], "DENY"),
    ]
    made.replace(always)
    streams = [
        Stream.udp(leaf, "server", dst_port=port, src_port=port, count=1_000_000, rate_pps=1500)
        for leaf in ("first", "second")
        for port in (9001, 9000)
    ]
    native, generic = net["server"].interfaces
    with (
        program.attach(native, mode=Mode.NATIVE),
        program.attach(generic, mode=Mode.GENERIC),
        net.sending(*streams) as sending,
    ):
        for change in range(effort(200)):
            listed, default = sets[change % 4]
            made.replace(listed, default=default)
        sending.stop()
    for allowed, denied in (sending.deliveries[:2], sending.deliveries[2:]):
        assert (allowed.lost, denied.received) == (0, 0)
        assert min(allowed.offered, denied.offered) > effort(200), "there was something to lose at every change"
    dropped = sum(each.offered - each.received for each in sending.deliveries)
    assert program.maps["verdicts"].total("XDP_DROP").packets == dropped


def test_rules_change_under_a_flood_and_no_packet_sees_half_of_them(net, bpf):
    """Half a second of live frames at full speed: every one is denied, though what denies it changes all the time."""
    program = bpf.load("xdp_filter")
    made = rules.Filter(program.maps)
    crowd = [allow(f"10.{place}.0.0/16", ports=place + 1) for place in range(100, 150)]
    sets = [
        ([deny(ports=9000)], "ALLOW"),
        ([*crowd, allow(ports=9001)], "DENY"),
        ([deny(CLIENT[4]), deny("10.0.0.0/8", "10.0.0.0/8"), *crowd], "ALLOW"),
        ([allow("0.0.0.0/0"), deny(None, SERVER[4], priority=1)], "ALLOW"),
    ]
    made.replace(sets[0][0])
    ended = Event()
    changes = 0

    def change() -> None:
        nonlocal changes
        while not ended.is_set():
            changes += 1
            listed, default = sets[changes % 4]
            made.replace(listed, default=default)

    changer = Thread(target=change)
    frame = packet(src=CLIENT[4], dst=SERVER[4], dport=9000)
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        changer.start()
        try:
            delivery = net.flood("client/eth0", frame, seconds=0.5)
        finally:
            ended.set()
            changer.join()
    verdicts = program.maps["verdicts"]
    assert (verdicts.total("XDP_PASS").packets, verdicts.total("XDP_ABORTED").packets) == (0, 0)
    assert verdicts.total("XDP_DROP").packets == delivery.received > 1000
    assert changes > 0
