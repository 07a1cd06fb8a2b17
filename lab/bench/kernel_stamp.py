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

    def at_source(self, stack: ExitStack) -> None:
        """The first stamp, before a program under test that sits at egress too."""
        sent = self._stamps.programs["stamp_sent"]
        stack.enter_context(sent.attach(self._network.interface(self._source), direction=Direction.EGRESS))
        socket = stack.enter_context(self._network.packet_socket(self._source))
        self.fire = partial(socket.send, self._frame)

    def at_sink(self, stack: ExitStack) -> None:
        """The second stamp, behind a program under test that sits at ingress too."""
        arrived = self._stamps.programs["stamp_arrived"]
        stack.enter_context(arrived.attach(self._network.interface(self._sink), direction=Direction.INGRESS))

    def samples(self) -> NDArray[Any]:
        """ns from departure to arrival."""
        import numpy

        stamps = self._stamps.globals
        return numpy.array(stamps["samples"][: min(SLOTS, stamps["arrived"])], dtype=numpy.int64)

    def close(self) -> None:
        """Frees the stamping programs."""
        self._stamps.close()
