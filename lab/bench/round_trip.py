"""Round trip: what a program adds to a request and its answer, as an application sees it, over UDP sockets.

One thread asks and answers, so that both ways and both sockets are inside, but no wake-up of another process: that
takes 2 to 10 µs, varies by more than most programs cost, and is the scheduler's. The arms are those of
`lab.bench.latency`. Bias: four system calls and Python around them, some 6 µs in every arm.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.bench.arrival import arrived
from lab.bench.latency import FRAMES, REPETITIONS, Report, Trials, arms_of, take
from lab.bench.path import Path
from lab.model.measurement import Measurement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.bpf.program import Program
    from lab.traffic.network import Network

METHOD = "rtt"
LONGEST_MESSAGE = 65_536
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def measure_round_trip(
    program: Program,
    path: Path,
    *,
    dst_port: int = 9000,
    payload: bytes = bytes(18),
    ip: int = 4,
    frames: int = FRAMES,
    repetitions: int = REPETITIONS,
    below_ns: float | None = None,
    subject: str = "",
) -> Measurement:
    """The difference in ns of a UDP round trip between the namespaces of `source` and `sink`, with and without.

    The server is bound to `dst_port` at the sink and sends every `payload` back. `below_ns` is the author's promise for
    p99. MeasurementError when a request or its answer was lost in an arm.
    """
    trials = Trials(frames, repetitions)

    def make(network: Network, path: Path, sink: str) -> PingPong:
        return PingPong(network, (path.source, sink), dst_port, payload, ip)

    with ExitStack() as stack:
        taken, noise = take(path, arms_of(program, stack), make, trials)
    return Report("added_round_trip", METHOD, program.name, subject or path.how, taken, noise).measurement(below_ns)


class PingPong:
    """A probe: a request and its answer."""

    def __init__(self, network: Network, ends: tuple[str, str], dst_port: int, payload: bytes, ip: int) -> None:
        self._network, self._ends = network, ends
        self._port, self._payload, self._ip = dst_port, payload, ip
        self._samples: list[int] = []
        self._client: socket.socket
        self._server: socket.socket

    def at_source(self, stack: ExitStack) -> None:
        """The client, on a port that the kernel chooses."""
        self._client = self._bound(stack, self._ends[0], 0)

    def at_sink(self, stack: ExitStack) -> None:
        """The server; both know each other, so that nobody else's message is an answer."""
        self._server = self._bound(stack, self._ends[1], self._port)
        self._client.connect(self._server.getsockname()[:2])
        self._server.connect(self._client.getsockname()[:2])

    def fire(self) -> None:
        """One request and its answer."""
        start = time.perf_counter_ns()
        self._client.send(self._payload)
        request = arrived(self._server.recv, LONGEST_MESSAGE)
        if request is None:
            return
        self._server.send(request)
        if arrived(self._client.recv, LONGEST_MESSAGE) is not None:
            self._samples.append(time.perf_counter_ns() - start)

    @property
    def arrived(self) -> int:
        """Frames that arrived so far."""
        return len(self._samples)

    def samples(self) -> NDArray[Any]:
        """ns from before the request to after the answer."""
        import numpy

        return numpy.array(self._samples, dtype=numpy.int64)

    def close(self) -> None:
        """Nothing is left: the sockets were the stack's."""

    def _bound(self, stack: ExitStack, name: str, port: int) -> socket.socket:
        namespace = self._network.interface(name).namespace
        made = stack.enter_context(namespace.socket(FAMILY[self._ip], socket.SOCK_DGRAM))
        made.setblocking(False)
        made.bind((str(self._network.topology.address(name, self._ip)), port))
        return made
