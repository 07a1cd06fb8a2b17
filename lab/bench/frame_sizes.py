"""Rates by frame size: RFC 2544, section 9.1, and the simple IMIX, as far as they fit an MTU of 1500.

Sizes are without the FCS of 4 bytes, which a veth does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from lab.bench.path import Path, counted
from lab.bench.rate import measure_rate
from lab.errors import TrafficError
from lab.model.measurement import Measurement
from lab.traffic.codec import codec
from lab.traffic.mixed_flood import FrameMix

if TYPE_CHECKING:
    from lab.bpf.program import Program
    from lab.traffic.network import Network

FrameBytes = int | Literal["imix"]
SIZES: tuple[FrameBytes, ...] = (64, 128, 256, 512, 1024, 1280, 1500, "imix")
IMIX = ((64, 7), (570, 4), (1500, 1))
"""The simple IMIX, of 40, 576 and 1,500 bytes of IP in 12 packets; RFC 6985 would write it "aaaaaaazzzzy"."""
COMPUTED = ("len", "plen", "chksum")
"""What scapy computes anew from the size."""


def measure_rates(
    program: Program,
    path: Path,
    frame: Any,
    *,
    frame_bytes: Iterable[FrameBytes] = SIZES,
    flows: int = 1,
    subject: str = "",
    **options: Any,
) -> list[Measurement]:
    """The rate at each size, some 3 s each; `frame` is UDP or TCP, and its payload is made longer or shorter.

    TrafficError for a size that the frame's headers don't fit in.
    """
    name = subject or f"{path.how}, {counted(flows)}"
    return [
        measure_rate(program, path, _sized(frame, size), flows=flows, subject=f"{name}, {size_name(size)}", **options)
        for size in frame_bytes
    ]


def size_name(size: FrameBytes) -> str:
    """ "64 bytes", "IMIX"."""
    return "IMIX" if size == "imix" else f"{size} bytes"


def resized(frame: Any, frame_bytes: int) -> bytes:
    """The UDP or TCP frame with a payload of zeros that makes it so long; lengths and checksums fit."""
    headers = _headers(frame)
    room = frame_bytes - len(headers)
    if room < 0:
        raise TrafficError(f"resize a frame to {frame_bytes} bytes: its headers alone are {len(headers)}")
    return bytes(headers / bytes(room))


def imix(frame: Any) -> FrameMix:
    """The simple IMIX of a UDP or TCP frame; where headers exceed 64 bytes, its shortest frames are nothing else."""
    shortest = len(_headers(frame))
    return FrameMix(tuple((resized(frame, max(size, shortest)), number) for size, number in IMIX))


def _headers(frame: Any) -> Any:
    """The packet without a payload, and without what depends on it."""
    scapy = codec()
    packet = scapy.Ether(bytes(frame))
    transport = packet.getlayer(scapy.UDP) or packet.getlayer(scapy.TCP)
    if transport is None:
        raise TrafficError("resize a frame: it is neither UDP nor TCP")
    transport.remove_payload()
    layer = packet
    while layer:
        for name in COMPUTED:
            if name in layer.fields:
                layer.delfieldval(name)
        layer = layer.payload
    return packet


def _sized(frame: Any, size: FrameBytes) -> Any:
    def make(network: Network) -> Any:
        given = frame(network) if callable(frame) else frame
        return imix(given) if size == "imix" else resized(given, size)

    return make
