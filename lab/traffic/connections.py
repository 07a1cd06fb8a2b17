"""TCP streams: messages over real connections, both ends driven by one thread."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lab.errors import TrafficError
from lab.model.delivery import Delivery
from lab.traffic.datagrams import FAMILIES, bind, namespace_of, target_of
from lab.traffic.pace import Pace
from lab.traffic.stream import MARK_BYTES, Stream

if TYPE_CHECKING:
    from lab.net.network import Network

CONNECT_S = 0.3
"""A handshake over a veth takes 0.1 ms; the first repeated SYN would come after a second."""
QUIET_S = 0.3
"""What has not come so long after anything came is lost; the shortest retransmission timeout is 0.2 s."""


def send_tcp(net: Network, stream: Stream) -> Delivery:
    """`count` messages over `flows` connections in turn; received are whole messages that came out at the far end."""
    with ExitStack() as stack:
        run = _Run(net, stream, stack)
        start = time.monotonic()
        run.connect()
        run.send()
        received = run.finish()
        return Delivery(stream.count, received, duration_s=run.last_arrival - start)


class _Run:
    def __init__(self, net: Network, stream: Stream, stack: ExitStack) -> None:
        self._net, self._stream, self._stack = net, stream, stack
        self._events = stack.enter_context(selectors.DefaultSelector())
        self._clients: list[socket.socket] = []
        self._connected: set[int] = set()
        self._sent: dict[int, list[int]] = {}  # by flow: the sizes of its messages
        self._got: dict[int, bytearray] = {}  # by descriptor: the first bytes, which tell the flow
        self._got_bytes: dict[int, int] = {}
        self.last_arrival = time.monotonic()

    def connect(self) -> None:
        """Opens all connections at once, and waits for them together."""
        stream, family = self._stream, FAMILIES[self._stream.ip]
        listener = self._stack.enter_context(self._net[namespace_of(stream.dst)].socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        bind(listener, stream, "", stream.dst_port)
        listener.listen(min(stream.flows, 4096))
        self._events.register(listener, selectors.EVENT_READ, self._accept)
        source = str(self._net.topology.address(stream.src, stream.ip))
        for flow in range(stream.flows):
            client = self._stack.enter_context(self._net[namespace_of(stream.src)].socket(family, socket.SOCK_STREAM))
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            bind(client, stream, source, stream.src_port + flow)
            code = client.connect_ex(target_of(self._net, stream))
            if code not in (0, errno.EINPROGRESS):
                raise TrafficError(f"send {stream.name}: connect refused", kernel=errno.errorcode.get(code, str(code)))
            self._clients.append(client)
            self._events.register(client, selectors.EVENT_WRITE, self._connect_done)
        self._turn_until(lambda: len(self._connected) == stream.flows, CONNECT_S)

    def send(self) -> None:
        """All messages, each to the next connection in turn; those of a connection that was not made are lost."""
        pace = Pace(self._stream.rate_pps)
        for number in range(self._stream.count):
            client = self._clients[number % self._stream.flows]
            if client.fileno() not in self._connected:
                continue
            pace.wait_for(number)
            payload = self._stream.payload(number)
            self._sent.setdefault(number % self._stream.flows, []).append(len(payload))
            if not self._send_all(client, payload):
                self._connected.discard(client.fileno())

    def finish(self) -> int:
        """Waits for what is still under way; gives how many whole messages came."""
        wanted = sum(map(sum, self._sent.values()))
        self._turn_until(lambda: sum(self._got_bytes.values()) >= wanted, QUIET_S)
        return sum(_whole(self._sent.get(self._flow(made), []), got) for made, got in self._got_bytes.items())

    def _flow(self, made: int) -> int:
        """A program on the way may have changed the ports: the number in the first message tells the flow."""
        return int.from_bytes(self._got[made], "big") % self._stream.flows if len(self._got[made]) == MARK_BYTES else -1

    def _send_all(self, client: socket.socket, payload: bytes) -> bool:
        deadline = time.monotonic() + QUIET_S
        while payload:
            try:
                payload = payload[client.send(payload) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                self._turn(0.01)
            except OSError:
                return False
        return True

    def _turn_until(self, done: object, quiet_s: float) -> None:
        """Serves the sockets until `done()`, or until nothing happened for `quiet_s`."""
        assert callable(done)
        quiet_since = time.monotonic()
        while not done() and time.monotonic() - quiet_since < quiet_s:
            if self._turn(0.02):
                quiet_since = time.monotonic()

    def _turn(self, timeout_s: float) -> bool:
        ready = self._events.select(timeout_s)
        for key, _ in ready:
            key.data(key.fileobj)
        return bool(ready)

    def _accept(self, listener: socket.socket) -> None:
        try:
            made, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        made.setblocking(False)
        self._stack.callback(made.close)
        self._got[made.fileno()], self._got_bytes[made.fileno()] = bytearray(), 0
        self._events.register(made, selectors.EVENT_READ, self._read)

    def _connect_done(self, client: socket.socket) -> None:
        self._events.unregister(client)
        if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self._connected.add(client.fileno())

    def _read(self, made: socket.socket) -> None:
        try:
            data = made.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._events.unregister(made)
            return
        first = self._got[made.fileno()]
        first += data[: MARK_BYTES - len(first)]
        self._got_bytes[made.fileno()] += len(data)
        self.last_arrival = time.monotonic()


def _whole(sizes: list[int], got: int) -> int:
    """How many messages of these sizes are whole when so many bytes came."""
    count = 0
    for size in sizes:
        if got < size:
            break
        got -= size
        count += 1
    return count
