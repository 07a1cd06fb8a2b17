"""Times a frame by two BPF programs that stamp it in the kernel: when it leaves, and when it arrives.

Bias: a stamp costs about 30 ns, once within each sample; it is the same in every arm, and so not in their difference.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from lab import instruments
from lab.model.action import Direction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.bench.path import Path
    from lab.traffic.network import Network

FAST = "cls_bpf"
"""0.4 ms to attach; TCX waits 14 ms for a grace period, with the lock of all interfaces held."""
SLOTS = 16384
"""Samples that the stamping program holds (SAMPLES in stamp.bpf.c)."""


class KernelStamp:
    """A probe: whole frames out of a packet socket, stamped by tc programs at egress of the source and at the sink."""

    fire: Callable[[], object]

    def __init__(self, frame: bytes, network: Network, path: Path, sink: str) -> None:
        from lab import bpf

        self._stamps = bpf.load(instruments.path("stamp"))
        self._frame, self._network = frame, network
        self._source, self._sink = path.source, sink
        self._shared = path.at == path.source

    def at_source(self, stack: ExitStack) -> None:
        """The first stamp, before a program under test that sits at egress too."""
        sent, where = self._stamps.programs["stamp_sent"], self._network.interface(self._source)
        via = None if self._shared else FAST
        stack.enter_context(sent.attach(where, direction=Direction.EGRESS, via=via))
        socket = stack.enter_context(self._network.packet_socket(self._source))
        self.fire = partial(socket.send, self._frame)

    def at_sink(self, stack: ExitStack) -> None:
        """The second stamp, behind a program under test that sits at ingress too: TCX comes before cls_bpf."""
        arrived, where = self._stamps.programs["stamp_arrived"], self._network.interface(self._sink)
        stack.enter_context(arrived.attach(where, direction=Direction.INGRESS, via=FAST))

    @property
    def arrived(self) -> int:
        """Frames that arrived so far."""
        return int(self._stamps.globals["arrived"])

    def samples(self) -> NDArray[Any]:
        """ns from departure to arrival."""
        import numpy

        return numpy.array(self._stamps.globals["samples"][: min(SLOTS, self.arrived)], dtype=numpy.int64)

    def close(self) -> None:
        """Frees the stamping programs."""
        self._stamps.close()
