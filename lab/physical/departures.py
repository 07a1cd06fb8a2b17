"""Streams on the other host: those that start there and those that end there, as the agent carries them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from threading import Event, Lock, Thread
from typing import Any

from lab.errors import LabError
from lab.physical.words import error_as_dict
from lab.traffic.flight import Arrivals, Ears, Flight, depart
from lab.traffic.network import Network, flight_of
from lab.traffic.stream import Stream

NAP_S = 0.01
"""So soon the thread that receives sees that it is over."""


class _Log(Arrivals):
    """What came since it was last asked; the other side judges it."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[int] = []
        self.last_s = 0.0

    def add(self, number: int) -> None:
        """One message came."""
        self.seen.add(number)
        self.new.append(number)
        self.last_s = time.monotonic()

    def taken(self) -> list[int]:
        """The numbers, in the order in which they came."""
        taken, self.new = self.new, []
        return taken


class Departures:
    """The streams of one `net.send` that have an end here."""

    def __init__(self, net: Network) -> None:
        self._net = net
        self._stack = ExitStack()
        # Each of two threads has its own ears: one sends (and receives echo replies), one receives.
        self._sending, self._receiving = Ears(self._stack), Ears(self._stack)
        self._from_here: dict[int, Flight] = {}
        self._to_here: dict[int, Flight] = {}
        self._logs: dict[int, _Log] = {}
        self._stopping = Event()
        self._thread: Thread | None = None
        self._listener: Thread | None = None
        self._lock = Lock()
        self._closing = Event()
        self._error: Exception | None = None

    def connect(self, index: int, stream: Mapping[str, Any]) -> None:
        """One that starts here."""
        flight = self._from_here[index] = self._flight(index, stream)
        flight.connect(self._net, self._sending)

    def listen(self, index: int, stream: Mapping[str, Any]) -> None:
        """One that ends here."""
        flight = self._to_here[index] = self._flight(index, stream)
        with self._lock:
            flight.listen(self._net, self._receiving)
        if self._listener is None:
            self._listener = Thread(target=self._receive, daemon=True)
            self._listener.start()

    def start(self) -> None:
        """Sends all that start here."""
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def look(self) -> dict[str, Any]:
        """How far it is: what was offered and is expected, what came since, and how long ago the last."""
        flying = self._thread is not None and self._thread.is_alive()
        if not flying:
            self._sending.take_in()
        now = time.monotonic()
        with self._lock:
            self._receiving.take_in()
            arrived = {index: [now - log.last_s, new] for index, log in self._logs.items() if (new := log.taken())}
        return {
            "offered": {index: [each.offered, each.expected] for index, each in self._from_here.items()},
            "arrived": arrived,
            "flying": flying,
            "error": error_as_dict(self._error) if self._error else None,
        }

    def stop(self) -> None:
        """Offers no more; returns when that is so."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Gives all sockets back."""
        self.stop()
        self._closing.set()
        if self._listener is not None:
            self._listener.join()
        self._stack.close()

    def _flight(self, index: int, stream: Mapping[str, Any]) -> Flight:
        flight = flight_of(Stream(**{**stream, "frame_bytes": tuple(stream["frame_bytes"])}), index)
        flight.arrivals = self._logs[index] = _Log()
        return flight

    def _receive(self) -> None:
        while not self._closing.is_set():
            self._receiving.wait(NAP_S)
            with self._lock:
                self._receiving.take_in()

    def _run(self) -> None:
        try:
            depart(list(self._from_here.values()), self._sending, self._stopping.is_set)
        except (LabError, OSError) as error:
            self._error = error
