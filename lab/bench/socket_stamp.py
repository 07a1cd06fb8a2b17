"""Times a frame by the kernel's own stamps of sent and received packets (SO_TIMESTAMPING, timestamping.rst).

It departs when it enters the device queue (SOF_TIMESTAMPING_TX_SCHED), before a tc program at egress, and arrives when
the device gives it to the stack: behind native XDP, but before generic XDP and before tc at ingress, which
it therefore cannot measure at the sink. Bias: the stamp of a departure is put onto the socket's error queue while the
frame waits, some 150 ns in every arm.
"""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.bench.arrival import arrived
from lab.bench.user_clock import receiver
from lab.errors import MeasurementError
from lab.kernel.packet import SO_TIMESTAMPNS
from lab.model.action import Mode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.bench.path import Path
    from lab.bpf.program import Program
    from lab.traffic.network import Network

SO_TIMESTAMPING = 37
SOF_SOFTWARE, SOF_TX_SCHED, SOF_OPT_TSONLY = 1 << 4, 1 << 8, 1 << 11  # linux/net_tstamp.h
_TIMESPEC = struct.Struct("=qq")
_CONTROL_BYTES = 256
Message = tuple[bytes, list[tuple[int, int, bytes]], int, Any]


class SocketStamp:
    """A probe: a whole frame out of a packet socket and into another one, with the stamps that come along."""

    def __init__(self, frame: bytes, network: Network, path: Path, sink: str) -> None:
        self._frame, self._network = frame, network
        self._source, self._sink = path.source, sink
        self._samples: list[int] = []
        self._sender: socket.socket
        self._receiver: socket.socket

    def at_source(self, stack: ExitStack) -> None:
        """The socket that sends, and is told when the kernel did."""
        self._sender = stack.enter_context(self._network.packet_socket(self._source))
        self._sender.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SOF_SOFTWARE | SOF_TX_SCHED | SOF_OPT_TSONLY)

    def at_sink(self, stack: ExitStack) -> None:
        """The socket that receives, with the time at which the kernel did."""
        self._receiver = stack.enter_context(receiver(self._network, self._sink))

    def fire(self) -> None:
        """One frame, and both of its stamps."""
        self._sender.send(self._frame)
        came = arrived(self._receiver.recvmsg, 1, _CONTROL_BYTES, socket.MSG_DONTWAIT)
        left = arrived(self._sender.recvmsg, 0, _CONTROL_BYTES, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        if came and left:
            self._samples.append(_stamp_ns(came) - _stamp_ns(left))

    @property
    def arrived(self) -> int:
        """Frames that arrived so far."""
        return len(self._samples)

    def samples(self) -> NDArray[Any]:
        """ns from the device queue of the source to the stack of the sink."""
        import numpy

        return numpy.array(self._samples, dtype=numpy.int64)

    def close(self) -> None:
        """Nothing is left: the sockets were the stack's."""


def check_seen(program: Program, path: Path) -> None:
    """MeasurementError when the program sits behind the stamp of the arrival."""
    behind = program.type == "sched_cls" or path.mode is Mode.GENERIC
    if path.at == path.sink and path.at != path.source and behind:
        raise MeasurementError(
            f"measure {program.name} at {path.how} by socket_stamp: the kernel stamps arrivals before that hook",
            mend='method="kernel_stamp" or "user_clock", or a sink further on',
        )


def _stamp_ns(message: Message) -> int:
    """ns since the epoch; the first timespec of either kind of control message is the software's."""
    for level, kind, data in message[1]:
        if level == socket.SOL_SOCKET and kind in (SO_TIMESTAMPING, SO_TIMESTAMPNS):
            seconds, rest = _TIMESPEC.unpack_from(data)
            return int(seconds * 1_000_000_000 + rest)
    raise MeasurementError("measure by socket_stamp: the kernel sent no time along with a frame")
