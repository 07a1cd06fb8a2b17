"""A range without its last port."""

from __future__ import annotations

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab import Action


def test_the_whole_range_is_dropped(bpf):
    """9000 to 9009 are dropped, 8999 and 9010 are not."""
    program = bpf.load("off_by_one")
    frames = {
        port: Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="10.0.0.1", dst="10.0.0.2")
        / UDP(sport=40_000, dport=port)
        for port in range(8999, 9011)
    }
    dropped = {port for port, frame in frames.items() if program.run(frame).action is Action.XDP_DROP}
    assert dropped == set(range(9000, 9010))
