"""pcapng files (draft-ietf-opsawg-pcapng): section header (4.1), interface (4.2), enhanced packets (4.3). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lab.kernel.packet import Frame

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
LINKTYPE_ETHERNET, LINKTYPE_RAW = 1, 101
OPTION_END, OPTION_COMMENT, OPTION_NAME, OPTION_FLAGS, OPTION_APPLICATION, OPTION_TIME_RESOLUTION = 0, 1, 2, 2, 4, 9
LONGEST_OPTION = 4096
NANOSECONDS = 9
INBOUND, OUTBOUND = 1, 2


@dataclass(frozen=True)
class Packet:
    """One frame in a file: of which interface, when (ns since the epoch), which way, and what is to be said of it."""

    interface: str
    raw: bytes
    time_ns: int
    outgoing: bool | None = None
    """None: it went no way any more, it was dropped."""
    length: int = 0
    """Of the whole frame, where `raw` is not all of it."""
    comment: str = ""
    link_type: int = LINKTYPE_ETHERNET


def pcapng(interface: str, frames: Iterable[Frame]) -> Iterator[bytes]:
    """The blocks of a file with one interface: names, times in ns and directions are kept."""
    return pcapng_of([interface], (Packet(interface, each.raw, each.time_ns, each.outgoing) for each in frames))


def pcapng_of(interfaces: Sequence[str], packets: Iterable[Packet]) -> Iterator[bytes]:
    """The blocks of a file with several interfaces; one more of an interface whose frames have another link type."""
    application = _option(OPTION_APPLICATION, b"bpflab")
    yield _block(SECTION, struct.pack("=IHHq", BYTE_ORDER_MAGIC, 1, 0, -1) + application + _option(OPTION_END, b""))
    numbers: dict[tuple[str, int], int] = {}
    for name in interfaces:
        numbers[name, LINKTYPE_ETHERNET] = len(numbers)
        yield _interface(name, LINKTYPE_ETHERNET)
    for each in packets:
        key = (each.interface, each.link_type)
        if key not in numbers:
            numbers[key] = len(numbers)
            yield _interface(*key)
        yield _block(PACKET, _packet(numbers[key], each))


def _interface(name: str, link_type: int) -> bytes:
    about = _option(OPTION_NAME, name.encode()) + _option(OPTION_TIME_RESOLUTION, bytes([NANOSECONDS]))
    return _block(INTERFACE, struct.pack("=HHI", link_type, 0, 0) + about + _option(OPTION_END, b""))


def _packet(interface: int, packet: Packet) -> bytes:
    length, time_ns = max(packet.length, len(packet.raw)), packet.time_ns
    head = struct.pack("=IIIII", interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(packet.raw), length)
    options = b""
    if packet.outgoing is not None:
        options += _option(OPTION_FLAGS, struct.pack("=I", OUTBOUND if packet.outgoing else INBOUND))
    if packet.comment:
        options += _option(OPTION_COMMENT, packet.comment.encode()[:LONGEST_OPTION])
    return head + _padded(packet.raw) + options + _option(OPTION_END, b"")


def _block(kind: int, body: bytes) -> bytes:
    total = 12 + len(body)
    return struct.pack("=II", kind, total) + body + struct.pack("=I", total)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
