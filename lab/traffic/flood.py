"""Floods: frames of many flows as fast as the kernel makes them.

By default BPF_PROG_RUN makes live frames (Linux 5.18): a generator (lab/instruments/generate.bpf.c) runs as if frames
had come in at the source interface, makes each the next flow's, and sends it out there again. No socket, no system
call for a frame: 5 to 6 million a second on one core, into a program that drops them, with 1,000,000 flows as with one.
They leave the interface below its egress hooks. Where tc or the interface's own XDP must see them, `via="packet"` sends
by AF_PACKET and sendmmsg: 0.3 to 0.7 million a second.

Received is what the peer of the source interface counted, whether a program there dropped it or not; or, with a `sink`,
what came in there at the end of the way.
"""

from __future__ import annotations

import os
import struct
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Self

from lab import instruments
from lab.errors import TrafficError
from lab.kernel import bpf as kernel_bpf
from lab.kernel import closing, libbpf, netns, packet, softirq
from lab.model.delivery import Delivery
from lab.model.journal import journal
from lab.traffic.flow_fields import check_flows, flow_fields, flow_frame, flow_knobs
from lab.traffic.sink import Passage, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.net.namespace import Interface
    from lab.traffic.sink import Counter

BATCH = 63
"""One less than the frames that a NAPI poll takes at most (NAPI_POLL_WEIGHT): one that takes as many is run again, in
vain, which costs 2 % of the rate."""
CHUNK = 8192
"""Live frames a system call when nothing paces them, at first: about 1.5 ms."""
MOST_CHUNK = 65_536
"""And later: each call makes a pool of pages anew, 2 to 3 % of the time of a short one."""
LATER_CHUNK = 1 / 8
"""Of what was sent until then, so that a flood for a time ends in time."""
TURN_S = 0.001
"""When paced, frames go out in turns of this length."""
LONGEST_S = 60.0
LOOK_S = 0.001
"""Between two looks at a counter that may lag."""
MOST_FLOWS = {"live": 1 << 30, "packet": 1 << 16}
"""Frames for AF_PACKET are all made beforehand."""
LOOPBACK_IFINDEX, BPF_XDP, XDP_FLAGS_SKB_MODE = 1, 37, 2


