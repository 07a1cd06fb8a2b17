"""TCP streams: messages over real connections, both ends driven by one thread."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from typing import TYPE_CHECKING

from lab.kernel import netns, softirq
from lab.traffic.datagrams import (
    FAMILIES,
    STOPPED_AT_EGRESS,
    bind,
    namespace_of,
    not_sent,
    only_this_family,
    target_of,
)
from lab.traffic.flight import Ear, Ears, Flight
from lab.traffic.stream import MARK_BYTES, Stream, read_mark
from lab.traffic.way import address_of

if TYPE_CHECKING:
    from lab.net.network import Network

CONNECT_S = 0.1
"""A handshake over a veth takes 0.1 ms and is the kernel's alone; the first repeated SYN would come after a second."""
BACKLOG = 1024
"""Connections that the kernel keeps for the listener until they are accepted."""
REFUSED = (*STOPPED_AT_EGRESS, errno.ECONNREFUSED, errno.ECONNRESET)


class _Connection:
    """The far end of one connection: bytes that came and are not yet whole messages."""

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self._pending = bytearray()
        self._flight: Flight | None = None
        self._index = 0
        self._number = 0

    def feed(self, data: bytes, flights: dict[int, Flight]) -> None:
        """A program on the way may have changed the ports: the first mark tells the stream and the flow."""
        self._pending += data
        if self._flight is None and len(self._pending) >= MARK_BYTES:
            self._index, self._number = read_mark(bytes(self._pending[:MARK_BYTES]))
            self._flight = flights.get(self._index)
        while self._flight is not None and self._number < self._flight.stream.count:
            stream = self._flight.stream
            message = stream.payload(self._number, self._index)
            if not self._pending.startswith(message):
                return
            del self._pending[: len(message)]
            self._flight.arrive(self._number)
            self._number += stream.flows


class TcpEar(Ear):
    """A listener, and all connections that it took; readable when any of them has something."""

    def __init__(self, listener: socket.socket, ears: Ears) -> None:
        super().__init__()
        self._stack = ears.stack
        self._events = ears.stack.enter_context(selectors.DefaultSelector())
        self._events.register(listener, selectors.EVENT_READ, None)
        self._listener = listener

    def fileno(self) -> int:
        """The selector's: an epoll is readable when one of its sockets is."""
        return int(self._events.fileno())

    def take_in(self) -> bool:
        """Accepts, and reads what is there."""
        ready = self._events.select(0)
        for key, _ in ready:
            if key.data is None:
                self._accept()
            else:
                self._read(key.data)
        return bool(ready)

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            made.setblocking(False)
            self._stack.callback(made.close)
            self._events.register(made, selectors.EVENT_READ, _Connection(made))

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            connection.feed(data, self.flights)
        else:
            self._events.unregister(connection.socket)


class TcpFlight(Flight):
    """`count` messages over `flows` connections in turn; received are whole messages that came out at the far end."""

    def __init__(self, stream: Stream, index: int) -> None:
        super().__init__(stream, index)
        self._clients: list[socket.socket] = []
        self._connected: set[int] = set()
        self._sent = 0

    @property
    def expected(self) -> int:
        """Only what went into a connection can come out of it."""
        return self._sent

    def listen(self, net: Network, ears: Ears) -> None:
        """One listener for the destination port."""
        stream = self.stream
        netns.allow_descriptors(stream.flows)
        key = ("tcp", namespace_of(stream.dst), stream.ip, stream.dst_port)
        ears.of(key, lambda: TcpEar(_listening(net, stream, ears), ears)).flights[self.index] = self

    def connect(self, net: Network, ears: Ears) -> None:
        """Opens all connections, and waits for them together; those that are refused or not answered are left out."""
        stream = self.stream
        netns.allow_descriptors(stream.flows)
        self._ears = ears
        source, target = str(address_of(net.topology, stream.src, stream.ip)), target_of(net, stream)
        with selectors.DefaultSelector() as waiting:
            for flow in range(stream.flows):
                with net[namespace_of(stream.src)].enter():
                    client = socket.socket(FAMILIES[stream.ip], socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                ears.stack.callback(client.close)
                self._clients.append(client)
                if self._connect(client, source, stream.src_port + flow, target):
                    waiting.register(client, selectors.EVENT_WRITE)
                if flow % (BACKLOG // 2) == 0:
                    ears.take_in()
            self._await_handshakes(waiting)

    def send(self, number: int) -> None:
        """One message over the next connection; one of a connection that was not made is lost."""
        client = self._clients[number % len(self._clients)]
        if client.fileno() not in self._connected:
            return
        if self._send_all(client, self.stream.payload(number, self.index)):
            self._sent += 1
        else:
            self._connected.discard(client.fileno())

    def _connect(self, client: socket.socket, source: str, port: int, target: tuple[str, int]) -> bool:
        """Whether the handshake is under way."""
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bind(client, self.stream, source, port)
        code = client.connect_ex(target)
        if code in REFUSED:
            return False
        if code not in (0, errno.EINPROGRESS):
            raise not_sent(self.stream, OSError(code, errno.errorcode.get(code, str(code))))
        return True

    def _await_handshakes(self, waiting: selectors.BaseSelector) -> None:
        """Until all are decided, or none was for CONNECT_S and the kernel is idle."""
        deadline = time.monotonic() + CONNECT_S
        while waiting.get_map():
            if self._decide(waiting, 0.005):
                deadline = time.monotonic() + CONNECT_S
            elif time.monotonic() > deadline:
                softirq.settle()
                if not self._decide(waiting, 0):
                    return
            self._ears.take_in()

    def _decide(self, waiting: selectors.BaseSelector, timeout_s: float) -> bool:
        ready = waiting.select(timeout_s)
        for key, _ in ready:
            client = key.fileobj
            assert isinstance(client, socket.socket)
            waiting.unregister(client)
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                self._connected.add(client.fileno())
        return bool(ready)

    def _send_all(self, client: socket.socket, payload: bytes) -> bool:
        """False when the connection broke, or took nothing for as long as the stream has patience."""
        deadline = time.monotonic() + self.stream.patience_s
        while payload:
            try:
                payload = payload[client.send(payload) :]
            except BlockingIOError:
                if self._ears.take_in():
                    deadline = time.monotonic() + self.stream.patience_s
                elif time.monotonic() > deadline:
                    return False
            except OSError:
                return False
        return True


def _listening(net: Network, stream: Stream, ears: Ears) -> socket.socket:
    listener = net[namespace_of(stream.dst)].socket(FAMILIES[stream.ip], socket.SOCK_STREAM)
    ears.stack.callback(listener.close)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    only_this_family(listener, stream)
    bind(listener, stream, "", stream.dst_port)
    listener.listen(BACKLOG)
    return listener
