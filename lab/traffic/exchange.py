"""Whole frames put onto an interface, and what arrived of them where."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.errors import TrafficError
from lab.kernel import closing, packet, softirq
from lab.traffic.codec import dissect

if TYPE_CHECKING:
    from lab.net.namespace import Interface

QUIET_S = 0.002
"""What something else than a softirq handles (a cpumap, a process) has so long; `count` waits for it properly."""


class Received(dict[str, list[Any]]):
    """The frames that came in, as scapy packets, by interface ("server/eth0"), in order; [] where none came."""

    def __init__(self, found: dict[str, list[Any]], offered: int, left: int) -> None:
        super().__init__(found)
        self.offered = offered
        self.left = left
        """Frames that left the interface they were sent from: fewer when a program at its egress dropped some."""

    def __missing__(self, name: str) -> list[Any]:
        short = [each for each in self if each.partition("/")[0] == name]
        if not short:
            raise TrafficError(f"there is no interface {name!r}", mend="there are " + ", ".join(list(self)[:12]))
        return [frame for each in short for frame in self[each]]

    @property
    def everywhere(self) -> list[Any]:
        """All frames at all interfaces."""
        return [frame for frames in self.values() for frame in frames]

    def __str__(self) -> str:
        lines = [f"{name}: {frame.summary()}" for name, frames in self.items() for frame in frames]
        return "\n".join([f"{self.left} of {self.offered} frames left their interface", *(lines or ["none came in"])])


@dataclass(frozen=True)
class _Port:
    """The two sockets at one interface; the receiver keeps nothing but during an exchange."""

    sender: socket.socket
    receiver: socket.socket


class Exchanger:
    """The packet sockets of a network: opened once, since closing one takes the kernel 8 to 25 ms."""

    def __init__(self, interfaces: Sequence[Interface]) -> None:
        self._interfaces = {each.name: each for each in interfaces}
        self._ports: dict[str, _Port] = {}

    def run(self, frames: Sequence[bytes], at: str, within_s: float, count: int | None) -> Received:
        """Sends the frames out of `at`; gives what came in anywhere until nothing was under way any more."""
        with self.listening() as harvest:
            left = self.send(frames, at)
            harvest.gather(within_s, count)
            return received_of(harvest.frames, len(frames), left)

    @contextmanager
    def listening(self) -> Iterator[Harvest]:
        """The receivers keep what comes in, until the end of the block."""
        ports = {name: self._port(name) for name in self._interfaces}
        with ExitStack() as stack:
            for port in ports.values():
                stack.callback(packet.stop_listening, port.receiver)
                packet.listen(port.receiver)
            yield Harvest({name: port.receiver for name, port in ports.items()}, stack)

    def send(self, frames: Sequence[bytes], at: str) -> int:
        """How many left."""
        return sum(_sent(self._port(at).sender, frame, at) for frame in frames)

    def close(self) -> None:
        """Gives all sockets back."""
        for port in self._ports.values():
            closing.soon(port.sender.close)
            closing.soon(port.receiver.close)
        self._ports.clear()

    def _port(self, name: str) -> _Port:
        if name not in self._ports:
            interface = self._interfaces[name]
            with interface.namespace.enter():
                sender = packet.open_sender(interface.short_name)
                try:
                    receiver = packet.open_receiver(interface.short_name, outgoing=False, listening=False)
                except OSError:
                    sender.close()
                    raise
            self._ports[name] = _Port(sender, receiver)
        return self._ports[name]


class Harvest:
    """Takes in what comes at many receivers."""

    def __init__(self, receivers: dict[str, socket.socket], stack: ExitStack) -> None:
        self.frames: dict[str, list[bytes]] = {name: [] for name in receivers}
        self._events = stack.enter_context(selectors.DefaultSelector())
        for name, receiver in receivers.items():
            self._events.register(receiver, selectors.EVENT_READ, name)

    def gather(self, within_s: float, count: int | None) -> None:
        """With `count`, until so many came or the time is up; else until nothing is under way, or the time is up."""
        deadline = time.monotonic() + within_s
        if count is not None:
            while self.total < count and (left := deadline - time.monotonic()) > 0:
                self._take_in(left)
            return
        while time.monotonic() < deadline:
            softirq.settle()
            if not self._take_in(0) and not self._take_in(QUIET_S):
                softirq.settle()
                if not self._take_in(0):
                    return

    @property
    def total(self) -> int:
        """Frames that came until now."""
        return sum(map(len, self.frames.values()))

    def _take_in(self, timeout_s: float) -> bool:
        ready = self._events.select(timeout_s)
        for key, _ in ready:
            assert isinstance(key.fileobj, socket.socket)
            while (frame := packet.receive(key.fileobj)) is not None:
                self.frames[key.data].append(frame.raw)
        return bool(ready)


def received_of(found: Mapping[str, Sequence[bytes]], offered: int, left: int) -> Received:
    """As scapy packets."""
    return Received({name: [dissect(raw) for raw in frames] for name, frames in found.items()}, offered, left)


def raw_frames(frames: Any) -> list[bytes]:
    """One frame or several, scapy packets or bytes, as a list of bytes."""
    if isinstance(frames, bytes | bytearray | memoryview) or hasattr(frames, "fields_desc"):
        frames = [frames]
    if not isinstance(frames, Iterable):
        raise TrafficError(f"send {frames!r}: it is no frame", mend="give a scapy packet, bytes, or a list of them")
    found = [bytes(each) for each in frames]
    if not found:
        raise TrafficError("send no frame at all", mend="give a scapy packet, bytes, or a list of them")
    return found


def _sent(sender: socket.socket, frame: bytes, at: str) -> bool:
    """False when a program or a queue at the egress dropped it."""
    try:
        sender.send(frame)
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return False
        raise TrafficError(
            f"send a frame of {len(frame)} bytes from {at}",
            kernel=error.strerror or str(error),
            mend="a frame is 14 bytes (Ethernet) to MTU + 18 (with a VLAN tag), and its interface is up",
        ) from error
    return True