@dataclass(frozen=True)
class Amount:
    """How much is sent: so many frames, or for so many seconds, and how fast (None: as fast as it goes)."""

    count: int | None = None
    seconds: float | None = None
    rate_pps: float | None = None

    def __post_init__(self) -> None:
        if (self.count is None) == (self.seconds is None):
            raise TrafficError("flood: give either count= or seconds=")
        for name in ("count", "seconds", "rate_pps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise TrafficError(f"flood: {name}={value} is not above 0")
        if (self.seconds or (self.count or 0) / (self.rate_pps or inf)) > LONGEST_S:
            raise TrafficError(f"flood: it would take longer than {LONGEST_S:g} s", mend="several floods in a row")

    def send(self, send: Callable[[int], int], most: int) -> float:
        """Calls `send(frames)`, which gives how many went, until it is enough; the CPU time in s that this took.

        TrafficError when a count is not sent within a minute.
        """
        sent, start, busy = 0, time.monotonic(), 0.0
        end = start + (self.seconds or LONGEST_S)
        while (self.count is None or sent < self.count) and (now := time.monotonic()) < end:
            chunk = min(most, max(CHUNK, int(sent * LATER_CHUNK)))
            if self.rate_pps is not None:
                chunk = min(chunk, self._due(now - start) - sent)
            if self.count is not None:
                chunk = min(chunk, self.count - sent)
            if chunk > 0:
                busy -= time.thread_time()
                sent += send(chunk)
                busy += time.thread_time()
            else:
                _sleep_until(min(end, start + TURN_S * ((now - start) // TURN_S + 1)))
        if self.count is not None and sent < self.count:
            raise TrafficError(
                f"flood: {sent:,} of {self.count:,} frames went within {LONGEST_S:g} s", mend="count= of fewer frames"
            )
        return busy

    def _due(self, passed_s: float) -> int:
        """Frames that are to have gone by the end of this turn."""
        assert self.rate_pps is not None
        return int((passed_s // TURN_S + 1) * TURN_S * self.rate_pps)


class AnyFlood(ABC):
    """A source and a template, ready to send; `run` may be called again and again."""

    via = ""
    frame_bytes = 0.0
    """Of a frame; the mean where they differ."""

    def __init__(self, source: Interface, frame: Any, *, flows: int = 1) -> None:
        if not 1 <= flows <= MOST_FLOWS[self.via]:
            raise TrafficError(f"flood {source.name} with {flows:,} flows: 1 to {MOST_FLOWS[self.via]:,} are possible")
        if source.kind not in ("veth", "physical"):
            raise TrafficError(f"flood {source.name}: it is a {source.kind}, and its receiver unknown: give a veth")
        self.source = source
        self.flows = flows
        self._frame = bytes(frame)
        self.frame_bytes = float(len(self._frame))
        check_flows(self._frame, flows)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives everything back."""
        self._stack.close()

    def run(
        self,
        *,
        count: int | None = None,
        seconds: float | None = None,
        rate_pps: float | None = None,
        sink: Interface | Counter | None = None,
    ) -> Delivery:
        """Sends so much, and waits until the last frame is counted. TrafficError when none came to the peer."""
        return self._run(Amount(count, seconds, rate_pps), sink)

    def _run(self, amount: Amount, sink: Interface | Counter | None) -> Delivery:
        peer = self.source.peer
        with ExitStack() as stack:
            at_peer = Passage(peer).count
            counted = _counter(sink, stack) if sink else at_peer
            before, entered = counted(), at_peer()
            with softirq.on_one_cpu():
                start = time.monotonic()
                offered, cpu_s = self.offer(amount)
                duration_s = time.monotonic() - start
            received = settled(counted, before, offered)
            if at_peer() == entered:
                raise TrafficError(
                    f"flood {self.source.name}: none of {offered:,} frames came to {peer.name}",
                    mend='a program at its egress? live frames pass below it, via="packet" does not',
                )
        return Delivery(offered, received, duration_s=duration_s, cpu_s=cpu_s)

    @abstractmethod
    def offer(self, amount: Amount) -> tuple[int, float]:
        """Sends frames; gives how many were offered, and the CPU time in s that it took."""


class Flood(AnyFlood):
    """Frames made and sent by a program under BPF_PROG_RUN."""

    via = "live"

    def __init__(self, source: Interface, frame: Any, *, flows: int = 1) -> None:
        super().__init__(source, frame, flows=flows)
        from lab import bpf

        with journal():  # the lab's own program is no news
            self._generator = bpf.load(instruments.path("generate"), **flow_knobs(self._frame, flows))
        self._stack.callback(self._generator.close)
        self._context = struct.pack("=6I", 0, len(self._frame), 0, source.ifindex, 0, 0)
        self._attach_somewhere()

    def _attach_somewhere(self) -> None:
        """To a loopback of its own: else each PROG_RUN with more rounds than one attaches it anew, for 20 ms."""
        with netns.restored():
            netns.unshare()
            link = kernel_bpf.link_create(self._generator.fd, LOOPBACK_IFINDEX, BPF_XDP, XDP_FLAGS_SKB_MODE)
            space = netns.open_current()

        def detach() -> None:
            os.close(link)
            os.close(space)

        self._stack.callback(closing.soon, detach)

    def offer(self, amount: Amount) -> tuple[int, float]:
        """In one call of the kernel for up to 65,536 frames."""
        with self.making() as made:
            cpu_s = amount.send(self.make, MOST_CHUNK)
        return made(), cpu_s

    def begin_at(self, flow: int) -> None:
        """The next frame is of this flow, where flows come in order: where their number is no power of two."""
        self._generator.globals["rounds"] = flow

    @contextmanager
    def making(self) -> Iterator[Callable[[], int]]:
        """Inside of it, `make` sends; what it gives tells how many frames were made since it began."""
        from lab.bpf.attach.receivers import make_poll, pass_at

        generator = self._generator.globals
        before = generator["rounds"]  # it goes on: short floods of many flows do not begin anew each time
        with ExitStack() as stack:
            if self.source.kind == "physical":
                pass_at(self.source, stack)  # many drivers send for XDP only where a program is
            else:
                make_poll(self.source.peer, stack)
            stack.enter_context(netns.inside(self.source.netns_fd))  # the ifindex means something here only
            yield lambda: int(generator["rounds"] - before) & 0xFFFFFFFF
        if generator["refused"]:
            raise TrafficError(f"flood {self.source.name}: the frame is too short for its own headers")

    def make(self, chunk: int) -> int:
        """Sends so many frames now; they are more if a signal interrupts the kernel."""
        live = kernel_bpf.F_TEST_XDP_LIVE_FRAMES
        try:
            kernel_bpf.prog_test_run(
                self._generator.fd,
                self._frame,
                repeat=chunk,
                context=self._context,
                flags=live,
                batch=min(BATCH, chunk),
            )
        except OSError as error:
            raise TrafficError(
                f"flood {self.source.name}: the kernel refused live frames",
                kernel=libbpf.sentence(error.errno or 0),
                mend='they exist since Linux 5.18, for frames of 14 to 3,520 bytes; via="packet" needs neither',
            ) from error
        return chunk


class PacketFlood(AnyFlood):
    """Frames sent by an AF_PACKET socket, many a system call."""

    via = "packet"

    def __init__(self, source: Interface, frame: Any, *, flows: int = 1) -> None:
        super().__init__(source, frame, flows=flows)
        fields = flow_fields(self._frame)
        made = [flow_frame(self._frame, fields, flow) for flow in range(flows)]
        self._frames = packet.FrameBatch(made * max(1, packet.FRAMES_A_CALL // flows))
        self._next = 0
        sender = source.namespace.run(packet.open_sender, source.short_name)
        self._sender = sender
        self._stack.callback(closing.soon, sender.close)

    def offer(self, amount: Amount) -> tuple[int, float]:
        """In one system call for up to 1,024 frames."""
        self._next = offered = 0

        def send(chunk: int) -> int:
            nonlocal offered
            try:
                sent = self._frames.send(self._sender, self._next, chunk) or 1  # a frame that was not taken is lost
            except OSError as error:
                raise TrafficError(
                    f"flood {self.source.name}: a frame of {len(self._frame)} bytes was refused",
                    kernel=error.strerror or str(error),
                    mend="a frame is 14 bytes (Ethernet) to MTU + 18 (with a VLAN tag), and its interface is up",
                ) from error
            self._next = (self._next + sent) % len(self._frames)
            offered += sent
            return sent

        cpu_s = amount.send(send, packet.FRAMES_A_CALL)
        return offered, cpu_s


FLOODS: dict[str, type[AnyFlood]] = {each.via: each for each in (Flood, PacketFlood)}


class Floods:
    """The floods of a network, kept ready: loading a generator takes 30 ms, and measurements flood again and again."""

    MOST = 4

    def __init__(self) -> None:
        self._ready: dict[tuple[str, str, bytes, int], AnyFlood] = {}

    def of(self, source: Interface, frame: Any, flows: int, via: str) -> AnyFlood:
        """A flood for this source, template and number of flows."""
        if via not in FLOODS:
            raise TrafficError(f'flood via {via!r}: "live" and "packet" exist')
        key = (via, source.name, bytes(frame), flows)
        if key not in self._ready:
            if len(self._ready) >= self.MOST:
                self._ready.pop(next(iter(self._ready))).close()
            self._ready[key] = FLOODS[via](source, frame, flows=flows)
        return self._ready[key]

    def close(self) -> None:
        """Gives everything back."""
        while self._ready:
            self._ready.popitem()[1].close()


def _counter(sink: Interface | Counter, stack: ExitStack) -> Callable[[], int]:
    if hasattr(sink, "count"):
        return sink.count
    return stack.enter_context(Sink(sink)).count


def settled(count: Callable[[], int], before: int, offered: int, still_s: float = 0.0) -> int:
    """What was received, once all of it was, or the kernel has nothing under way and the count stands still.

    `still_s`: for so long, where frames are under way outside of this kernel, or counters lag behind them.
    """
    last, since = -1, time.monotonic()
    deadline = since + LONGEST_S
    while last < offered and time.monotonic() < deadline:
        softirq.settle()
        now = count() - before
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= still_s:
            break
        if still_s:
            time.sleep(LOOK_S)
    return min(last, offered)


def _sleep_until(moment_s: float) -> None:
    """Asleep while there is time, awake for the last 100 µs."""
    while (left := moment_s - time.monotonic()) > 0:
        if left > 0.0002:
            time.sleep(left - 0.0001)
