"""The frames that an interface saw, as scapy packets or a pcapng file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import TrafficError
from lab.kernel import closing, packet, softirq
from lab.kernel.packet import Frame
from lab.model.journal import note
from lab.traffic.codec import dissect
from lab.traffic.pcapng import pcapng

if TYPE_CHECKING:
    from lab.net.namespace import Interface

MOST_SHOWN = 40
"""Frames of a capture that the report lists."""


class Capture:
    """Frames of one interface, both ways, from `with net.capture("server/eth0") as capture:` on.

    The kernel keeps up to 64 MiB of them until they are asked for; no thread reads along. XDP comes before a capture
    sees a frame at ingress: what XDP drops or sends on is not here. tc comes after it at ingress, and before it at
    egress. Frames from local sockets show checksums that are not filled in yet, unless offloads={"tx": False}.

    >>> with net.capture("server/eth0") as capture:
    ...     net.send(Stream.icmp("client", "server", count=1))
    >>> capture.packets[0].summary()
    'Ether / IP / ICMP 10.0.0.1 > 10.0.0.2 echo-request 0 / Raw'
    """

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self._frames: list[Frame] = []
        self._dropped = 0
        self._receiver: socket.socket | None = interface.namespace.run(packet.open_receiver, interface.short_name)

    @property
    def frames(self) -> list[Frame]:
        """What was seen until now, raw, with times and directions, in order."""
        if self._receiver is not None:
            softirq.settle()
            while (frame := packet.receive(self._receiver)) is not None:
                self._frames.append(frame)
        return list(self._frames)

    @property
    def packets(self) -> list[Any]:
        """The same as scapy packets, their `time` set."""
        return [_timed(frame) for frame in self.frames]

    @property
    def dropped(self) -> int:
        """Frames that did not fit the buffer."""
        if self._receiver is not None:
            self._dropped += packet.dropped(self._receiver)
        return self._dropped

    def write(self, path: str | Path) -> Path:
        """A pcapng file of what was seen, for tcpdump -r and Wireshark."""
        target = Path(path)
        try:
            target.write_bytes(b"".join(pcapng(self.interface.name, self.frames)))
        except OSError as error:
            raise TrafficError(f"write the capture to {target}", kernel=error.strerror or str(error)) from error
        return target

    def close(self) -> None:
        """Ends the capture; what it saw stays."""
        if self._receiver is None:
            return
        _ = self.frames, self.dropped
        packet.stop_listening(self._receiver)
        closing.soon(self._receiver.close)
        self._receiver = None
        note("evidence", self._evidence)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _evidence(self) -> dict[str, str]:
        lines = [
            f"{'out' if each.outgoing else 'in '} {dissect(each.raw).summary()}" for each in self._frames[:MOST_SHOWN]
        ]
        if len(self._frames) > MOST_SHOWN:
            lines.append(f"and {len(self._frames) - MOST_SHOWN:,} more")
        return {"title": f"captured at {self.interface.name}", "text": "\n".join(lines) or "no frame"}


def _timed(frame: Frame) -> Any:
    found = dissect(frame.raw)
    found.time = frame.time_ns / 1e9
    return found
