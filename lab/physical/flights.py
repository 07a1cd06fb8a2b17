"""Streams of a pair on two hosts, as the host that asked for them sees them: one end is here, the other is there."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lab.errors import TrafficError
from lab.physical.host import Host
from lab.physical.words import error_of
from lab.traffic.connections import BACKLOG, TcpFlight
from lab.traffic.datagrams import IcmpFlight, UdpFlight
from lab.traffic.flight import Ear, Ears, Flight
from lab.traffic.stream import Stream

if TYPE_CHECKING:
    from lab.net.network import Network

LOOK_S = 0.002
"""Between two questions: each takes some tenths of a ms of both hosts."""


class There(Ear):
    """The other end of all streams of one `net.send`: lab.physical.departures, by way of the agent."""

    def __init__(self, host: Host, ears: Ears) -> None:
        super().__init__()
        self._host = host
        self._always = os.eventfd(1, os.EFD_CLOEXEC)
        ears.stack.callback(os.close, self._always)
        host.ask("streams_begin")
        ears.stack.callback(self._end)
        self._started = False
        self._looked_s = 0.0
        self.flying = True

    def connect(self, flight: Flight) -> None:
        """The flight starts there."""
        self.flights[flight.index] = flight
        self._host.ask("streams_connect", index=flight.index, stream=asdict(flight.stream))

    def listen(self, flight: Flight) -> None:
        """The flight ends there."""
        self.flights[flight.index] = flight
        self._host.ask("streams_listen", index=flight.index, stream=asdict(flight.stream))

    def start(self) -> None:
        """All that start there do so together."""
        if not self._started:
            self._started = True
            self._host.ask("streams_start")

    def stop(self) -> None:
        """Nothing is offered there any more, and what was is known here."""
        if self.flying:
            self._host.ask("streams_stop")
            self._look()

    def fileno(self) -> int:
        """Of something that is always readable: who waits asks again and again."""
        return self._always

    def take_in(self) -> bool:
        """Asks, unless it did so just now."""
        return time.monotonic() - self._looked_s >= LOOK_S and self._look()

    def _look(self) -> bool:
        seen: dict[str, Any] = self._host.ask("streams_look")
        self._looked_s = time.monotonic()
        if seen["error"]:
            raise error_of(seen["error"], f"host {self._host.name}: ")
        self.flying = seen["flying"]
        for index, (offered, expected) in seen["offered"].items():
            flight = self.flights[int(index)]
            assert isinstance(flight, FromThere)
            flight.offered, flight.expected_there = offered, expected
        for index, (ago_s, numbers) in seen["arrived"].items():
            flight = self.flights[int(index)]
            for number in numbers:
                flight.arrive(number)
            flight.last_s = max(flight.last_s - ago_s, flight.start_s)
        return bool(seen["arrived"])

    def _end(self) -> None:
        if self._host.alive:
            self._host.ask("streams_end")


class FromThere(Flight):
    """Sent there; mixed into the flight of a protocol, which receives here."""

    there: There
    expected_there = 0

    def connect(self, net: Network, ears: Ears) -> None:
        """The sending end."""
        self.there = _there(net, ears)
        self.there.connect(self)

    def start(self) -> None:
        """The clock of the stream starts, there too."""
        super().start()
        self.there.start()

    def burst(self) -> None:
        """It goes by itself."""
        self.there.take_in()

    def due_in_s(self) -> float:
        """Seconds until it is worth looking again."""
        return LOOK_S

    @property
    def sent(self) -> bool:
        """Every message was offered."""
        return not self.there.flying

    @property
    def expected(self) -> int:
        """How many messages may still come in all."""
        return self.expected_there

    @property
    def complete(self) -> bool:
        """Everything that may come has come; asked only when no more is to be offered."""
        self.there.stop()
        return len(self.arrivals.seen) >= self.expected


class UdpFromThere(FromThere, UdpFlight):
    """Datagrams that come here."""


class TcpFromThere(FromThere, TcpFlight):
    """Connections that come here."""

    def connect(self, net: Network, ears: Ears) -> None:
        """Nobody accepts while they are made: they wait in the listener's queue."""
        if self.stream.flows >= BACKLOG:
            raise TrafficError(f"send {self.stream.name}: {self.stream.flows} connections from the other host")
        super().connect(net, ears)


class IcmpFromThere(FromThere, IcmpFlight):
    """Echo requests that come here; their replies are received there."""


class _ToThere(Flight):
    """Received there; mixed into the flight of a protocol, which sends here."""

    def listen(self, net: Network, ears: Ears) -> None:
        """The receiving end."""
        _there(net, ears).listen(self)


class UdpToThere(_ToThere, UdpFlight):
    """Datagrams that go there."""


class TcpToThere(_ToThere, TcpFlight):
    """Connections that go there."""


FROM_THERE: dict[str, type[Flight]] = {"udp": UdpFromThere, "tcp": TcpFromThere, "icmp": IcmpFromThere}
TO_THERE: dict[str, type[Flight]] = {"udp": UdpToThere, "tcp": TcpToThere, "icmp": IcmpFlight}


def flight_between(stream: Stream, index: int, *, from_there: bool) -> Flight:
    """For a stream between the two hosts."""
    return (FROM_THERE if from_there else TO_THERE)[stream.protocol](stream, index)


def _there(net: Network, ears: Ears) -> There:
    """One for all streams that are sent together."""
    from lab.physical.network import PhysicalNetwork

    assert isinstance(net, PhysicalNetwork)
    host = net.host
    assert host is not None
    return ears.of(("there",), lambda: There(host, ears))  # type: ignore[return-value]
