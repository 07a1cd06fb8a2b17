"""UDP and ICMP streams: sent by real sockets, counted at the other end by the number that each message carries."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lab.errors import TrafficError
from lab.model.delivery import Delivery
from lab.traffic.pace import Pace
from lab.traffic.stream import MARK_BYTES, Stream

if TYPE_CHECKING:
    from lab.net.network import Network

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
SO_RCVBUFFORCE = 33
BURST = 32
"""Messages sent before the receiver is looked at: far fewer than its buffer holds."""
QUIET_S = 0.03
"""What has not come so long after the last message was sent or came is lost: a veth takes microseconds."""
ECHO = {4: (8, 0, 8), 6: (128, 129, 8)}
"""Echo request, echo reply, header bytes (RFC 792, RFC 4443)."""
IPPROTO_ICMPV6 = 58


class Arrivals:
    """What came, by the numbers of the messages: each once, in what order."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.reordered = 0
        self.duplicated = 0
        self._highest = -1

    def add(self, number: int) -> None:
        """One message came (RFC 4737: reordered is what comes behind a higher number)."""
        if number in self.seen:
            self.duplicated += 1
            return
        self.seen.add(number)
        if number < self._highest:
            self.reordered += 1
        self._highest = max(self._highest, number)


def send_udp(net: Network, stream: Stream) -> Delivery:
    """Datagrams from `flows` source ports to a socket that is bound to the destination port."""
    family = FAMILIES[stream.ip]
    with ExitStack() as stack:
        receiver = stack.enter_context(net[namespace_of(stream.dst)].socket(family, socket.SOCK_DGRAM))
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        receiver.setblocking(False)
        bind(receiver, stream, "", stream.dst_port)
        senders = []
        for flow in range(stream.flows):
            sender = stack.enter_context(net[namespace_of(stream.src)].socket(family, socket.SOCK_DGRAM))
            bind(sender, stream, str(net.topology.address(stream.src, stream.ip)), stream.src_port + flow)
            sender.connect(target_of(net, stream))
            senders.append(sender)

        def send(number: int) -> None:
            try:
                senders[number % stream.flows].send(stream.payload(number))
            except ConnectionRefusedError:  # an ICMP error for an earlier one: UDP goes on
                senders[number % stream.flows].send(stream.payload(number))

        def receive() -> int | None:
            return int.from_bytes(receiver.recv(65_536)[:MARK_BYTES], "big")

        return exchange(stream, send, receive, receiver)


def send_icmp(net: Network, stream: Stream) -> Delivery:
    """Echo requests from a raw socket; the replies that come back are received."""
    protocol = socket.IPPROTO_ICMP if stream.ip == 4 else IPPROTO_ICMPV6
    request, reply, _ = ECHO[stream.ip]
    identifier = stream.src_port
    target, _ = target_of(net, stream)
    with net[namespace_of(stream.src)].socket(FAMILIES[stream.ip], socket.SOCK_RAW, protocol) as raw:
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        raw.setblocking(False)

        def send(number: int) -> None:
            head = bytes([request, 0, 0, 0]) + identifier.to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big")
            message = head + stream.payload(number)
            if stream.ip == 4:  # the kernel does it for ICMPv6 (RFC 3542, section 3.1)
                message = message[:2] + internet_checksum(message) + message[4:]
            raw.sendto(message, (target, 0))

        def receive() -> int | None:
            message = raw.recv(65_536)
            if stream.ip == 4:
                message = message[(message[0] & 15) * 4 :]
            if message[0] != reply or message[4:6] != identifier.to_bytes(2, "big"):
                return None
            return int.from_bytes(message[8 : 8 + MARK_BYTES], "big")

        return exchange(stream, send, receive, raw)


def exchange(
    stream: Stream, send: Callable[[int], None], receive: Callable[[], int | None], receiver: socket.socket
) -> Delivery:
    """Sends all messages in bursts and takes in what comes; ends when all came, or nothing came for QUIET_S."""
    arrivals = Arrivals()
    pace = Pace(stream.rate_pps)
    start = time.monotonic()
    for first in range(0, stream.count, BURST):
        for number in range(first, min(first + BURST, stream.count)):
            pace.wait_for(number)
            send(number)
        _take_in(receive, arrivals)
    last = start_of_quiet = time.monotonic()
    while len(arrivals.seen) < stream.count and time.monotonic() - start_of_quiet < QUIET_S:
        select.select([receiver], [], [], QUIET_S)
        if _take_in(receive, arrivals):
            last = start_of_quiet = time.monotonic()
    return Delivery(stream.count, len(arrivals.seen), arrivals.reordered, arrivals.duplicated, last - start)


def target_of(net: Network, stream: Stream) -> tuple[str, int]:
    """The address and port that messages are sent to."""
    address = stream.to_address or str(net.topology.address(stream.dst, stream.ip))
    return address, stream.to_port or stream.dst_port


def internet_checksum(message: bytes) -> bytes:
    """RFC 1071, in network order."""
    padded = message + b"\0" * (len(message) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def _take_in(receive: Callable[[], int | None], arrivals: Arrivals) -> int:
    count = 0
    while True:
        try:
            number = receive()
        except (BlockingIOError, ConnectionRefusedError):
            return count
        if number is not None:
            arrivals.add(number)
            count += 1


def bind(made: socket.socket, stream: Stream, address: str, port: int) -> None:
    """Binds a socket; TrafficError when another one has the port."""
    try:
        made.bind((address, port))
    except OSError as error:
        raise TrafficError(
            f"send {stream.name}: port {port} cannot be bound",
            kernel=error.strerror or str(error),
            mend="another socket of the scenario holds it: choose src_port= or dst_port=",
        ) from error


def namespace_of(name: str) -> str:
    """Of \"server/eth0\" or \"server\": \"server\"."""
    return name.partition("/")[0]
