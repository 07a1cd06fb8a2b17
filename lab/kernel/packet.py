"""AF_PACKET sockets: whole frames in and out of an interface (packet(7))."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

SOL_PACKET, PACKET_AUXDATA, PACKET_STATISTICS = 263, 8, 6
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35
ETH_P_ALL = 3
PACKET_OUTGOING = 4
STATUS_VLAN_VALID, STATUS_VLAN_TPID_VALID, STATUS_CHECKSUM_NOT_READY = 1 << 4, 1 << 6, 1 << 3
LARGEST_FRAME = 65_600
BUFFER_BYTES = 64 << 20
_AUXDATA = struct.Struct("=IIIHHHH")
_TIMESPEC = struct.Struct("=qq")


@dataclass(frozen=True)
class Frame:
    """A frame as an interface saw it; `time_ns` since the epoch, taken by the kernel."""

    raw: bytes
    time_ns: int
    outgoing: bool
    partial_checksum: bool
    """Its transport checksum was left to the hardware, and is not right yet."""


def open_sender(interface: str) -> socket.socket:
    """A socket whose `send` puts a whole frame onto an interface of this thread's namespace; it receives none."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        made.bind((interface, 0))
    except OSError:
        made.close()
        raise
    return made


def open_receiver(interface: str) -> socket.socket:
    """A socket that keeps every frame of an interface, both ways, up to 64 MiB of them, until it is read."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        made.bind((interface, ETH_P_ALL))  # only now does it receive, and from this interface alone
    except OSError:
        made.close()
        raise
    return made


def receive(receiver: socket.socket) -> Frame | None:
    """The next frame, None when there is none now. A VLAN tag that the kernel took out is put back."""
    try:
        raw, ancillary, _, address = receiver.recvmsg(LARGEST_FRAME, 256)
    except BlockingIOError:
        return None
    time_ns, partial = 0, False
    for level, kind, data in ancillary:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(data)
            partial = bool(status & STATUS_CHECKSUM_NOT_READY)
            if status & STATUS_VLAN_VALID:
                protocol = tpid if status & STATUS_VLAN_TPID_VALID else 0x8100
                raw = raw[:12] + struct.pack("!HH", protocol, tci) + raw[12:]
        elif level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, rest = _TIMESPEC.unpack_from(data)
            time_ns = seconds * 1_000_000_000 + rest
    return Frame(raw, time_ns, address[2] == PACKET_OUTGOING, partial)


def dropped(receiver: socket.socket) -> int:
    """Frames that did not fit the buffer since the last call."""
    _, lost = struct.unpack("=II", receiver.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return int(lost)
