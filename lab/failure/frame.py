"""What a frame says of itself: addresses, ports, payload, and whether its checksums are right. Pure.

IPv4 (RFC 791), IPv6 without extension headers (RFC 8200), UDP (RFC 768), TCP (RFC 9293), ICMP (RFC 792, RFC 4443), and
802.1Q and 802.1ad tags before them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

VLAN = (0x8100, 0x88A8)
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
NAMES = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMP6: "ICMPv6"}
CHECKSUM_AT = {ICMP: 2, TCP: 16, UDP: 6, ICMP6: 2}
ICMP_TYPES = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
ICMP6_TYPES = {
    1: "unreachable",
    2: "too big",
    128: "echo request",
    129: "echo reply",
    135: "who has",
    136: "is at",
}
TCP_FLAGS = "FSRPAU"


@dataclass(frozen=True)
class Frame:
    """A frame, read; what it does not have is 0 or empty."""

    length: int
    protocol: int = 0
    src: str = ""
    dst: str = ""
    src_port: int = 0
    dst_port: int = 0
    payload: bytes = b""
    kind: str = ""
    """Of ICMP the type in words, of TCP the flags."""
    wrong_checksums: tuple[tuple[str, int, int], ...] = ()
    """Name, what stands there, what should."""
    ethertype: int = 0

    @property
    def summary(self) -> str:
        """ "UDP 10.0.0.1:40000 > 10.0.0.2:9000"."""
        if not self.src:
            name = "ARP" if self.ethertype == ARP else f"ethertype {self.ethertype:#06x}"
            return f"{name}, {self.length} bytes"
        if self.src_port or self.dst_port:
            left, right = ":[" if ":" in self.src else "", "]" if ":" in self.src else ""
            ends = f"{left[1:]}{self.src}{right}:{self.src_port} > {left[1:]}{self.dst}{right}:{self.dst_port}"
        else:
            ends = f"{self.src} > {self.dst}"
        return " ".join(part for part in (NAMES.get(self.protocol, f"IP {self.protocol}"), self.kind, ends) if part)


def read_frame(raw: bytes, *, ethernet: bool = True, length: int = 0) -> Frame:
    """As much as can be read of it; checksums are looked at only where all of the packet is there."""
    length = length or len(raw)
    try:
        ethertype, packet = _behind_tags(raw) if ethernet else (IPV4 if raw[0] >> 4 == 4 else IPV6, raw)
        if ethertype == IPV4:
            return _ipv4(packet, length)
        if ethertype == IPV6:
            return _ipv6(packet, length)
        return Frame(length, ethertype=ethertype)
    except (struct.error, IndexError):
        return Frame(length)


def without_id(raw: bytes) -> bytes:
    """The frame with the IPv4 header's id and checksum zero: of its own answers the kernel chooses the id."""
    try:
        ethertype, packet = _behind_tags(raw)
    except (struct.error, IndexError):
        return raw
    if ethertype != IPV4 or len(packet) < 12:
        return raw
    cleared = packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:]
    return raw[: len(raw) - len(packet)] + cleared


def _behind_tags(raw: bytes) -> tuple[int, bytes]:
    at = 12
    while (ethertype := struct.unpack_from("!H", raw, at)[0]) in VLAN:
        at += 4
    return ethertype, raw[at + 2 :]


def _ipv4(packet: bytes, length: int) -> Frame:
    header, total = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
    src, dst, protocol = packet[12:16], packet[16:20], packet[9]
    wrong = list(_wrong("IPv4", packet[:header], 10, b""))
    fragment = struct.unpack_from("!H", packet, 6)[0] & 0x3FFF
    return _transport(length, protocol, (src, dst), packet[header:total], fragment or total > len(packet), wrong)


def _ipv6(packet: bytes, length: int) -> Frame:
    payload, protocol = struct.unpack_from("!H", packet, 4)[0], packet[6]
    return _transport(
        length, protocol, (packet[8:24], packet[24:40]), packet[40 : 40 + payload], 40 + payload > len(packet), []
    )


def _transport(
    length: int,
    protocol: int,
    ends: tuple[bytes, bytes],
    segment: bytes,
    partly: bool | int,
    wrong: list[tuple[str, int, int]],
) -> Frame:
    name = NAMES.get(protocol)
    if name and not partly and protocol in CHECKSUM_AT:
        pseudo = b"" if protocol == ICMP else b"".join(ends) + struct.pack("!II", len(segment), protocol)
        if protocol != UDP or segment[6:8] != b"\0\0":
            wrong += _wrong(name, segment, CHECKSUM_AT[protocol], pseudo)
    ports: tuple[int, int] = struct.unpack_from("!HH", segment) if protocol in (TCP, UDP) else (0, 0)
    src, dst = (str(ip_address(each)) for each in ends)
    start = {TCP: (segment[12] >> 4) * 4 if protocol == TCP else 0, UDP: 8, ICMP: 4, ICMP6: 4}.get(protocol, 0)
    kind = _kind(protocol, segment)
    return Frame(length, protocol, src, dst, ports[0], ports[1], segment[start:], kind, tuple(wrong))


def _kind(protocol: int, segment: bytes) -> str:
    if protocol == TCP:
        return "".join(letter for bit, letter in enumerate(TCP_FLAGS) if segment[13] >> bit & 1)
    types = {ICMP: ICMP_TYPES, ICMP6: ICMP6_TYPES}.get(protocol)
    return types.get(segment[0], f"type {segment[0]}") if types else ""


def _wrong(name: str, data: bytes, at: int, pseudo: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, what stands there and what should, where these differ."""
    found = struct.unpack_from("!H", data, at)[0]
    right = checksum(pseudo + data[:at] + b"\0\0" + data[at + 2 :])
    if name == "UDP" and not right:
        right = 0xFFFF
    if found != right:
        yield name, found, right


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
