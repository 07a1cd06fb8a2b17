"""Floods: frames of many flows as fast as the kernel makes them, by BPF_PROG_RUN with live frames (Linux 5.18).

The generator (lab/instruments/generate.bpf.c) runs as if frames had come in at the source interface, makes each the
next flow's, and sends it out there again. No socket, no system call for a frame: millions a second on one core.
Received is what the peer of the source interface counted, whether a program there dropped it or not.
"""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab import instruments
from lab.errors import TrafficError
from lab.kernel import bpf as kernel_bpf
from lab.kernel import libbpf, netns
from lab.model.delivery import Delivery
from lab.traffic.flow_fields import flow_knobs
from lab.wait import wait_until

if TYPE_CHECKING:
    from lab.bpf.program import Program
    from lab.net.namespace import Interface

BATCH = 64
CHUNK = 65_536
"""Frames a system call when nothing paces them: about 20 ms."""
TURN_S = 0.002
"""When paced, frames go out in turns of this length."""
LONGEST_S = 60.0
SETTLE_S = 1.0


class Flood:
    """A generator that is loaded for one source and one template; `run` may be called again and again."""

    def __init__(self, source: Interface, frame: Any, *, flows: int = 1) -> None:
        self.source = source
        self._frame = bytes(frame)
        if not 1 <= flows <= 1 << 30:
            raise TrafficError(f"flood {source.name} with {flows} flows: 1 to {1 << 30} are possible")
        self._knobs = flow_knobs(self._frame, flows)
        self._stack = ExitStack()
        self._generator: Program | None = None

    def __enter__(self) -> Flood:
        from lab import bpf
        from lab.bpf.attach.receivers import make_poll

        self._generator = self._stack.enter_context(bpf.load(instruments.path("generate"), **self._knobs))
        make_poll(self.source.peer, self._stack)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, *, count: int | None = None, seconds: float | None = None, rate_pps: float | None = None) -> Delivery:
        """Sends `count` frames, or for `seconds` (60 at most), and waits until the last is counted."""
        if (count is None) == (seconds is None):
            raise TrafficError("flood: give either count= or seconds=")
        peer = self.source.peer
        before = peer.counters().rx_packets
        start = time.monotonic()
        offered = self._send(count, min(seconds or LONGEST_S, LONGEST_S), rate_pps)
        duration_s = time.monotonic() - start
        received = _settled(peer, before, offered)
        return Delivery(offered, received, duration_s=duration_s)

    def _send(self, count: int | None, seconds: float, rate_pps: float | None) -> int:
        assert self._generator is not None
        fd, sent, start = self._generator.fd, 0, time.monotonic()
        context = struct.pack("=6I", 0, len(self._frame), 0, self.source.ifindex, 0, 0)
        with netns.inside(self.source.netns_fd):  # the ifindex in the context means something here only
            while (count is None or sent < count) and (passed := time.monotonic() - start) < seconds:
                chunk = CHUNK
                if rate_pps:
                    chunk = int((passed + TURN_S) * rate_pps) - sent
                    if chunk < 1:
                        continue
                chunk = min(chunk, count - sent) if count is not None else chunk
                self._run(fd, context, chunk)
                sent += chunk
        if self._generator.globals["refused"]:
            raise TrafficError(f"flood {self.source.name}: the frame is too short for its own headers")
        return sent

    def _run(self, fd: int, context: bytes, chunk: int) -> None:
        try:
            kernel_bpf.prog_test_run(
                fd,
                self._frame,
                repeat=chunk,
                context=context,
                flags=kernel_bpf.F_TEST_XDP_LIVE_FRAMES,
                batch=min(BATCH, chunk),
            )
        except OSError as error:
            raise TrafficError(
                f"flood {self.source.name}: the kernel refused live frames",
                kernel=libbpf.sentence(error.errno or 0),
                mend="they exist since Linux 5.18; a frame is 14 to 3,520 bytes",
            ) from error


def _settled(peer: Interface, before: int, offered: int) -> int:
    """What the peer received, once all came or its counter stood still between two looks."""
    last = -1

    def done() -> bool:
        nonlocal last
        now = peer.counters().rx_packets - before
        if now >= offered or now == last:
            return True
        last = now
        return False

    wait_until(done, within_s=SETTLE_S, what=f"the counter of {peer.name} to stand still")
    return min(peer.counters().rx_packets - before, offered)
