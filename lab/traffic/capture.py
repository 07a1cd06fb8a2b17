"""The frames that an interface saw, as scapy packets or a pcapng file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.kernel import packet
from lab.kernel.packet import Frame
from lab.traffic.codec import codec, dissect

if TYPE_CHECKING:
    from lab.net.namespace import Interface


class Capture:
    """Frames of one interface, both ways, from `with net.capture("server/eth0") as capture:` on.

    The kernel keeps them until they are asked for; no thread reads along. XDP comes before a capture sees a frame at
    ingress: what XDP drops or sends on is not here. tc comes after it.
    """

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self._frames: list[Frame] = []
        self._receiver: socket.socket | None = interface.namespace.run(packet.open_receiver, interface.short_name)
        self._dropped = 0

    @property
    def frames(self) -> list[Frame]:
        """What was seen until now, raw, with times."""
        while self._receiver is not None and (frame := packet.receive(self._receiver)) is not None:
            self._frames.append(frame)
        return self._frames

    @property
    def packets(self) -> list[Any]:
        """The same as scapy packets, their `time` set."""
        return [_timed(frame) for frame in self.frames]

    @property
    def dropped(self) -> int:
        """Frames that did not fit the 64 MiB buffer."""
        if self._receiver is not None:
            self._dropped += packet.dropped(self._receiver)
        return self._dropped

    def write(self, path: str | Path) -> Path:
        """A pcapng file of what was seen, for tcpdump -r and Wireshark."""
        target = Path(path)
        writer = codec().PcapNgWriter(str(target))
        try:
            for each in self.packets:
                writer.write(each)
        finally:
            writer.close()
        return target

    def close(self) -> None:
        """Ends the capture; what it saw stays."""
        if self._receiver is not None:
            _ = self.frames, self.dropped
            self._receiver.close()
            self._receiver = None

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _timed(frame: Frame) -> Any:
    found = dissect(frame.raw)
    found.time = frame.time_ns / 1e9
    return found
