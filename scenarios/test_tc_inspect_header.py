"""tc_inspect_header reads every header as scapy does from the same bytes, and says where a frame ends too soon."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import accumulate
from threading import Thread
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, IPOption_Router_Alert, IPOption_RR, TCPOptions
from scapy.layers.inet6 import (
    MIP6MH_BU,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    RouterAlert,
    _ICMPv6,
    _MobilityHeader,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import NoPayload, Raw

from lab import Action, Direction, Stream, Topology
from lab.bpf import load
from lab.bpf.companion import companion
from lab.effort import effort
from lab.host.plain import plain as as_plain
from lab.traffic import frames

inspect = companion("tc_inspect_header")

TOPOLOGY = Topology.pair("client", "server")
SEED = 20261121
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="192.0.2.1", dst="198.51.100.2")
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")


@pytest.fixture(scope="module")
def program() -> Iterator[Any]:
    """Both halves, without a filter."""
    with load("tc_inspect_header") as made:
        yield made


def inspected(program: Any, sent: list[bytes]) -> list[Any]:
    """What the program says of frames that PROG_RUN hands to it; every verdict is TC_ACT_UNSPEC, no byte changes."""
    program.maps["events"].drain()
    results = program.programs["inspect_ingress"].run_many(sent)
    assert {each.action for each in results} == {Action.TC_ACT_UNSPEC}
    assert [bytes(each.frame) for each in results] == sent
    seen = list(inspect.frames(program))
    assert len(seen) == len(sent), "one event a frame"
    return seen


@pytest.fixture
def wire(net: Any, program: Any) -> Iterator[Any]:
    """The same for frames that a raw socket sends: PROG_RUN refuses what is too short for its headers."""
    half = program.programs["inspect_egress"]
    with (
        net["client"].socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw,
        half.attach(net.interface("client/eth0"), direction=Direction.EGRESS),
    ):
        raw.bind(("eth0", 0))

        def send(sent: list[bytes]) -> list[Any]:
            program.maps["events"].drain()
            for each in sent:
                raw.send(each)
            seen = list(inspect.frames(program))
            assert [each.frame_bytes for each in seen] == [len(each) for each in sent], "one event a frame"
            return seen

        yield send


# ---- What scapy says ----


def by_scapy(raw: bytes) -> list[dict[str, Any]]:
    """The layers of a frame from the outside in, as the companion names their fields."""
    return list(layers_by_scapy(raw))


def layers_by_scapy(raw: bytes) -> Iterator[dict[str, Any]]:
    """One after the other, until one that the companion does not know either."""
    layer = Ether(raw)
    while not isinstance(layer, NoPayload):
        fields = fields_of(layer)
        if fields is None:
            return
        yield fields
        layer = behind(layer)


def behind(layer: Any) -> Any:
    """The next layer. Behind an authentication header scapy knows tunnels only: it is told there."""
    if not isinstance(layer, AH):
        return layer.payload
    return BEHIND_AH.get(layer.nh, Raw)(layer.payload.original)


def fields_of(layer: Any) -> dict[str, Any] | None:
    """Of one scapy layer; None for payload."""
    if isinstance(layer, _ICMPv6):
        return of_icmpv6(layer)
    if isinstance(layer, _MobilityHeader):
        return {"layer": "mobility", "next_header": layer.nh, "bytes": (layer.len + 1) * 8}
    known = OF.get(type(layer))
    return known(layer) if known else None


def of_vlan(tag: Any) -> dict[str, Any]:
    number = {"id": tag.vlan, "priority": tag.prio, "drop_eligible": tag.dei, "offloaded": 0}
    return {"layer": "vlan", "protocol": tag.underlayer.type, **number, "type": tag.type}


def of_arp(arp: Any) -> dict[str, Any]:
    said = {"hardware": arp.hwtype, "protocol": arp.ptype, "hardware_bytes": arp.hwlen, "protocol_bytes": arp.plen}
    macs, addresses = (arp.hwsrc, arp.hwdst), (arp.psrc, arp.pdst)
    if (arp.hwlen, arp.plen) != (6, 4):
        macs, addresses = (bytes(6),) * 2, (bytes(4),) * 2
    texts = [each if isinstance(each, str) else each.hex(":") for each in macs]
    texts += [each if isinstance(each, str) else ".".join(map(str, each)) for each in addresses]
    ends = zip(("sender_mac", "target_mac", "sender", "target"), texts, strict=True)
    return {"layer": "arp", **said, "operation": arp.op, **dict(ends)}


def of_ipv4(ip: Any) -> dict[str, Any]:
    flags = int(ip.flags)
    return {
        "layer": "ipv4",
        "header_bytes": ip.ihl * 4,
        "dscp": ip.tos >> 2,
        "ecn": ip.tos & 3,
        "ttl": ip.ttl,
        "total_bytes": ip.len,
        "id": ip.id,
        "fragment_offset": ip.frag * 8,
        "reserved_flag": flags >> 2,
        "dont_fragment": flags >> 1 & 1,
        "more_fragments": flags & 1,
        "protocol": ip.proto,
        "checksum": ip.chksum,
        "source": ip.src,
        "dest": ip.dst,
        "options": of_ipv4_options(ip.options),
    }


def of_ipv4_options(options: list[Any]) -> list[tuple[int, str]]:
    """Up to the end of the list: scapy takes each byte behind it for another end."""
    found = [(bytes(each)[0], bytes(each)[2:].hex()) for each in options]
    ends = [place for place, (kind, _) in enumerate(found) if kind == 0]
    return found[: ends[0] + 1] if ends else found


def of_ipv6(ip: Any) -> dict[str, Any]:
    numbers = {"next_header": ip.nh, "hop_limit": ip.hlim, "flow_label": ip.fl, "payload_bytes": ip.plen}
    return {"layer": "ipv6", "dscp": ip.tc >> 2, "ecn": ip.tc & 3, **numbers, "source": ip.src, "dest": ip.dst}


def of_extension(name: str) -> Any:
    return lambda header: {"layer": name, "next_header": header.nh, "bytes": (header.len + 1) * 8}


def of_routing(header: Any) -> dict[str, Any]:
    return {**of_extension("routing")(header), "routing_type": header.type, "segments_left": header.segleft}


def of_fragment(header: Any) -> dict[str, Any]:
    place = {"fragment_offset": header.offset * 8, "more_fragments": header.m, "id": header.id}
    return {"layer": "fragment", "next_header": header.nh, "bytes": 8, **place}


def of_ah(header: Any) -> dict[str, Any]:
    said = {"next_header": header.nh, "bytes": (header.payloadlen + 2) * 4, "id": header.spi, "sequence": header.seq}
    return {"layer": "authentication", **said}


def of_tcp(tcp: Any) -> dict[str, Any]:
    options = [(TCPOptions[1].get(name, name), value) for name, value, *_ in tcp.options]
    known = dict(options)
    flags = int(tcp.flags)
    sack, times = (known[kind] if isinstance(known.get(kind), tuple) else () for kind in (5, 8))
    timestamp, echo = times if len(times) == 2 else (None, None)
    return {
        "layer": "tcp",
        "source": tcp.sport,
        "dest": tcp.dport,
        "sequence": tcp.seq,
        "acknowledgement": tcp.ack,
        "header_bytes": tcp.dataofs * 4,
        "reserved": tcp.reserved,
        "flags": flags,
        "window": tcp.window,
        "checksum": tcp.chksum,
        "urgent": tcp.urgptr,
        "mss": known.get(2),
        "window_scale": known.get(3),
        "sack_permitted": int(4 in known),
        "timestamp": timestamp,
        "timestamp_echo": echo,
        "sack": list(zip(sack[::2], sack[1::2], strict=False)),
        "options": [kind for kind, _ in options],
    }


def of_udp(udp: Any) -> dict[str, Any]:
    return {"layer": "udp", "source": udp.sport, "dest": udp.dport, "bytes": udp.len, "checksum": udp.chksum}


def of_icmp(icmp: Any) -> dict[str, Any]:
    second = int.from_bytes(icmp.original[4:8], "big")
    number = (icmp.id, icmp.seq) if icmp.type in (0, 8) else (second >> 16, second & 0xFFFF)
    said = {"type": icmp.type, "code": icmp.code, "checksum": icmp.chksum, "id": number[0], "sequence": number[1]}
    return {"layer": "icmp", **said}


def of_icmpv6(icmp: Any) -> dict[str, Any]:
    second = int.from_bytes(icmp.original[4:8], "big")
    said = {"type": icmp.type, "code": icmp.code, "checksum": icmp.cksum}
    target = {"target": icmp.tgt} if icmp.type in (135, 136, 137) else {}
    return {"layer": "icmpv6", **said, "id": second >> 16, "sequence": second & 0xFFFF, **target}


OF: dict[type, Any] = {
    Ether: lambda eth: {"layer": "ethernet", "dest": eth.dst, "source": eth.src, "type": eth.type},
    Dot3: lambda eth: {"layer": "ethernet", "dest": eth.dst, "source": eth.src, "type": eth.len},
    Dot1Q: of_vlan,
    Dot1AD: of_vlan,
    ARP: of_arp,
    IP: of_ipv4,
    IPv6: of_ipv6,
    IPv6ExtHdrHopByHop: of_extension("hop-by-hop"),
    IPv6ExtHdrDestOpt: of_extension("destination"),
    IPv6ExtHdrRouting: of_routing,
    IPv6ExtHdrSegmentRouting: of_routing,
    IPv6ExtHdrFragment: of_fragment,
    AH: of_ah,
    TCP: of_tcp,
    UDP: of_udp,
    ICMP: of_icmp,
}


BEHIND_AH = {6: TCP, 17: UDP, 44: IPv6ExtHdrFragment, 58: ICMPv6EchoRequest, 60: IPv6ExtHdrDestOpt}


def comparable(layers: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The companion's layers as scapy writes values: addresses as text, of TCP options the kinds."""
    return [{name: plain(layer["layer"], name, value) for name, value in layer.items()} for layer in layers]


