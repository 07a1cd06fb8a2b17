"""Times a frame by the clock of the program that sends and receives it, in one thread.

The only method that covers every hook: what runs before the send returns is inside. Bias: two system calls and Python
around them, some 4 µs in every arm; what the stack does with the frame behind the sink is inside as well.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.bench.arrival import arrived
from lab.kernel import packet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.bench.path import Path
    from lab.traffic.network import Network


class UserClock:
    """A probe: a whole frame out of a packet socket and into another one, between two readings of the clock."""

    def __init__(self, frame: bytes, network: Network, path: Path, sink: str) -> None:
        self._frame, self._network = frame, network
        self._source, self._sink = path.source, sink
        self._samples: list[int] = []
        self._sender: socket.socket
        self._receiver: socket.socket

    def at_source(self, stack: ExitStack) -> None:
        """The socket that sends."""
        self._sender = stack.enter_context(self._network.packet_socket(self._source))

    def at_sink(self, stack: ExitStack) -> None:
        """The socket that receives, and nothing that the sink's own side sends."""
        self._receiver = stack.enter_context(receiver(self._network, self._sink))

    def fire(self) -> None:
        """One frame; the second reading is taken when it has been received."""
        start = time.perf_counter_ns()
        self._sender.send(self._frame)
        if arrived(self._receiver.recv, 1) is not None:
            self._samples.append(time.perf_counter_ns() - start)

    @property
    def arrived(self) -> int:
        """Frames that arrived so far."""
        return len(self._samples)

    def samples(self) -> NDArray[Any]:
        """ns from before the send to after the receive."""
        import numpy

        return numpy.array(self._samples, dtype=numpy.int64)

    def close(self) -> None:
        """Nothing is left: the sockets were the stack's."""


def receiver(network: Network, name: str) -> socket.socket:
    """A packet socket that takes what comes in at an interface, with the kernel's time of it."""
    interface = network.interface(name)
    made: socket.socket = interface.namespace.run(packet.open_receiver, interface.short_name, outgoing=False)
    return made
