"""A network that also sends: what a scenario calls `net`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from lab.errors import TrafficError
from lab.kernel import packet
from lab.model import journal
from lab.model.delivery import Delivery
from lab.model.journal import note
from lab.net import network as networks
from lab.net.cable import laid
from lab.net.topology import Topology
from lab.traffic import recorder
from lab.traffic.capture import Capture
from lab.traffic.exchange import Exchanger, Received, raw_frames
from lab.traffic.flight import Ears, Flight, fly
from lab.traffic.stream import Stream
from lab.traffic.trail import Trail, check_up

if TYPE_CHECKING:
    from lab.traffic.flood import Floods
    from lab.traffic.iperf3 import Iperf3Result

LONGEST_EXCHANGE_S = 1.0


class Network(networks.Network):
    """Brings a topology up, sends frames and streams through it, and says what arrived.

    One with a cable is a lab.physical.network.PhysicalNetwork; so is every pair while `pytest --physical` runs.
    """

    def __new__(cls, topology: Topology, *_: object) -> Network:
        """Chooses between the two."""
        if cls is Network and laid(topology).cable is not None:
            from lab.physical.network import PhysicalNetwork as cls
        return super().__new__(cls)

    def __init__(self, topology: Topology) -> None:
        super().__init__(laid(topology))
        self._exchanger: Exchanger | None = None
        self._floods: Floods | None = None

    def send(self, stream: Stream, *, canary: bool = True) -> Delivery:
        """Sends a stream, and counts what arrives at its end.

        Where nothing arrives, counters must show that the stream left its namespace, and every interface on its way
        must be up: TrafficError otherwise, so that no scenario passes because nothing could arrive; `delivery.reached`
        says how far it came. `canary=False` where a program at the sender's own egress is what stops it. See `canary`
        for more than that.
        """
        return self.send_all([stream], canary=canary)[0]

    def send_all(self, streams: Sequence[Stream], *, canary: bool = True) -> list[Delivery]:
        """Sends several streams side by side, each at its rate; a delivery for each."""
        with ExitStack() as stack:
            return Sending(self, streams, stack, canary).run().deliveries

    @contextmanager
    def sending(self, *streams: Stream, canary: bool = True) -> Iterator[Sending]:
        """The streams run beside the block, which may change rules meanwhile; they end with it at the latest.

        An exception in the block stops them at once.

        >>> with net.sending(Stream.udp("client", "server", dst_port=9000, count=3000, rate_pps=30_000)) as sending:
        ...     program.maps["deny_ports"][9001] = 1
        >>> sending.delivery.lost
        0
        """
        with ExitStack() as stack:
            sending = Sending(self, streams, stack, canary)
            sending.start()
            try:
                yield sending
            except BaseException:
                sending.stop()
                sending.wait()
                raise
            sending.finish()

    @contextmanager
    def canary(self, *streams: Stream) -> Iterator[None]:
        """The path of each stream is alive before the block and after it: TrafficError when anything of it is lost.

        A few messages of a neighbour that the program must let pass: the port beside the denied one.

        >>> with net.canary(Stream.udp("client", "server", dst_port=9001, count=1)):
        ...     assert net.send(Stream.udp("client", "server", dst_port=9000)).received == 0
        """
        self._sing("before", streams)
        yield
        self._sing("after", streams)

    def exchange(
        self,
        frames: Any,
        at: str,
        *,
        within_s: float = LONGEST_EXCHANGE_S,
        count: int | None = None,
        canary: bool = True,
    ) -> Received:
        """Sends whole frames (one or a list, scapy packets or bytes) out of an interface; gives what came in where.

        It ends when the kernel has nothing under way any more (2 to 3 ms), or after `within_s`; with `count`, only
        when so many have come in or the time is up. What XDP takes away before a socket sees it is not among them.
        TrafficError when a frame did not even leave, or when none came in anywhere and an interface is down; with
        `canary=False` that may be: a program at the egress of `at` stopped it.
        """
        begun, raw, name = journal.now(), raw_frames(frames), self.interface(at).name
        received = self._exchanged(raw, name, within_s, count)
        about = {"net": self, "frames": raw, "at": name, "count": count, "received": received}
        journal.step("exchange", **about, begun=begun, ended=journal.now())
        if canary and received.left < received.offered:
            raise TrafficError(
                f"exchange: only {received.left} of {received.offered} frames left {at}",
                mend="canary=False if a program at this egress is meant to stop them",
            )
        if canary and not any(received.values()):
            check_up(self, (each.name for each in self.interfaces), "exchange")
        return received

    @property
    def exchanger(self) -> Exchanger:
        """The packet sockets of the interfaces of this host."""
        if self._exchanger is None:
            self._exchanger = Exchanger([each for namespace in self.here for each in namespace.interfaces])
            self.on_close("close packet sockets", self._close_exchanger)
        return self._exchanger

    def _exchanged(self, frames: Sequence[bytes], at: str, within_s: float, count: int | None) -> Received:
        return self.exchanger.run(frames, at, within_s, count)

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
        sink: str = "",
        via: str = "live",
    ) -> Delivery:
        """Millions of frames a second out of a veth, made from one frame by varying its source address and port.

        `count` frames, or for `seconds` (in a minute at most). Received is what the other end of the veth counted; with
        a `sink` ("server/eth0", on which no XDP program may sit), what came in there, and is dropped there.
        `via="packet"` has the frames pass the egress of `source` too, at a tenth of the speed.
        """
        from lab.traffic.flood import Floods

        if self._floods is None:
            self._floods = Floods()
            self.on_close("close floods", self._close_floods)
        flood = self._floods.of(self.interface(source), frame, flows, via)
        at_sink = self.interface(sink) if sink else None
        with recorder.paused():
            delivery = flood.run(count=count, seconds=seconds, rate_pps=rate_pps, sink=at_sink)
        journal.step("flood", source=source)
        note("delivery", {"stream": f"flood from {source}, {flows:,} flows", **delivery.as_dict()})
        return delivery

    def iperf3(self, client: str, server: str, **options: Any) -> Iperf3Result:
        """One run of iperf3; see `lab.traffic.iperf3.run_iperf3`."""
        with recorder.paused():
            result = self._run_iperf3(client, server, **options)
        journal.step("iperf3", client=client, server=server)
        facts = {name: value for name, value in asdict(result).items() if name != "raw"}
        note("goodput", {"client": client, "server": server, **facts})
        return result

    def flight(self, stream: Stream, index: int) -> Flight:
        """What carries a stream through this network; `index` is its place among those that are sent together."""
        return flight_of(stream, index)

    def _run_iperf3(self, client: str, server: str, **options: Any) -> Iperf3Result:
        from lab.traffic.iperf3 import run_iperf3

        return run_iperf3(self, client, server, **options)

    def _sing(self, when: str, streams: Sequence[Stream]) -> None:
        for stream, delivery in zip(streams, self.send_all(streams), strict=True):
            if delivery.lost:
                came = f"{delivery.received} of {delivery.offered} arrived, the last that any reached"
                raise TrafficError(f"canary {when} the block: {stream.name}: {came} is {delivery.reached or 'nowhere'}")

    def _close_exchanger(self) -> None:
        if self._exchanger is not None:
            self._exchanger.close()
            self._exchanger = None

    def _close_floods(self) -> None:
        if self._floods is not None:
            self._floods.close()
            self._floods = None


class Sending:
    """Streams under way, beside the block of `net.sending(...)`."""

    def __init__(self, net: Network, streams: Sequence[Stream], stack: ExitStack, canary: bool) -> None:
        if not streams:
            raise TrafficError("send no stream at all", mend="net.send(Stream.udp(...))")
        self._net, self._canary = net, canary
        self._begun = journal.now()
        self._trails = [Trail(net, stream) for stream in streams]
        self._deliveries: list[Delivery] | None = None
        self._error: BaseException | None = None
        self._stopping = Event()
        self._thread: Thread | None = None
        self._ears = Ears(stack)
        self._flights = [net.flight(stream, index) for index, stream in enumerate(streams)]
        for flight in self._flights:
            flight.open(net, self._ears)

    def run(self) -> Sending:
        """Sends it all now."""
        fly(self._flights, self._ears, self._stopping.is_set)
        return self

    def start(self) -> None:
        """Sends it all from a thread; every socket is open already."""
        self._thread = Thread(target=self._run, name="lab-traffic", daemon=True)
        self._thread.start()

    @property
    def delivery(self) -> Delivery:
        """What became of the (first) stream; waits for its end."""
        return self.deliveries[0]

    @property
    def deliveries(self) -> list[Delivery]:
        """What became of each stream; waits for their end, and raises what the sending raised."""
        return self.finish()

    @property
    def under_way(self) -> bool:
        """False once the streams have ended."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def offered(self) -> int:
        """Messages of all streams until now."""
        return sum(flight.offered for flight in self._flights)

    @property
    def received(self) -> int:
        """Messages of all streams until now."""
        return sum(len(flight.arrivals.seen) for flight in self._flights)

    def stop(self) -> None:
        """Offers no more messages."""
        self._stopping.set()

    def wait(self) -> None:
        """Waits for the end of the streams."""
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> list[Delivery]:
        """Waits for the end, and judges what became of each stream."""
        self.wait()
        if self._error is not None:
            raise self._error
        if self._deliveries is None:
            pairs = zip(self._flights, self._trails, strict=True)
            self._deliveries = [self._judged(flight, trail) for flight, trail in pairs]
        return self._deliveries

    def _run(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._error = error

    def _judged(self, flight: Flight, trail: Trail) -> Delivery:
        delivery = flight.delivery()
        if delivery.lost:
            delivery = replace(delivery, reached=trail.reached())
        ended = journal.now()
        about = {"net": self._net, "stream": flight.stream, "delivery": delivery}
        journal.step("send", **about, begun=self._begun, ended=ended)
        if self._canary and not delivery.received:
            trail.check_left(delivery.offered)
            trail.check_alive()
        note("delivery", {"stream": flight.stream.name, **delivery.as_dict()})
        return delivery


def flight_of(stream: Stream, index: int) -> Flight:
    """By the stream's protocol; `index` is its place among those that are sent together."""
    make: Callable[[Stream, int], Flight]
    if stream.protocol == "tcp":
        from lab.traffic.connections import TcpFlight as make
    elif stream.protocol == "udp":
        from lab.traffic.datagrams import UdpFlight as make
    else:
        from lab.traffic.datagrams import IcmpFlight as make
    return make(stream, index)