def plain(layer: str, name: str, value: Any) -> Any:
    if name in ("source", "dest", "sender", "target") and not isinstance(value, int):
        return str(value)
    return [kind for kind, _ in value] if (layer, name) == ("tcp", "options") else value


# ---- The table: one of each ----

TCP_OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 9)), ("NOP", None), ("WScale", 7)]
SACKS = [("NOP", None), ("NOP", None), ("SAck", (10, 20, 30, 40, 50, 60))]
WHOLE: dict[str, Any] = {
    "ARP request": ETHER / ARP(psrc="192.0.2.1", pdst="192.0.2.2"),
    "ARP for something else": ETHER / ARP(hwlen=4, plen=2, hwsrc=bytes(4), psrc=bytes(2), hwdst=bytes(4), pdst=b"ab"),
    "IPv4, TCP": ETHER / V4 / TCP(sport=1, dport=65535, seq=2**32 - 1, ack=5, flags="FSRPAUECN", window=3, urgptr=4),
    "IPv4, TCP options": ETHER / V4 / TCP(flags="S", options=TCP_OPTIONS) / b"hello",
    "IPv4, TCP, three SACK blocks": ETHER / V4 / TCP(flags="A", options=SACKS),
    "IPv4, TCP, unknown options": ETHER / V4 / TCP(options=[(253, b"abcd"), ("EOL", None)]),
    "IPv4, TCP, forty no-operations": ETHER / V4 / TCP(options=[("NOP", None)] * 40),
    "IPv4, UDP": ETHER / V4 / UDP(sport=53, dport=40000) / bytes(700),
    "IPv4, UDP, padded": bytes(ETHER / V4 / UDP(sport=7, dport=7) / b"x").ljust(60, b"\0"),
    "IPv4, echo request": ETHER / V4 / ICMP(id=77, seq=3) / b"ping",
    "IPv4, fragmentation needed": ETHER / V4 / ICMP(type=3, code=4, nexthopmtu=1400) / V4 / UDP(),
    "IPv4 options, UDP": ETHER / IP(src="192.0.2.1", options=[IPOption_RR(), IPOption_Router_Alert()]) / UDP(dport=9),
    "IPv4, ten words of options": ETHER / IP(options=[IPOption(b"\x01")] * 40, dst="192.0.2.1") / TCP(options=SACKS),
    "IPv4, first fragment": ETHER / IP(flags="MF", id=9, dst="192.0.2.1") / UDP(dport=9) / b"first",
    "IPv4, later fragment": ETHER / IP(frag=185, proto=17, dst="192.0.2.1") / Raw(b"rest of something"),
    "IPv4, all fields": ETHER / IP(tos=0xBB, id=65535, flags="evil+DF", ttl=1, proto=50, dst="192.0.2.1") / Raw(b"esp"),
    "IPv6, TCP": ETHER / V6 / TCP(flags="SA", options=TCP_OPTIONS) / b"hello",
    "IPv6, UDP, all fields": ETHER / IPv6(tc=0xBB, fl=0xFEDCB, hlim=1, src="::1", dst="::2") / UDP() / b"x",
    "IPv6, hop-by-hop": ETHER / V6 / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / UDP(dport=9),
    "IPv6, every extension header": ETHER
    / V6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrRouting(addresses=["::1", "::2"])
    / IPv6ExtHdrFragment(id=12345, m=1)
    / IPv6ExtHdrDestOpt()
    / AH(nh=6, payloadlen=4, spi=99, seq=7, icv=b"0123456789ab")
    / TCP(options=SACKS),
    "IPv6, segment routing": ETHER / V6 / IPv6ExtHdrSegmentRouting(addresses=["::1"] * 20) / TCP(options=TCP_OPTIONS),
    "IPv6, later fragment": ETHER / V6 / IPv6ExtHdrFragment(nh=6, offset=100, id=1) / Raw(b"rest"),
    "IPv6, mobility": ETHER / V6 / MIP6MH_BU(),
    "IPv6, echo request": ETHER / V6 / ICMPv6EchoRequest(id=9, seq=8, data=b"ping"),
    "IPv6, packet too big": ETHER / V6 / ICMPv6PacketTooBig(mtu=1280) / V6 / UDP(),
    "IPv6, neighbour solicitation": ETHER / V6 / ICMPv6ND_NS(tgt="2001:db8::9") / ICMPv6NDOptDstLLAddr(),
    "IPv6, neighbour advertisement": ETHER / V6 / ICMPv6ND_NA(tgt="fe80::9"),
    "IPv6, router advertisement": ETHER / V6 / ICMPv6ND_RA(),
    "a tag": ETHER / Dot1Q(vlan=4095, prio=7, dei=1) / V4 / TCP(),
    "four tags": ETHER / Dot1AD(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / Dot1Q(vlan=4, prio=5) / V6 / UDP() / b"x",
    "a tagged ARP": ETHER / Dot1Q(vlan=5) / ARP(op=2, psrc="192.0.2.1", pdst="192.0.2.2"),
    "another type": ETHER / Raw(b"payload"),
    "a length instead of a type": Dot3(src=ETHER.src, dst=ETHER.dst, len=7) / Raw(b"payload"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_field_is_what_scapy_reads(program: Any, name: str) -> None:
    """The same layers in the same order, each with the same fields, and nothing amiss."""
    raw = bytes(WHOLE[name])
    (frame,) = inspected(program, [raw])
    assert comparable(frame.layers) == by_scapy(raw)
    assert (frame.ending, frame.ended_in, frame.missing_bytes) == ("WHOLE", "", 0)
    assert (frame.frame_bytes, frame.direction) == (len(raw), "INGRESS")


# ---- Frames that end too soon, or lie ----


def boundaries(raw: bytes) -> list[tuple[int, str]]:
    """Where each header of a frame ends, by scapy's own account of its layers, and what the header is called."""
    found, at = [], 0
    for layer in by_scapy(raw):
        name, fixed, whole = SIZES[layer["layer"]](layer)
        found.append((at + fixed, name))
        if whole > fixed:
            found.append((at + whole, {"IPV4": "IPV4_OPTION", "TCP": "TCP_OPTION"}.get(name, name)))
        at += whole
    return found


SIZES: dict[str, Any] = {
    "ethernet": lambda layer: ("ETHERNET", 14, 14),
    "vlan": lambda layer: ("VLAN", 4, 4),
    "arp": lambda layer: ("ARP", 8, 8 + 2 * (layer["hardware_bytes"] + layer["protocol_bytes"])),
    "ipv4": lambda layer: ("IPV4", 20, layer["header_bytes"]),
    "ipv6": lambda layer: ("IPV6", 40, 40),
    "tcp": lambda layer: ("TCP", 20, layer["header_bytes"]),
    "udp": lambda layer: ("UDP", 8, 8),
    "icmp": lambda layer: ("ICMP", 8, 8),
    "icmpv6": lambda layer: ("ICMPV6", 8, 24 if "target" in layer else 8),
    **{name: lambda layer: ("EXTENSION", layer["bytes"], layer["bytes"]) for name in inspect.EXTENSIONS.values()},
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_is_named_at_every_byte(wire: Any, name: str) -> None:
    """Cut anywhere, the headers before the cut are read as ever, and the one that it goes through is named."""
    raw = bytes(WHOLE[name])
    ends, whole = boundaries(raw), by_scapy(raw)
    sizes = range(14, ends[-1][0] + 1)  # no socket sends less than an Ethernet header
    for size, frame in zip(sizes, wire([raw[:size] for size in sizes]), strict=True):
        cut_in = next((layer for end, layer in ends if end > size), "")
        assert (frame.ending, frame.ended_in) == ("TRUNCATED" if cut_in else "WHOLE", cut_in), f"{size} bytes"
        before = [layer for layer, end in zip(whole, layer_ends(raw), strict=True) if end <= size]
        assert comparable(frame.layers)[: len(before)] == before, f"{size} bytes"


def layer_ends(raw: bytes) -> list[int]:
    """The options of a header belong to it."""
    return list(accumulate(SIZES[each["layer"]](each)[2] for each in by_scapy(raw)))


def chain(count: int) -> Any:
    """So many destination options headers, and a datagram."""
    made = ETHER / V6
    for _ in range(count):
        made = made / IPv6ExtHdrDestOpt()
    return made / UDP()


AMISS: dict[str, tuple[Any, str, str, int]] = {
    "IPv4 header length below 5": (ETHER / IP(ihl=4, dst="192.0.2.1") / TCP(), "MALFORMED", "IPV4", 2),
    "IPv4 with version 6": (ETHER / IP(version=6, dst="192.0.2.1") / TCP(), "MALFORMED", "IPV4", 1),
    "IPv6 with version 4": (ETHER / IPv6(version=4, dst="::1") / TCP(), "MALFORMED", "IPV6", 1),
    "IPv4 total length below its header": (ETHER / IP(len=19, dst="192.0.2.1") / TCP(), "MALFORMED", "IPV4", 2),
    "IPv4 packet ends in the TCP header": (ETHER / IP(len=39, dst="192.0.2.1") / TCP(), "TRUNCATED", "TCP", 2),
    "IPv6 packet ends in the UDP header": (ETHER / IPv6(plen=7, dst="::1") / UDP(), "TRUNCATED", "UDP", 2),
    "TCP data offset below 5": (ETHER / V4 / TCP(dataofs=4), "MALFORMED", "TCP", 3),
    "TCP data offset beyond the packet": (ETHER / V4 / TCP(dataofs=15), "TRUNCATED", "TCP_OPTION", 3),
    "TCP option of length 0": (ETHER / V6 / TCP(dataofs=6) / b"\x02\0\0\0", "MALFORMED", "TCP_OPTION", 3),
    "TCP option beyond the header": (ETHER / V6 / TCP(dataofs=6) / b"\x01\x08\x0a\0", "MALFORMED", "TCP_OPTION", 3),
    "TCP option without a length": (ETHER / V6 / TCP(dataofs=6) / b"\x01\x01\x01\x08", "MALFORMED", "TCP_OPTION", 3),
    "IPv4 option of length 1": (ETHER / IP(ihl=6, proto=17) / b"\x94\x01\0\0" / UDP(), "MALFORMED", "IPV4_OPTION", 3),
    "UDP length below 8": (ETHER / V4 / UDP(len=7), "MALFORMED", "UDP", 3),
    "AH shorter than its fields": (ETHER / V6 / AH(payloadlen=0, nh=17) / UDP(), "MALFORMED", "EXTENSION", 3),
    "an extension header beyond the packet": (
        ETHER / V6 / IPv6ExtHdrDestOpt(len=200) / UDP(),
        "TRUNCATED",
        "EXTENSION",
        3,
    ),
    "five tags": (ETHER / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / V4, "TOO_DEEP", "VLAN", 5),
    "nine extension headers": (chain(9), "TOO_DEEP", "EXTENSION", 10),
}


@pytest.mark.parametrize("name", AMISS)
def test_what_is_amiss_is_named(program: Any, name: str) -> None:
    """The first trouble and its header; what can still be read is read."""
    sent, ending, layer, layers = AMISS[name]
    (frame,) = inspected(program, [bytes(sent)])
    assert (frame.ending, frame.ended_in, len(frame.layers)) == (ending, layer, layers)


def test_eight_extension_headers_are_not_too_deep(program: Any) -> None:
    """The eighth and what is behind it are read as the first is."""
    raw = bytes(chain(8))
    (frame,) = inspected(program, [raw])
    assert (frame.ending, comparable(frame.layers)) == ("WHOLE", by_scapy(raw))


def test_headers_far_inside_a_frame_are_read(wire: Any) -> None:
    """A TCP header behind 1,300 bytes of extension headers is nothing special."""
    made = ETHER / IPv6(nh=60, dst="::1") / Raw(b"\x3c\x50" + bytes(646)) / Raw(b"\x06\x50" + bytes(646))
    (frame,) = wire([bytes(made / TCP(sport=99, options=TCP_OPTIONS) / b"payload")])
    assert [each["layer"] for each in frame.layers] == ["ethernet", "ipv6", "destination", "destination", "tcp"]
    assert (frame.layer("tcp")["source"], frame.layer("tcp")["mss"], frame.payload_bytes) == (99, 1460, 7)


@pytest.mark.parametrize("more", (1, 1000))
@families
def test_bytes_that_a_packet_lacks_are_told(program: Any, ip: int, more: int) -> None:
    """A packet that says it is longer than its frame is read as far as it goes, and the difference is told."""
    layers = IP(len=28 + 5 + more, dst="192.0.2.1") if ip == 4 else IPv6(plen=8 + 5 + more, dst="::1")
    (frame,) = inspected(program, [bytes(ETHER / layers / UDP() / b"hello")])
    assert (frame.missing_bytes, frame.payload_bytes, frame.ending) == (more, 5, "WHOLE")


# ---- Thousands of frames ----


class Maker:
    """Frames of random layers with random fields; the same seed makes the same."""

    def __init__(self, seed: int) -> None:
        self.roll = random.Random(seed)

    def frame(self) -> bytes:
        """A sound one."""
        made = Ether(src=self._mac(), dst=self._mac())
        for _ in range(self.roll.choice((0, 0, 0, 1, 2, 4))):
            kind = Dot1AD if self.roll.random() < 0.3 else Dot1Q
            made = made / kind(vlan=self._bits(12), prio=self._bits(3), dei=self._bits(1))
        raw = bytes(made / self.roll.choice((self._arp, self._ipv4, self._ipv4, self._ipv6, self._ipv6))())
        return raw.ljust(60, b"\0") if self.roll.random() < 0.3 else raw

    def _bits(self, count: int) -> int:
        return self.roll.getrandbits(count)

    def _mac(self) -> str:
        return self.roll.randbytes(6).hex(":")

    def _arp(self) -> Any:
        ends = {"psrc": self._address(4), "pdst": self._address(4), "hwsrc": self._mac(), "hwdst": self._mac()}
        return ARP(op=self._bits(16), **ends)

    def _address(self, ip: int) -> str:
        return str(IPv4Address(self._bits(32)) if ip == 4 else IPv6Address(self._bits(128)))

    def _ipv4(self) -> Any:
        numbers = {"tos": self._bits(8), "id": self._bits(16), "ttl": self._bits(8), "flags": self._bits(3)}
        made = IP(src=self._address(4), dst=self._address(4), options=self._ipv4_options(), **numbers)
        if self.roll.random() < 0.1:
            return made / self.roll.choice((Raw(b""), Raw(b"x" * 30)))
        return made / self.roll.choice((self._tcp, self._tcp, self._udp, self._icmp))()

    def _ipv4_options(self) -> list[Any]:
        if self.roll.random() < 0.7:
            return []
        return [IPOption(self._option_bytes()) for _ in range(self.roll.randrange(1, 4))]

    def _option_bytes(self) -> bytes:
        size = self.roll.randrange(8)
        return bytes([self.roll.choice((0x9E, 0x1E, 0x5E)), size + 2]) + self.roll.randbytes(size)

    def _ipv6(self) -> Any:
        numbers = {"tc": self._bits(8), "fl": self._bits(20), "hlim": self._bits(8)}
        made = IPv6(src=self._address(6), dst=self._address(6), **numbers)
        if self.roll.random() < 0.2:  # RFC 8200, 4.1: first, or not at all
            made = made / IPv6ExtHdrHopByHop(options=[RouterAlert(value=self._bits(16))])
        for _ in range(self.roll.choice((0, 0, 1, 2, 3))):
            made = made / self._extension()
        if self.roll.random() < 0.2:
            number, what = self.roll.choice(((6, self._tcp), (17, self._udp)))
            return made / AH(nh=number, payloadlen=4, spi=self._bits(32), seq=self._bits(32), icv=bytes(12)) / what()
        return made / self.roll.choice((self._tcp, self._tcp, self._udp, self._icmpv6))()

    def _extension(self) -> Any:
        number = {"id": self._bits(32), "m": self._bits(1)}
        return self.roll.choice(
            (
                IPv6ExtHdrDestOpt(),
                IPv6ExtHdrFragment(**number),
                IPv6ExtHdrRouting(type=self.roll.choice((0, 3)), segleft=self._bits(8), addresses=["::1"]),
            )
        ).copy()

    def _tcp(self) -> Any:
        numbers = {"seq": self._bits(32), "ack": self._bits(32), "window": self._bits(16), "urgptr": self._bits(16)}
        ports = {"sport": self._bits(16), "dport": self._bits(16)}
        bits = {"flags": self._bits(9), "reserved": self._bits(3), "options": self._tcp_options()}
        return TCP(**ports, **numbers, **bits) / self._payload()

    def _tcp_options(self) -> list[Any]:
        every = [
            ("MSS", self._bits(16) or 1),
            ("WScale", self._bits(8)),
            ("SAckOK", b""),
            ("SAck", tuple(self._bits(32) for _ in range(2 * self.roll.randrange(1, 3)))),
            ("Timestamp", (self._bits(32), self._bits(32))),
            ("NOP", None),
            (253, self.roll.randbytes(self.roll.randrange(5))),
        ]
        chosen = self.roll.sample(every, self.roll.randrange(len(every)))
        size = sum(len(bytes(TCP(options=[each]))) - 20 for each in chosen)
        return chosen if size <= 40 else chosen[:2]

    def _udp(self) -> Any:
        return UDP(sport=self._bits(16), dport=self._bits(16)) / self._payload()

    def _icmp(self) -> Any:
        return ICMP(type=self.roll.choice((0, 8)), code=self._bits(8), id=self._bits(16), seq=self._bits(16))

    def _icmpv6(self) -> Any:
        return self.roll.choice(
            (
                ICMPv6EchoRequest(id=self._bits(16), seq=self._bits(16)),
                ICMPv6ND_NS(tgt=self._address(6)),
                ICMPv6ND_NA(tgt=self._address(6), R=self._bits(1), S=self._bits(1)),
                ICMPv6PacketTooBig(mtu=self._bits(32)),
            )
        )

    def _payload(self) -> Any:
        return Raw(self.roll.randbytes(self.roll.randrange(40)))

    def hurt(self, raw: bytes) -> bytes:
        """One to four bytes of the headers are others, or the frame ends elsewhere."""
        wrong = bytearray(raw)
        for _ in range(self.roll.randrange(1, 5)):
            wrong[self.roll.randrange(12, len(wrong))] = self._bits(8)
        return bytes(wrong[: self.roll.randrange(15, len(wrong) + 1)] if self.roll.random() < 0.3 else wrong)


def test_random_frames_are_read_as_scapy_reads_them(program: Any) -> None:
    """Random layers, random fields, random options: not one field differs."""
    maker = Maker(SEED)
    sent = [maker.frame() for _ in range(effort(1000))]
    for raw, frame in zip(sent, inspected(program, sent), strict=True):
        assert comparable(frame.layers) == by_scapy(raw), f"seed {SEED}: {raw.hex()}"
        assert frame.ending == "WHOLE", f"seed {SEED}: {raw.hex()}"


OPTIONAL = {"options", "mss", "window_scale", "sack_permitted", "timestamp", "timestamp_echo", "sack"}


def certain(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without options, of which scapy reads damaged ones by their kind and not by their length."""
    return [{name: value for name, value in layer.items() if name not in OPTIONAL} for layer in layers]


def sound_by_scapy(raw: bytes) -> list[dict[str, Any]]:
    """Of a damaged frame: what scapy reads before it stumbles."""
    found = []
    with suppress(struct.error, TypeError):
        found.extend(layers_by_scapy(raw))
    return found


def test_damaged_frames_are_read_as_far_as_they_go(wire: Any) -> None:
    """Bytes of the headers changed, or cut off: every layer before the trouble is what scapy reads, and none hangs."""
    maker = Maker(SEED)
    sent = [maker.hurt(maker.frame()) for _ in range(effort(2000))]
    trouble: Counter[str] = Counter()
    compared = 0
    for raw, frame in zip(sent, wire(sent), strict=True):
        trouble[frame.ending] += 1
        read, known = certain(comparable(frame.layers)), certain(sound_by_scapy(raw))
        read = read if frame.ending == "WHOLE" else read[:-1]
        assert known[: len(read)] == read[: len(known)], f"seed {SEED}: {raw.hex()}"
        assert len(known) >= len(read) - 1, f"seed {SEED}: at most one that scapy makes nothing of: {raw.hex()}"
        compared += min(len(known), len(read))
    assert min(trouble["WHOLE"], trouble["TRUNCATED"], trouble["MALFORMED"]) > len(sent) // 40
    assert compared > 3 * len(sent)


# ---- Real traffic ----


@families
@pytest.mark.parametrize("protocol", ("tcp", "udp", "icmp"))
def test_traffic_is_seen_leaving_and_arriving(net: Any, program: Any, protocol: str, ip: int) -> None:
    """Each frame of a conversation once a way, the same fields at both ends, and as scapy reads the captured one."""
    with attached(net, program, "client/eth0", Direction.EGRESS), attached(net, program, "server/eth0"):
        with net.capture("server/eth0") as capture:
            if protocol == "icmp":
                net.send(Stream.icmp("client", "server", count=3, ip=ip))
            else:
                kind = Stream.tcp if protocol == "tcp" else Stream.udp
                net.send(kind("client", "server", dst_port=9000, count=3, ip=ip))
        frames_seen = list(inspect.frames(program))
    name = {"tcp": "tcp", "udp": "udp", "icmp": "icmp" if ip == 4 else "icmpv6"}[protocol]
    left, came = (
        [comparable(each.layers) for each in frames_seen if each.direction == way and each.layers[-1]["layer"] == name]
        for way in ("EGRESS", "INGRESS")
    )
    assert left == came, "the wire changes no header"
    assert len(came) >= 3
    arrived = [by_scapy(each.raw) for each in capture.frames]
    assert [each for each in arrived if each[0]["dest"] == net.interface("server/eth0").mac] == came


@contextmanager
def attached(net: Any, program: Any, interface: str, direction: Direction = Direction.INGRESS) -> Iterator[None]:
    """One of both halves."""
    half = program.programs[f"inspect_{direction.value}"]
    program.maps["events"].drain()
    with half.attach(net.interface(interface), direction=direction):
        yield


@pytest.mark.parametrize("tags", (1, 2))
@families
def test_a_tag_that_the_driver_took_out_is_read(net: Any, program: Any, tags: int, ip: int) -> None:
    """At egress it is in the frame's bytes, at ingress the kernel has it elsewhere: `offloaded` is all that differs."""
    frame = frames.udp(net, "client", "server", dst_port=9, ip=ip, vlans=(100, 200)[:tags])
    frame[Dot1Q].prio = 5
    with attached(net, program, "client/eth0", Direction.EGRESS), attached(net, program, "server/eth0"):
        net.exchange(frame, at="client/eth0")
        left, came = inspect.frames(program)
    assert [each["offloaded"] for each in left.layers if each["layer"] == "vlan"] == [0] * tags
    assert [each["offloaded"] for each in came.layers if each["layer"] == "vlan"] == [1, 0][:tags]
    came.layer("vlan")["offloaded"] = 0
    assert came.layers == left.layers
    assert comparable(left.layers) == by_scapy(bytes(frame))
    assert came.frame_bytes == left.frame_bytes - 4, "the bytes that the kernel shows"


def send_in_one_go(net: Any, ip: int, data: bytes) -> None:
    """By TCP; until all of it was received."""
    family = socket.AF_INET if ip == 4 else socket.AF_INET6
    address = (str(net.topology.address("server", ip)), 9000)
    with net["server"].socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        with net["client"].socket(family, socket.SOCK_STREAM) as sender:
            sender.settimeout(2)
            sender.connect(address)
            receiver, _ = listener.accept()
            with receiver:
                receiver.settimeout(2)
                sending = Thread(target=sender.sendall, args=(data,))
                sending.start()
                left = len(data)
                while left:
                    left -= len(receiver.recv(left))
                sending.join()


@families
def test_a_frame_of_many_segments_is_one_event(net: Any, program: Any, ip: int) -> None:
    """What the sender's kernel leaves to its device to cut up is told by the number of segments."""
    with attached(net, program, "client/eth0", Direction.EGRESS):
        send_in_one_go(net, ip, bytes(200_000))
        seen = [each for each in inspect.frames(program) if each.layers[-1]["layer"] == "tcp"]
    big = [each for each in seen if each.segments > 1]
    assert big and all(each.frame_bytes > 1514 and each.ending == "WHOLE" and not each.missing_bytes for each in big)


# ---- Filters, sampling, losses ----

MIXED = [
    ("tcp to 80", ETHER / V4 / TCP(sport=1024, dport=80)),
    ("tcp from 80", ETHER / V6 / TCP(sport=80, dport=1024)),
    ("udp to 80", ETHER / V4 / UDP(sport=1024, dport=80)),
    ("udp to 53", ETHER / Dot1Q(vlan=3) / V6 / UDP(sport=1024, dport=53)),
    ("echo", ETHER / V4 / ICMP()),
    ("arp", ETHER / ARP(psrc="192.0.2.1", pdst="192.0.2.7")),
    ("elsewhere", ETHER / IP(src="203.0.113.1", dst="203.0.113.2") / UDP(sport=1, dport=2)),
    ("ports cut off", bytes(ETHER / V4 / TCP(sport=1024, dport=80))[:40]),
]


@pytest.mark.parametrize(
    ("knobs", "shown"),
    [
        ({"port": 80}, {"tcp to 80", "tcp from 80", "udp to 80"}),
        ({"port": 80, "protocol": "tcp"}, {"tcp to 80", "tcp from 80"}),
        ({"protocol": "udp"}, {"udp to 80", "udp to 53", "elsewhere"}),
        ({"type": "ipv6"}, {"tcp from 80", "udp to 53"}),
        ({"type": "arp"}, {"arp"}),
        ({"host": "192.0.2.1"}, {"tcp to 80", "udp to 80", "echo", "arp", "ports cut off"}),
        ({"host": "192.0.2.7"}, {"arp"}),
        ({"host": "2001:db8::/64"}, {"tcp from 80", "udp to 53"}),
        ({"host": "203.0.113.0/24"}, {"elsewhere"}),
        ({"host": "2001:db8::/64", "port": 53, "protocol": "udp"}, {"udp to 53"}),
        ({"host": "203.0.113.3"}, set()),
        ({}, {name for name, _ in MIXED}),
    ],
    ids=lambda each: str(sorted(each)) if isinstance(each, set) else str(each),  # a set has another order each run
)
def test_only_what_is_wanted_is_told(bpf: Any, knobs: dict[str, Any], shown: set[str]) -> None:
    """A filter lets through what fits all it names, either way, and counts the rest."""
    program = bpf.load("tc_inspect_header", **inspect.wanted(**knobs))
    told = set()
    for name, frame in MIXED:
        program.programs["inspect_ingress"].run(frame)
        told |= {name for _ in inspect.frames(program)}
    assert told == shown
    total = program.maps["counts"].total
    assert (total("SEEN"), total("SENT")) == (len(MIXED), len(shown))
    assert total("NOT_WANTED") == len(MIXED) - len(shown)


def counts(program: Any) -> dict[str, int]:
    """Those that are not 0."""
    return {outcome.name: each.total() for outcome, each in program.maps["counts"].items() if each.total()}


def test_all_of_ipv4_is_a_filter_and_all_of_ipv6_is_none() -> None:
    """IPv4 addresses are a /96 of IPv6's; a mask of nothing would stand for no filter."""
    assert inspect.wanted(host="0.0.0.0/0")["want_mask"] == "ffff:ffff:ffff:ffff:ffff:ffff::"
    with pytest.raises(ValueError, match="every address"):
        inspect.wanted(host="::/0")


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"host": "nowhere"}, "nowhere"),
        ({"port": 65536}, "65536"),
        ({"protocol": "tpc"}, "tcp"),
        ({"type": "0x10000"}, "0x10000"),
        ({"sample": 0}, "sample 0"),
    ],
    ids=str,
)
def test_a_filter_that_cannot_be_is_refused(knobs: dict[str, Any], said: str) -> None:
    """ValueError says what is wrong with it."""
    with pytest.raises(ValueError, match=said):
        inspect.wanted(**knobs)


def test_one_of_ten_is_sampled(bpf: Any) -> None:
    """Of 100 frames the first, the eleventh and so on are told; the others are counted."""
    program = bpf.load("tc_inspect_header", sample=10)
    sent = [bytes(ETHER / V4 / UDP(sport=number, dport=9)) for number in range(1, 101)]
    program.programs["inspect_ingress"].run_many(sent)
    assert [each.layer("udp")["source"] for each in inspect.frames(program)] == list(range(1, 101, 10))
    assert counts(program) == {"SEEN": 100, "SENT": 10, "NOT_SAMPLED": 90}


def test_what_finds_no_room_is_counted(bpf: Any) -> None:
    """A buffer that nobody reads fills up: what was told and what was lost is all there was."""
    program = bpf.load("tc_inspect_header", max_entries={"events": 8192})
    program.programs["inspect_ingress"].run(ETHER / V4 / UDP(), repeat=100)
    told = len(list(inspect.frames(program)))
    assert 0 < told < 100
    assert counts(program) == {"SEEN": 100, "SENT": told, "LOST": 100 - told}
    lost = next(each for each in inspect.watch(program) if each)
    assert str(lost) == str(inspect.Lost(100 - told))


# ---- As a person sees it ----


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (
            ETHER / Dot1Q(vlan=5, prio=3) / V4 / TCP(sport=4, dport=80, seq=7, ack=9, flags="SA", options=TCP_OPTIONS),
            "vlan 5, p 3, 192.0.2.1.4 > 198.51.100.2.80: TCP [S.], seq 7, ack 9, win 8192, "
            "options [mss 1460,sackOK,timestamps 7/9,nop,wscale 7], length 0",
        ),
        (
            ETHER / V6 / IPv6ExtHdrFragment(id=9, m=1) / UDP(sport=53, dport=53) / b"x",
            "2001:db8::1.53 > 2001:db8::2.53: fragment 9 at 0+, UDP, length 1",
        ),
        (ETHER / ARP(psrc="192.0.2.1", pdst="192.0.2.2"), "ARP request who-has 192.0.2.2 tell 192.0.2.1, length 0"),
        (ETHER / V4 / ICMP(id=3, seq=4), "192.0.2.1 > 198.51.100.2: ICMP echo request, id 3, seq 4, length 0"),
        (
            ETHER / V6 / ICMPv6ND_NS(tgt="fe80::9"),
            "2001:db8::1 > 2001:db8::2: ICMPv6 neighbor solicitation, of fe80::9, length 0",
        ),
        (
            bytes(ETHER / V4 / TCP())[:40],
            "192.0.2.1 > 198.51.100.2: protocol 6, length 6, 14 bytes missing, truncated in TCP",
        ),
    ],
    ids=["tcp", "fragment", "arp", "icmp", "icmpv6", "truncated"],
)
def test_a_frame_is_a_line(program: Any, sent: Any, line: str) -> None:
    """Who to whom and what, as tcpdump would say it, behind the time, the interface and the direction."""
    (frame,) = inspected(program, [bytes(sent)])
    clock, interface, way, said = str(frame).split(" ", 3)
    assert said == line
    assert way == "in" and interface and clock.count(":") == 2


def test_a_frame_is_json(program: Any) -> None:
    """--json has every field of every layer."""
    raw = bytes(ETHER / V4 / TCP(options=TCP_OPTIONS))
    (frame,) = inspected(program, [raw])
    told = json.loads(json.dumps(as_plain(frame)))
    assert [each["layer"] for each in told["layers"]] == ["ethernet", "ipv4", "tcp"]
    assert (told["layers"][1]["source"], told["layers"][2]["mss"]) == ("192.0.2.1", 1460)
