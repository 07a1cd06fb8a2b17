"""Where in a frame the fields stand that tell one flow from another."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lab.errors import MeasurementError

NOT_THERE = 0xFFFF
TAGS = (0x8100, 0x88A8)
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP, FRAGMENT, AUTHENTICATION = 6, 17, 44, 51


@dataclass(frozen=True)
class FlowFields:
    """Offsets in bytes from the start of the frame."""

    address: int
    """Of the last 4 bytes of the source address."""
    port: int
    """Of the source port."""
    checksum: int
    """Of the IPv4 header checksum, NOT_THERE in IPv6."""


def flow_fields(frame: bytes) -> FlowFields:
    """The fields of a UDP or TCP frame over IPv4 or IPv6, tags, options and extension headers skipped.

    >>> flow_fields(bytes(12) + b"\\x08\\x00\\x45" + bytes(8) + b"\\x11" + bytes(40))
    FlowFields(address=26, port=34, checksum=24)
    """
    try:
        return _fields(frame)
    except (struct.error, IndexError):
        raise _unusable("it is truncated") from None


def _fields(frame: bytes) -> FlowFields:
    at = 12
    while (protocol := _be16(frame, at)) in TAGS:
        at += 4
    at += 2
    if protocol == IPV4:
        if frame[at + 9] not in (TCP, UDP):
            raise _unusable(f"IP protocol {frame[at + 9]} has no ports")
        return FlowFields(at + 12, at + (frame[at] & 15) * 4, at + 10)
    if protocol == IPV6:
        return FlowFields(at + 20, _behind_extensions(frame, at), NOT_THERE)
    raise _unusable(f"EtherType {protocol:#06x} is neither IPv4 nor IPv6")


def _behind_extensions(frame: bytes, at: int) -> int:
    protocol, place = frame[at + 6], at + 40
    while protocol not in (TCP, UDP):
        if protocol not in (0, 43, FRAGMENT, AUTHENTICATION, 60):
            raise _unusable(f"next header {protocol} has no ports")
        units = frame[place + 1]
        length = {FRAGMENT: 8, AUTHENTICATION: (units + 2) * 4}.get(protocol, (units + 1) * 8)
        protocol, place = frame[place], place + length
    return place


def _be16(frame: bytes, at: int) -> int:
    number: int = struct.unpack_from("!H", frame, at)[0]
    return number


def _unusable(why: str) -> MeasurementError:
    return MeasurementError(f"vary the flows of a frame: {why}", mend="give a UDP or TCP frame over IPv4 or IPv6")
