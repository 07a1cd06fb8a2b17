"""Where in a frame the fields stand that tell one flow from another, for the programs that vary them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from lab.errors import TrafficError

NOT_THERE = 0xFFFF
TEMPLATE_WORDS = 16
"""TEMPLATE_WORDS of lab/instruments/flows.h: the headers that are restored, in words of 8 bytes."""
TAGS = (0x8100, 0x88A8)
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
FRAGMENT, AUTHENTICATION = 44, 51
EXTENSIONS = (0, 43, FRAGMENT, AUTHENTICATION, 60)
L4_CHECKSUM = {TCP: 16, UDP: 6}
PORT_BITS = 14
"""PORTS_A_ADDRESS of flows.h: so many flows, as a power of two, before the source address is the next one."""


@dataclass(frozen=True)
class FlowFields:
    """Offsets in bytes from the start of the frame."""

    address: int
    """Of the last 4 bytes of the source address."""
    port: int
    """Of the source port."""
    ip_checksum: int
    """Of the IPv4 header checksum, NOT_THERE in IPv6."""
    l4_checksum: int
    protocol: int


def flow_fields(frame: bytes) -> FlowFields:
    """The fields of a UDP or TCP frame over IPv4 or IPv6, tags, options and extension headers skipped.

    >>> flow_fields(bytes(12) + b"\\x08\\x00\\x45" + bytes(8) + b"\\x11" + bytes(40))
    FlowFields(address=26, port=34, ip_checksum=24, l4_checksum=40, protocol=17)
    """
    try:
        return _fields(frame)
    except (struct.error, IndexError):
        raise _unusable("it is truncated") from None


def flow_knobs(frame: bytes, flows: int) -> dict[str, Any]:
    """The `const volatile` globals of lab/instruments/flows.h."""
    fields = flow_fields(frame)
    headers = frame[: TEMPLATE_WORDS * 8].ljust(TEMPLATE_WORDS * 8, b"\0")
    return {
        "template": struct.unpack(f"={TEMPLATE_WORDS}Q", headers),
        "frame_bytes": len(frame),
        "flows": flows,
        "address_offset": fields.address,
        "port_offset": fields.port,
        "ip_checksum_offset": fields.ip_checksum,
        "l4_checksum_offset": fields.l4_checksum,
        "is_udp": fields.protocol == UDP,
    }


def check_flows(frame: bytes, flows: int) -> None:
    """TrafficError when the source ports of so many flows, counted up from the frame's, run past 65,535."""
    first = _be16(frame, flow_fields(frame).port)
    last = first + min(flows, 1 << PORT_BITS) - 1
    if last > 0xFFFF:
        raise TrafficError(
            f"vary the flows of a frame: {flows:,} flows from port {first} run to {last}",
            mend=f"src_port={0x10000 - (1 << PORT_BITS)} or below",
        )


def flow_frame(frame: bytes, fields: FlowFields, flow: int) -> bytes:
    """The frame of flow number `flow`, as `next_flow` in lab/instruments/flows.h makes it, checksums kept right."""
    made = bytearray(frame)
    (address,) = struct.unpack_from("!I", frame, fields.address)
    struct.pack_into("!I", made, fields.address, (address + (flow >> PORT_BITS)) & 0xFFFFFFFF)
    struct.pack_into("!H", made, fields.port, (_be16(frame, fields.port) + (flow & ((1 << PORT_BITS) - 1))) & 0xFFFF)
    diff = _difference(frame, made, fields.address, 4)
    if fields.ip_checksum != NOT_THERE:
        struct.pack_into("!H", made, fields.ip_checksum, _updated(_be16(frame, fields.ip_checksum), diff))
    before = _be16(frame, fields.l4_checksum)
    if before or fields.protocol != UDP:  # a UDP checksum of 0 says that there is none (RFC 768)
        after = _updated(before, diff + _difference(frame, made, fields.port, 2))
        struct.pack_into("!H", made, fields.l4_checksum, after or (0xFFFF if fields.protocol == UDP else 0))
    return bytes(made)


def _difference(before: bytes, after: bytes | bytearray, at: int, length: int) -> int:
    return sum((~_be16(before, place) & 0xFFFF) + _be16(after, place) for place in range(at, at + length, 2))


def _updated(checksum: int, diff: int) -> int:
    """RFC 1624, equation 3."""
    total = (~checksum & 0xFFFF) + diff
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _fields(frame: bytes) -> FlowFields:
    at = 12
    while (kind := _be16(frame, at)) in TAGS:
        at += 4
    at += 2
    if kind == IPV4:
        return _with_ports(frame[at + 9], at + (frame[at] & 15) * 4, at + 12, at + 10)
    if kind == IPV6:
        protocol, place = _behind_extensions(frame, at)
        return _with_ports(protocol, place, at + 20, NOT_THERE)
    raise _unusable(f"EtherType {kind:#06x} is neither IPv4 nor IPv6")


def _with_ports(protocol: int, l4: int, address: int, ip_checksum: int) -> FlowFields:
    if protocol not in L4_CHECKSUM:
        raise _unusable(f"IP protocol {protocol} has no ports")
    return FlowFields(address, l4, ip_checksum, l4 + L4_CHECKSUM[protocol], protocol)


def _behind_extensions(frame: bytes, at: int) -> tuple[int, int]:
    protocol, place = frame[at + 6], at + 40
    while protocol in EXTENSIONS:
        units = frame[place + 1]
        length = {FRAGMENT: 8, AUTHENTICATION: (units + 2) * 4}.get(protocol, (units + 1) * 8)
        protocol, place = frame[place], place + length
    return protocol, place


def _be16(frame: bytes | bytearray, at: int) -> int:
    number: int = struct.unpack_from("!H", frame, at)[0]
    return number


def _unusable(why: str) -> TrafficError:
    return TrafficError(f"vary the flows of a frame: {why}", mend="give a UDP or TCP frame over IPv4 or IPv6")
