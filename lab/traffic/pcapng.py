"""pcapng files (draft-ietf-opsawg-pcapng): section header (4.1), interface (4.2), enhanced packets (4.3). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from lab.kernel.packet import Frame

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
LINKTYPE_ETHERNET = 1
OPTION_END, OPTION_NAME, OPTION_FLAGS, OPTION_APPLICATION, OPTION_TIME_RESOLUTION = 0, 2, 2, 4, 9
NANOSECONDS = 9
INBOUND, OUTBOUND = 1, 2


def pcapng(interface: str, frames: Iterable[Frame]) -> Iterator[bytes]:
    """The blocks of a file with one interface: names, times in ns and directions are kept."""
    application = _option(OPTION_APPLICATION, b"bpflab")
    yield _block(SECTION, struct.pack("=IHHq", BYTE_ORDER_MAGIC, 1, 0, -1) + application + _option(OPTION_END, b""))
    about = _option(OPTION_NAME, interface.encode()) + _option(OPTION_TIME_RESOLUTION, bytes([NANOSECONDS]))
    yield _block(INTERFACE, struct.pack("=HHI", LINKTYPE_ETHERNET, 0, 0) + about + _option(OPTION_END, b""))
    for frame in frames:
        yield _block(PACKET, _packet(frame))


def _packet(frame: Frame) -> bytes:
    length = len(frame.raw)
    head = struct.pack("=IIIII", 0, frame.time_ns >> 32, frame.time_ns & 0xFFFFFFFF, length, length)
    flags = _option(OPTION_FLAGS, struct.pack("=I", OUTBOUND if frame.outgoing else INBOUND))
    return head + _padded(frame.raw) + flags + _option(OPTION_END, b"")


def _block(kind: int, body: bytes) -> bytes:
    total = 12 + len(body)
    return struct.pack("=II", kind, total) + body + struct.pack("=I", total)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
