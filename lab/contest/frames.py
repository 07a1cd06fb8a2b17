"""A frame as a person names it: a built-in one, the first of a capture file, or hexadecimal digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import TrafficError
from lab.traffic.codec import codec

BUILT_IN = ("udp4", "udp6", "tcp4", "tcp6")
ETHER = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


def frame_named(text: str) -> bytes:
    """Bytes of an Ethernet frame; TrafficError when `text` is none of the three."""
    if text in BUILT_IN:
        return _built_in(text[:3], text[3])
    if Path(text).is_file():
        return _first_of(Path(text))
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise TrafficError(
            f"take {text!r} as a frame: no file of that name, and not hexadecimal",
            mend=f"{', '.join(BUILT_IN)}, a .pcap or .pcapng file, or hexadecimal digits",
        ) from None


def _built_in(transport: str, ip: str) -> bytes:
    """From 10.0.0.1 or fd00::1, port 20,000, to port 9,000: 64 bytes or the least that IPv6 and TCP take."""
    scapy = codec()
    makes: dict[str, Callable[[], Any]] = {
        "udp": lambda: scapy.UDP(sport=20_000, dport=9_000) / bytes(22),
        "tcp": lambda: scapy.TCP(sport=20_000, dport=9_000, flags="A") / bytes(10),
    }
    network = scapy.IP(src="10.0.0.1", dst="10.0.0.2") if ip == "4" else scapy.IPv6(src="fd00::1", dst="fd00::2")
    return bytes(scapy.Ether(**ETHER) / network / makes[transport]())


def _first_of(path: Path) -> bytes:
    scapy = codec()
    try:
        with scapy.PcapReader(str(path)) as reader:
            return bytes(reader.read_packet())
    except (scapy.Scapy_Exception, EOFError, OSError) as error:
        raise TrafficError(f"read a frame from {path}: {error}", mend="a .pcap or .pcapng file with a frame") from error
