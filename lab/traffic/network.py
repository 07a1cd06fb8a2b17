"""A network that also sends: what a scenario calls `net`."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from threading import Thread
from typing import Any

from lab.errors import TrafficError
from lab.kernel import packet
from lab.model.delivery import Delivery
from lab.model.journal import note
from lab.net import network as networks
from lab.net.namespace import Interface
from lab.traffic.capture import Capture
from lab.traffic.codec import dissect
from lab.traffic.stream import Stream

QUIET_S = 0.004
"""After so long without a frame anywhere an exchange is over: a veth delivers before the send returns."""
LONGEST_EXCHANGE_S = 1.0


class Received(dict[str, list[Any]]):
    """The frames that arrived, as scapy packets, by interface; an interface where none did has an empty list."""

    def __missing__(self, name: str) -> list[Any]:
        return []

    @property
    def everywhere(self) -> list[Any]:
        """All frames at all interfaces."""
        return [frame for frames in self.values() for frame in frames]


class Network(networks.Network):
    """Brings a topology up, sends frames and streams through it, and says what arrived."""

    def send(self, stream: Stream, *, canary: bool = True) -> Delivery:
        """Sends a stream, and counts what arrives at its end.

        Where nothing arrives, the counters of the first veth must show that the stream was under way: TrafficError
        when they do not, so that no scenario passes because nothing was sent. `canary=False` where a program at the
        sender's own egress is what stops it.
        """
        source = self.interface(stream.src)
        before = source.counters()
        delivery = _sender(stream)(self, stream)
        if canary and not delivery.received:
            self._check_canary(stream, source, source.counters().tx_packets - before.tx_packets)
        note("delivery", {"stream": stream.name, **delivery.as_dict()})
        return delivery

    @contextmanager
    def sending(self, stream: Stream) -> Iterator[Sending]:
        """The stream runs beside the block, which may change rules meanwhile; `delivery` is there when it ends."""
        sending = Sending(self, stream)
        try:
            yield sending
        finally:
            sending.join()

    def exchange(
        self, frames: Any, at: str, *, within_s: float = LONGEST_EXCHANGE_S, count: int | None = None
    ) -> Received:
        """Sends whole frames (one or a list, scapy packets or bytes) out of an interface; gives what arrived where.

        It ends when no frame has arrived anywhere for 4 ms, or after `within_s`; with `count`, only when so many have
        arrived or the time is up. What XDP takes away before a socket sees it is not among them.
        """
        offered = [
            bytes(each)
            for each in (frames if isinstance(frames, Sequence) and not isinstance(frames, bytes) else [frames])
        ]
        with ExitStack() as stack:
            receivers = {
                each.name: stack.enter_context(each.namespace.run(packet.open_receiver, each.short_name))
                for each in self.interfaces
            }
            sender = stack.enter_context(self.packet_socket(at))
            for frame in offered:
                _send_frame(sender, frame, at)
            return _collect(receivers, within_s, count)

    def packet_socket(self, name: str) -> socket.socket:
        """A socket whose `send(frame)` puts a whole frame onto an interface, 1.6 µs each; the caller closes it."""
        interface = self.interface(name)
        made: socket.socket = interface.namespace.run(packet.open_sender, interface.short_name)
        return made

    def capture(self, name: str) -> Capture:
        """`with net.capture("server/eth0") as capture:` keeps the interface's frames, both ways."""
        return Capture(self.interface(name))

    def flood(
        self,
        source: str,
        frame: Any,
        *,
        flows: int = 1,
        count: int | None = None,
        seconds: float | None = None,
        rate_pps: float | None = None,
    ) -> Delivery:
        """Millions of frames a second out of a veth, made from one frame by varying its source address and port."""
        from lab.traffic.flood import Flood

        with Flood(self.interface(source), frame, flows=flows) as flood:
            delivery = flood.run(count=count, seconds=seconds, rate_pps=rate_pps)
        note("delivery", {"stream": f"flood from {source}, {flows:,} flows", **delivery.as_dict()})
        return delivery

    def iperf3(self, client: str, server: str, **options: Any) -> Any:
        """One run of iperf3; see `lab.traffic.iperf3.run_iperf3`."""
        from lab.traffic.iperf3 import run_iperf3

        result = run_iperf3(self, client, server, **options)
        facts = {name: value for name, value in asdict(result).items() if name != "raw"}
        note("goodput", {"client": client, "server": server, **facts})
        return result

    def _check_canary(self, stream: Stream, source: Interface, left: int) -> None:
        if left < (1 if stream.protocol == "tcp" else stream.count):
            raise TrafficError(
                f"send {stream.name}: nothing arrived, and only {left} of {stream.count} frames left {source.name}",
                mend="look at addresses, routes and neighbours; canary=False if a program at this egress stops them",
            )


class Sending:
    """A stream under way beside the block of `net.sending(...)`."""

    def __init__(self, net: Network, stream: Stream) -> None:
        self._delivery: Delivery | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(net, stream), daemon=True)
        self._thread.start()

    @property
    def delivery(self) -> Delivery:
        """What became of the stream; waits for its end."""
        self.join()
        assert self._delivery is not None
        return self._delivery

    @property
    def under_way(self) -> bool:
        """False once the stream has ended."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Waits for the end; raises what the sending raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, net: Network, stream: Stream) -> None:
        try:
            self._delivery = net.send(stream)
        except BaseException as error:
            self._error = error


def _sender(stream: Stream) -> Callable[[networks.Network, Stream], Delivery]:
    if stream.protocol == "tcp":
        from lab.traffic.connections import send_tcp

        return send_tcp
    from lab.traffic import datagrams

    return datagrams.send_udp if stream.protocol == "udp" else datagrams.send_icmp


def _send_frame(sender: socket.socket, frame: bytes, at: str) -> None:
    try:
        sender.send(frame)
    except OSError as error:
        raise TrafficError(
            f"send a frame of {len(frame)} bytes from {at}",
            kernel=error.strerror or str(error),
            mend="a frame is 14 bytes (Ethernet) to MTU + 18 (with a VLAN tag)",
        ) from error


def _collect(receivers: dict[str, socket.socket], within_s: float, count: int | None) -> Received:
    names = {receiver: name for name, receiver in receivers.items()}
    found: dict[str, list[bytes]] = {}
    deadline = time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(list(names), [], [], left if count is not None else min(QUIET_S, left))
        arrived = False
        for receiver in ready:
            while (frame := packet.receive(receiver)) is not None:
                if not frame.outgoing:
                    found.setdefault(names[receiver], []).append(frame.raw)
                    arrived = True
        enough = count is not None and sum(map(len, found.values())) >= count
        if enough or (not ready and count is None) or (not arrived and count is None):
            break
    return Received({name: [dissect(raw) for raw in frames] for name, frames in found.items()})
