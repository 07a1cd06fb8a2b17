"""Streams under way: all that are sent together, message by message, from one thread."""

from __future__ import annotations

import selectors
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.kernel import softirq
from lab.model.delivery import Delivery
from lab.traffic.pace import Pace
from lab.traffic.stream import Stream

if TYPE_CHECKING:
    from lab.net.network import Network

BURST = 32
"""Messages of one stream before the receivers are looked at: far fewer than their buffers hold."""
LONGEST_NAP_S = 0.05
"""A slow stream looks so often whether it is to stop."""


class Arrivals:
    """What came, by the numbers of the messages: each once, in what order within its flow (number modulo `flows`)."""

    def __init__(self, flows: int = 1) -> None:
        self.seen: set[int] = set()
        self.reordered = 0
        self.duplicated = 0
        self._highest = [-1] * flows

    def add(self, number: int) -> None:
        """One message came (RFC 4737: reordered is what comes behind a higher number)."""
        if number in self.seen:
            self.duplicated += 1
            return
        self.seen.add(number)
        flow = number % len(self._highest)
        if number < self._highest[flow]:
            self.reordered += 1
        else:
            self._highest[flow] = number


class Ear(ABC):
    """A place where messages of one or several streams arrive."""

    def __init__(self) -> None:
        self.flights: dict[int, Flight] = {}

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that is readable when something came."""

    @abstractmethod
    def take_in(self) -> bool:
        """Hands what came to its flights; whether anything came."""


class Ears:
    """The ears of streams that are sent together: those to one port share one."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self._ears: dict[tuple[Any, ...], Ear] = {}
        self._events = stack.enter_context(selectors.DefaultSelector())

    def of(self, key: tuple[Any, ...], make: Callable[[], Ear]) -> Ear:
        """The ear for a key, made by the first that asks."""
        if key not in self._ears:
            self._ears[key] = ear = make()
            self._events.register(ear, selectors.EVENT_READ)
        return self._ears[key]

    def take_in(self) -> bool:
        """Whether anything came anywhere."""
        return any([ear.take_in() for ear in self._ears.values()])

    def wait(self, timeout_s: float) -> None:
        """Returns when something comes, or the time is up."""
        self._events.select(timeout_s)


class Flight(ABC):
    """One stream under way."""

    def __init__(self, stream: Stream, index: int) -> None:
        self.stream = stream
        self.index = index
        self.offered = 0
        self.arrivals = Arrivals(stream.flows)
        self.last_s = 0.0
        self._pace = Pace(stream.rate_pps)
        self.start_s = 0.0

    def open(self, net: Network, ears: Ears) -> None:
        """Makes the sockets of both ends, and connections where the protocol has them; TrafficError if it cannot."""
        self.listen(net, ears)
        self.connect(net, ears)

    @abstractmethod
    def listen(self, net: Network, ears: Ears) -> None:
        """Makes what receives at the stream's end."""

    @abstractmethod
    def connect(self, net: Network, ears: Ears) -> None:
        """Makes what sends."""

    @abstractmethod
    def send(self, number: int) -> None:
        """Sends one message; what the sender's own egress refuses is lost like any other."""

    @property
    def expected(self) -> int:
        """How many messages may still come in all."""
        return self.offered

    @property
    def complete(self) -> bool:
        """Everything that may come has come."""
        return len(self.arrivals.seen) >= self.expected

    @property
    def sent(self) -> bool:
        """Every message was offered."""
        return self.offered >= self.stream.count

    def start(self) -> None:
        """The clock of the stream starts."""
        self.start_s = self.last_s = time.monotonic()
        self._pace.start()

    def due_in_s(self) -> float:
        """Seconds until the next message is due; 0.0 when it is."""
        return self._pace.due_in_s(self.offered)

    def burst(self) -> None:
        """Sends what is due, at most BURST messages."""
        for _ in range(min(BURST, self.stream.count - self.offered)):
            if self.due_in_s():
                break
            self.send(self.offered)
            self.offered += 1

    def arrive(self, number: int) -> None:
        """A message came."""
        self.arrivals.add(number)
        self.last_s = time.monotonic()

    def delivery(self) -> Delivery:
        """What became of it until now; the time is from the first message offered to the last received."""
        seen = self.arrivals
        return Delivery(self.offered, len(seen.seen), seen.reordered, seen.duplicated, self.last_s - self.start_s)


def fly(flights: Sequence[Flight], ears: Ears, stopped: Callable[[], bool] = lambda: False) -> None:
    """Sends all streams side by side, each at its rate, then waits for what is still under way."""
    depart(flights, ears, stopped)
    await_rest(
        ears, lambda: all(flight.complete for flight in flights), max(each.stream.patience_s for each in flights)
    )


def depart(flights: Sequence[Flight], ears: Ears, stopped: Callable[[], bool]) -> None:
    """Sends all streams side by side, each at its rate."""
    for flight in flights:
        flight.start()
    while not stopped() and (unsent := [flight for flight in flights if not flight.sent]):
        for flight in unsent:
            flight.burst()
            ears.take_in()
        wait_s = min((flight.due_in_s() for flight in unsent if not flight.sent), default=0.0)
        if wait_s:
            Pace.sleep(min(wait_s, LONGEST_NAP_S))


def await_rest(ears: Ears, done: Callable[[], bool], patience_s: float) -> None:
    """Takes in what comes until `done()`, or until the kernel is idle and nothing has come for `patience_s`."""
    ears.take_in()
    quiet_since = time.monotonic()
    while not done():
        left = quiet_since + patience_s - time.monotonic()
        if left > 0:
            ears.wait(left)
        else:
            softirq.settle()
        if ears.take_in():
            quiet_since = time.monotonic()
        elif left <= 0:
            return
