"""UDP and ICMP streams: sent by real sockets, known again at the other end by the mark that each message carries."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from lab.errors import TrafficError
from lab.kernel import netns
from lab.traffic.flight import Ear, Ears, Flight
from lab.traffic.stream import Stream, read_mark
from lab.traffic.way import address_of

if TYPE_CHECKING:
    from lab.net.network import Network

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 16 << 20
ECHO = {4: (8, 0), 6: (128, 129)}
"""Echo request and echo reply (RFC 792, RFC 4443)."""
IPPROTO_ICMPV6 = 58
STOPPED_AT_EGRESS = (errno.EPERM, errno.ENOBUFS, errno.EACCES)
"""A program at the sender's own cgroup or egress took the message."""


class UdpEar(Ear):
    """A socket that is bound to a port of a namespace, whatever the address."""

    def __init__(self, bound: socket.socket) -> None:
        super().__init__()
        self._socket = bound

    def fileno(self) -> int:
        """The socket's."""
        return self._socket.fileno()

    def take_in(self) -> bool:
        """Reads until nothing is left."""
        came = False
        while True:
            try:
                payload = self._socket.recv(65_536)
            except OSError:  # nothing more now, or an ICMP error for what was never ours
                return came
            index, number = read_mark(payload)
            flight = self.flights.get(index)
            if flight is not None and payload == flight.stream.payload(number, index):
                flight.arrive(number)
                came = True


class UdpFlight(Flight):
    """Datagrams from `flows` source ports in turn."""

    def listen(self, net: Network, ears: Ears) -> None:
        """One socket for the destination port."""
        stream = self.stream
        key = ("udp", namespace_of(stream.dst), stream.ip, stream.dst_port)
        ears.of(key, lambda: UdpEar(_listening(net, stream, ears))).flights[self.index] = self

    def connect(self, net: Network, ears: Ears) -> None:
        """One socket a flow."""
        stream = self.stream
        netns.allow_descriptors(stream.flows)
        source, target = str(address_of(net.topology, stream.src, stream.ip)), target_of(net, stream)
        with net[namespace_of(stream.src)].enter():
            self._senders = [
                ears.stack.enter_context(self._sender(source, stream.src_port + flow, target))
                for flow in range(stream.flows)
            ]

    def send(self, number: int) -> None:
        """One datagram from the next source port."""
        sender = self._senders[number % len(self._senders)]
        payload = self.stream.payload(number, self.index)
        while True:
            try:
                sender.send(payload)
            except ConnectionRefusedError:  # an ICMP error for an earlier one; this one was not sent yet
                continue
            except OSError as error:
                if error.errno not in (*STOPPED_AT_EGRESS, errno.EDESTADDRREQ):
                    raise not_sent(self.stream, error) from error
            return

    def _sender(self, source: str, port: int, target: tuple[str, int]) -> socket.socket:
        sender = socket.socket(FAMILIES[self.stream.ip], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            bind(sender, self.stream, source, port)
            sender.connect(target)
        except OSError as error:
            if error.errno in STOPPED_AT_EGRESS:  # a connect program said no: the flow's messages are lost
                return sender
            sender.close()
            raise not_sent(self.stream, error) from error
        except TrafficError:
            sender.close()
            raise
        return sender


class IcmpFlight(Flight, Ear):
    """Echo requests from a raw socket; the replies that come back are received. A flow is an identifier."""

    def __init__(self, stream: Stream, index: int) -> None:
        Flight.__init__(self, stream, index)
        Ear.__init__(self)
        self._request, self._reply = ECHO[stream.ip]

    def listen(self, net: Network, ears: Ears) -> None:
        """Nothing: the kernel answers there."""

    def connect(self, net: Network, ears: Ears) -> None:
        """One raw socket, which sees every ICMP message of its namespace."""
        stream = self.stream
        self._target = (target_of(net, stream)[0], 0)
        source = str(address_of(net.topology, stream.src, stream.ip))
        protocol = socket.IPPROTO_ICMP if stream.ip == 4 else IPPROTO_ICMPV6
        self._socket = net[namespace_of(stream.src)].socket(FAMILIES[stream.ip], socket.SOCK_RAW, protocol)
        ears.stack.callback(self._socket.close)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.setblocking(False)
        bind(self._socket, stream, source, 0)
        ears.of(("icmp", self.index), lambda: self)

    def send(self, number: int) -> None:
        """One echo request."""
        identifier = self.stream.src_port + number % self.stream.flows
        head = bytes([self._request, 0, 0, 0]) + identifier.to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big")
        message = head + self.stream.payload(number, self.index)
        if self.stream.ip == 4:  # the kernel does it for ICMPv6 (RFC 3542, section 3.1)
            message = message[:2] + internet_checksum(message) + message[4:]
        try:
            self._socket.sendto(message, self._target)
        except OSError as error:
            if error.errno not in STOPPED_AT_EGRESS:
                raise not_sent(self.stream, error) from error

    def fileno(self) -> int:
        """The raw socket's."""
        return self._socket.fileno()

    def take_in(self) -> bool:
        """Reads until nothing is left."""
        came = False
        while True:
            try:
                message = self._socket.recv(65_600)
            except OSError:
                return came
            if self.stream.ip == 4:
                message = message[(message[0] & 15) * 4 :]
            index, number = read_mark(message[8:])
            if message[0] == self._reply and message[8:] == self.stream.payload(number, index) and index == self.index:
                self.arrive(number)
                came = True


def target_of(net: Network, stream: Stream) -> tuple[str, int]:
    """The address and port that messages are sent to."""
    address = stream.to_address or str(address_of(net.topology, stream.dst, stream.ip))
    return address, stream.to_port or stream.dst_port


def internet_checksum(message: bytes) -> bytes:
    """RFC 1071, in network order."""
    padded = message + b"\0" * (len(message) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def bind(made: socket.socket, stream: Stream, address: str, port: int) -> None:
    """Binds a socket; TrafficError when another one has the port, or it is below 1024 and this user may not."""
    try:
        made.bind((address, port))
    except OSError as error:
        raise TrafficError(
            f"send {stream.name}: port {port} cannot be bound",
            kernel=error.strerror or str(error),
            mend="run it with CAP_NET_BIND_SERVICE"
            if error.errno == errno.EACCES
            else "another socket of the scenario holds it: choose src_port= or dst_port=",
        ) from error


def not_sent(stream: Stream, error: OSError) -> TrafficError:
    """The error for what the kernel refused to send."""
    mends = {
        errno.ENETUNREACH: "a route to the address, or ipv6=... in the topology",
        errno.EHOSTUNREACH: "a route to the address, or an interface that is up",
        errno.EMSGSIZE: "frame_bytes= within the interface's MTU",
        errno.EADDRNOTAVAIL: "an earlier connection still has the ports: choose src_port=",
    }
    return TrafficError(
        f"send {stream.name}: the kernel refused a message",
        kernel=error.strerror or str(error),
        mend=mends.get(error.errno or 0, ""),
    )


def namespace_of(name: str) -> str:
    """Of "server/eth0" or "server": "server"."""
    return name.partition("/")[0]


def only_this_family(made: socket.socket, stream: Stream) -> None:
    """An IPv6 socket for every address leaves the port to an IPv4 one."""
    if stream.ip == 6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _listening(net: Network, stream: Stream, ears: Ears) -> socket.socket:
    made = net[namespace_of(stream.dst)].socket(FAMILIES[stream.ip], socket.SOCK_DGRAM)
    ears.stack.callback(made.close)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    made.setblocking(False)
    only_this_family(made, stream)
    bind(made, stream, "", stream.dst_port)
    return made
