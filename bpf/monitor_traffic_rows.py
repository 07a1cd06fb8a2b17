"""What entries of monitor_traffic's maps mean: flows, ports, connection events."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

FIN, SYN, RST = 0x01, 0x02, 0x04
LETTERS = "FSRPAUEC"  # by bit, as tcpdump writes them; A is ACK
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


def clean(text: str | bytes) -> str:
    """A name that anybody may have chosen, without what would move a cursor or turn the line about.

    >>> clean(b"\\x1b[2Jcurl\\0\\0")
    '?[2Jcurl'
    """
    known = text if isinstance(text, str) else text.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in known)


def protocol_name(number: int) -> str:
    """ "tcp"; the number where it has no name here."""
    return PROTOCOLS.get(number, str(number))


def letters(flags: int) -> str:
    """TCP flags as letters, by bit.

    >>> letters(0x12)
    'SA'
    """
    return "".join(letter for bit, letter in enumerate(LETTERS) if flags >> bit & 1)


@dataclass(frozen=True)
class Side:
    """What an end of a flow sent; state "NO_STATE", process 0 and no RTT where its socket is not on this machine."""

    address: str
    port: int
    packets: int
    bytes: int
    flags: int
    state: str
    srtt_us: int
    retransmits: int
    handshake_us: int
    process: int

    def __str__(self) -> str:
        return endpoint(self.address, self.port)


def endpoint(address: str, port: int) -> str:
    """ "10.0.0.1:80", "[2001:db8::1]:80"; the address alone where there is no port."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True)
class Flow:
    """One row: `opener` sent the first packet. Times are CLOCK_MONOTONIC; `last_ns` as of the tick before."""

    protocol: str
    opener: Side
    answerer: Side
    first_ns: int
    last_ns: int
    ifindex: int

    @property
    def packets(self) -> int:
        """Of both directions."""
        return self.opener.packets + self.answerer.packets

    @property
    def bytes(self) -> int:
        """Of both directions."""
        return self.opener.bytes + self.answerer.bytes

    @property
    def srtt_us(self) -> int:
        """Of the opener's socket, or else of the other; 0: none of them is here, or has a sample."""
        return self.opener.srtt_us or self.answerer.srtt_us

    @property
    def handshake_us(self) -> int:
        """SYN to ACK, seen from here: to the answerer and back, and to the opener and back; 0: not all was seen."""
        there, back = self.answerer.handshake_us, self.opener.handshake_us
        return there + back if there and back else 0

    @property
    def rtt_us(self) -> int:
        """The sockets' where they are here, or else the handshake's; 0: not known."""
        return self.srtt_us or self.handshake_us

    @property
    def retransmits(self) -> int:
        """Of the sockets that are here."""
        return self.opener.retransmits + self.answerer.retransmits

    @property
    def process(self) -> int:
        """Of the opener's socket, or else of the other; 0: not known."""
        return self.opener.process or self.answerer.process

    @property
    def state(self) -> str:
        """The opener's socket's, else the other's; of TCP without a socket here what the flags tell; "" for others."""
        for side in (self.opener, self.answerer):
            if side.state != "NO_STATE":
                return side.state
        return _state_by_flags(self.opener.flags, self.answerer.flags) if self.protocol == "tcp" else ""

    @property
    def name(self) -> str:
        """ "tcp 10.0.0.1:40000 -> 10.0.0.2:80"."""
        return f"{self.protocol} {self.opener} -> {self.answerer}"

    def __str__(self) -> str:
        return f"{self.name} {self.state}, {self.packets} packets, {self.bytes} bytes, rtt {self.rtt_us} us"


def _state_by_flags(one: int, other: int) -> str:
    if (one | other) & RST:
        return "RESET"
    if one & other & FIN:
        return "CLOSED"
    if (one | other) & FIN:
        return "CLOSING"
    return "SYN_SENT" if one & SYN and not other else "ESTABLISHED"


def flow_of(key: Any, entry: Any) -> Flow:
    """An entry of the map `flows`."""
    ends = ((key.lower, key.lower_port), (key.upper, key.upper_port))
    sides = [_side(address, port, side) for (address, port), side in zip(ends, entry.sides, strict=True)]
    opener = entry.opener & 1
    name = protocol_name(key.protocol)
    return Flow(name, sides[opener], sides[1 - opener], entry.first_ns, entry.last_ns, entry.ifindex)


def _side(address: Any, port: int, side: Any) -> Side:
    said = (side.state.name, side.srtt_us, side.retransmits, side.handshake_us, side.process)
    return Side(_plain(address), port, side.packets, side.bytes, side.flags, *said)


def _plain(address: ipaddress.IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


@dataclass(frozen=True)
class Port:
    """What went to a service's port, and came from it."""

    protocol: str
    number: int
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int


@dataclass(frozen=True)
class Event:
    """A TCP socket of this machine connects, was established, failed before it was, was closed."""

    kind: str
    local: str
    remote: str
    process: int
    name: str
    srtt_us: int
    retransmits: int
    packets: int
    """What it sent, by the packets that were seen."""
    bytes: int
    at_ns: int
    """CLOCK_MONOTONIC."""
    duration_ns: int
    """Since its flow was opened."""

    def __str__(self) -> str:
        who = f" {self.name}[{self.process}]" if self.process else ""
        told = f"{self.kind} {self.local} -> {self.remote}{who}"
        if self.kind not in ("CLOSED", "FAILED"):
            return told
        return f"{told} after {self.duration_ns / 1e9:.3f} s, srtt {self.srtt_us} us, {self.retransmits} retransmits"


def event_of(event: Any) -> Event:
    """One of the ring buffer's."""
    key, socket = event.key, event.socket
    ends = [endpoint(_plain(key.lower), key.lower_port), endpoint(_plain(key.upper), key.upper_port)]
    local, remote = ends if not event.side else ends[::-1]
    return Event(
        kind=event.kind.name,
        local=local,
        remote=remote,
        process=socket.process,
        name=clean(event.process),
        srtt_us=socket.srtt_us,
        retransmits=socket.retransmits,
        packets=socket.packets,
        bytes=socket.bytes,
        at_ns=event.at_ns,
        duration_ns=event.at_ns - event.first_ns,
    )
