"""Traffic described: from where, to where, how much, how fast. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from lab.errors import TrafficError

HEADERS = {("udp", 4): 42, ("udp", 6): 62, ("icmp", 4): 42, ("icmp", 6): 62, ("tcp", 4): 54, ("tcp", 6): 74}
"""Ethernet, IP and transport header in bytes; TCP's without options."""
LARGEST = {("udp", 4): 65_549, ("udp", 6): 65_589, ("icmp", 4): 65_549, ("icmp", 6): 65_589}
"""A datagram of 65,535 bytes behind its Ethernet header; beyond the MTU it goes in fragments."""
MARK_BYTES = 8
"""Every message carries its number, and that of its stream among those sent together."""
STREAM_SHIFT = 48
QUIET_S = {"udp": 0.02, "icmp": 0.02, "tcp": 0.3}
"""TCP's shortest retransmission timeout is 0.2 s."""


@dataclass(frozen=True)
class Stream:
    """`count` messages of `frame_bytes` (whole Ethernet frames without FCS, cycled), over `flows` source ports.

    `rate_pps` None is as fast as it goes. TrafficError for what cannot be sent, before anything is.
    """

    protocol: str
    src: str
    dst: str
    dst_port: int = 0
    src_port: int = 40_000
    """Of the first flow, the others follow; the identifier of an ICMP echo."""
    count: int = 100
    rate_pps: float | None = None
    frame_bytes: tuple[int, ...] = (0,)
    flows: int = 1
    ip: int = 4
    to_address: str = ""
    """Where the messages are sent, when a program on the way takes them to `dst`: a virtual service's address."""
    to_port: int = 0
    quiet_s: float = 0.0
    """After so long without an arrival, with nothing left in the kernel's softirqs, the rest is lost (0: by protocol).

    More is needed only where something other than a softirq takes its time: a slow proxy, a qdisc that delays.
    """

    def __post_init__(self) -> None:
        for wrong, why in (
            (self.protocol not in QUIET_S, f"protocol {self.protocol!r} is not udp, tcp or icmp"),
            (self.ip not in (4, 6), f"ip={self.ip!r} is neither 4 nor 6"),
            (self.count < 1, f"count={self.count} is below 1"),
            (self.flows < 1 or self.flows > 20_000, f"flows={self.flows} is not between 1 and 20,000"),
            (self.rate_pps is not None and self.rate_pps <= 0, f"rate_pps={self.rate_pps} is not above 0"),
            (self.protocol != "icmp" and not 1 <= self.dst_port <= 65535, f"dst_port={self.dst_port} is no port"),
            (not 0 <= self.to_port <= 65535, f"to_port={self.to_port} is no port"),
            (not 1 <= self.src_port <= 65536 - self.flows, f"src_port={self.src_port} leaves no {self.flows} ports"),
            (self.quiet_s < 0, f"quiet_s={self.quiet_s} is below 0"),
        ):
            if wrong:
                raise TrafficError(f"describe {self.name}: {why}")
        self._check_sizes()
        self._check_address()

    def _check_sizes(self) -> None:
        largest = LARGEST.get((self.protocol, self.ip), 1 << 20)
        if not self.frame_bytes or not all(size == 0 or self.smallest <= size <= largest for size in self.frame_bytes):
            sizes = f"must be {self.smallest} or more each, and {largest} at most"
            raise TrafficError(f"describe {self.name}: frame_bytes={self.frame_bytes} {sizes}")

    def _check_address(self) -> None:
        if not self.to_address:
            return
        try:
            fits = ip_address(self.to_address).version == self.ip
        except ValueError:
            fits = False
        if not fits:
            raise TrafficError(f"describe {self.name}: to_address={self.to_address!r} is no IPv{self.ip} address")

    @property
    def smallest(self) -> int:
        """The smallest frame in bytes that still carries a message's number."""
        return HEADERS[self.protocol, self.ip] + MARK_BYTES

    @property
    def patience_s(self) -> float:
        """`quiet_s`, or what fits the protocol."""
        return self.quiet_s or QUIET_S[self.protocol]

    @property
    def name(self) -> str:
        """For messages: "udp client to server:9000"."""
        port = f":{self.dst_port}" if self.dst_port else ""
        return f"{self.protocol} {self.src} to {self.dst}{port}"

    def payload(self, number: int, index: int = 0) -> bytes:
        """The payload of message `number`: the mark, then zeros up to the frame's size.

        `index` is the stream's place among those that are sent together.
        """
        size = self.frame_bytes[number % len(self.frame_bytes)] or self.smallest
        mark = (index << STREAM_SHIFT | number).to_bytes(MARK_BYTES, "big")
        return mark.ljust(size - HEADERS[self.protocol, self.ip], b"\0")

    @classmethod
    def udp(cls, src: str, dst: str, *, dst_port: int, **options: Any) -> Stream:
        """Datagrams from real sockets: they carry partial checksums unless offloads={"tx": False}."""
        return cls("udp", src, dst, dst_port, **_options(options))

    @classmethod
    def tcp(cls, src: str, dst: str, *, dst_port: int, **options: Any) -> Stream:
        """Messages over `flows` real connections; a connection that is not made loses its messages."""
        return cls("tcp", src, dst, dst_port, **_options(options))

    @classmethod
    def icmp(cls, src: str, dst: str, **options: Any) -> Stream:
        """Echo requests; received are the replies."""
        return cls("icmp", src, dst, **_options(options))


def _options(options: dict[str, Any]) -> dict[str, Any]:
    sizes = options.get("frame_bytes", 0)
    return {**options, "frame_bytes": tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)}


def read_mark(payload: bytes) -> tuple[int, int]:
    """The place of the stream and the number of the message that a payload begins with; (-1, -1) for another's."""
    if len(payload) < MARK_BYTES:
        return -1, -1
    mark = int.from_bytes(payload[:MARK_BYTES], "big")
    return mark >> STREAM_SHIFT, mark & ((1 << STREAM_SHIFT) - 1)
