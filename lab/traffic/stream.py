"""Traffic described: from where, to where, how much, how fast. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.errors import TrafficError

HEADERS = {("udp", 4): 42, ("udp", 6): 62, ("icmp", 4): 42, ("icmp", 6): 62, ("tcp", 4): 54, ("tcp", 6): 74}
"""Ethernet, IP and transport header in bytes; TCP's without options."""
MARK_BYTES = 8
"""Every message carries its number."""


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
    count: int = 100
    rate_pps: float | None = None
    frame_bytes: tuple[int, ...] = (0,)
    flows: int = 1
    ip: int = 4
    to_address: str = ""
    """Where the messages are sent, when a program on the way takes them to `dst`: a virtual service's address."""
    to_port: int = 0

    def __post_init__(self) -> None:
        for wrong, why in (
            (self.protocol not in ("udp", "tcp", "icmp"), f"protocol {self.protocol!r} is not udp, tcp or icmp"),
            (self.ip not in (4, 6), f"ip={self.ip!r} is neither 4 nor 6"),
            (self.count < 1, f"count={self.count} is below 1"),
            (self.flows < 1 or self.flows > 20_000, f"flows={self.flows} is not between 1 and 20,000"),
            (self.rate_pps is not None and self.rate_pps <= 0, f"rate_pps={self.rate_pps} is not above 0"),
            (self.protocol != "icmp" and not 1 <= self.dst_port <= 65535, f"dst_port={self.dst_port} is no port"),
            (not 1 <= self.src_port <= 65536 - self.flows, f"src_port={self.src_port} leaves no {self.flows} ports"),
            (not self.frame_bytes or any(0 < size < self.smallest for size in self.frame_bytes), self._too_small),
        ):
            if wrong:
                raise TrafficError(f"describe {self.name}: {why}")

    @property
    def smallest(self) -> int:
        """The smallest frame in bytes that still carries a message's number."""
        return HEADERS.get((self.protocol, self.ip), 0) + MARK_BYTES

    @property
    def _too_small(self) -> str:
        return f"frame_bytes={self.frame_bytes} must be {self.smallest} or more each"

    @property
    def name(self) -> str:
        """For messages: "udp client to server:9000"."""
        port = f":{self.dst_port}" if self.dst_port else ""
        return f"{self.protocol} {self.src} to {self.dst}{port}"

    def payload(self, number: int) -> bytes:
        """The payload of message `number`: its number, then zeros up to the frame's size."""
        size = self.frame_bytes[number % len(self.frame_bytes)] or self.smallest
        return number.to_bytes(MARK_BYTES, "big").ljust(size - HEADERS[self.protocol, self.ip], b"\0")

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
