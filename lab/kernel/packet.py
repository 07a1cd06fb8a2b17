"""AF_PACKET sockets: whole frames in and out of an interface (packet(7))."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from lab.kernel import origin

SOL_PACKET, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 6, 8, 23
SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 27, 33, 35
ETH_P_ALL = 3
PACKET_OUTGOING = 4
STATUS_CHECKSUM_NOT_READY, STATUS_VLAN_VALID, STATUS_VLAN_TPID_VALID = 1 << 3, 1 << 4, 1 << 6
LARGEST_FRAME = 65_600
BUFFER_BYTES = 64 << 20
FRAMES_A_CALL = 1024
"""sendmmsg takes no more at once (UIO_MAXIOV)."""

_AUXDATA = struct.Struct("=IIIHHHH")
_TIMESPEC = struct.Struct("=qq")
_libc = ctypes.CDLL(None, use_errno=True)


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
    origin.descriptor(made.fileno())
    try:
        made.bind((interface, 0))
    except OSError:
        made.close()
        raise
    return made


def open_receiver(interface: str, *, outgoing: bool = True, listening: bool = True) -> socket.socket:
    """A socket that keeps the frames of an interface, up to 64 MiB of them, until they are read.

    `outgoing` False leaves out what the interface sends; with `listening` False it keeps nothing until `listen`.
    """
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    origin.descriptor(made.fileno())
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, int(not outgoing))
        if not listening:
            stop_listening(made)
        made.bind((interface, ETH_P_ALL))  # only now does it receive, and from this interface alone
    except OSError:
        made.close()
        raise
    return made


def listen(receiver: socket.socket) -> None:
    """The socket keeps frames from now on."""
    receiver.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def stop_listening(receiver: socket.socket) -> None:
    """The socket keeps nothing more, and forgets what it has: a filter lets nothing in, for a few ns a frame."""
    nothing = ctypes.create_string_buffer(struct.pack("=HHI", 0x06, 0, 0))  # BPF_RET | BPF_K, 0 bytes
    receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(nothing)))
    while receive(receiver) is not None:
        pass


def receive(receiver: socket.socket) -> Frame | None:
    """The next frame, None when there is none now. A VLAN tag that the kernel took out is put back."""
    try:
        raw, ancillary, _, address = receiver.recvmsg(LARGEST_FRAME, 256)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.ENETDOWN:  # said once, when the interface goes down: nothing comes any more
            return None
        raise
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


# ---------------------------------------------------------------- many frames a system call


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr; this sender names no address and no control data."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_bytes", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_bytes", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr: the header is padded to 56 bytes before the count that the kernel writes."""

    _fields_ = (("header", _Header), ("sent_bytes", ctypes.c_uint32))


class FrameBatch:
    """Frames of one length laid out for sendmmsg(2), to be sent as often as one likes."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self._count = len(frames)
        self._buffer = ctypes.create_string_buffer(b"".join(frames))
        start, length = ctypes.addressof(self._buffer), len(frames[0])
        self._vectors = (_IoVec * self._count)()
        self._messages = (_Message * self._count)()
        for at, (message, vector) in enumerate(zip(self._messages, self._vectors, strict=True)):
            vector.base, vector.length = start + length * at, length
            message.header.vectors, message.header.vector_count = ctypes.pointer(vector), 1

    def __len__(self) -> int:
        return self._count

    def send(self, sender: socket.socket, first: int, count: int) -> int:
        """Sends frames `first` to `first + count`, at most 1024, in one call; gives how many went.

        0 when the interface or a program at its egress took none (ENOBUFS); other refusals are an OSError.
        """
        count = min(count, FRAMES_A_CALL, self._count - first)
        sent: int = _libc.sendmmsg(sender.fileno(), ctypes.byref(self._messages[first]), count, 0)
        if sent < 0:
            code = ctypes.get_errno()
            if code not in (errno.ENOBUFS, errno.EINTR):
                raise OSError(code, os.strerror(code))
            return 0
        return sent
