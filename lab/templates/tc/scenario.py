"""new_program drops one IP protocol and lets the rest through."""

from __future__ import annotations

from typing import Any

import pytest

from lab import Action, Direction, Stream, Topology
from lab.traffic import frames

TOPOLOGY = Topology.pair("client", "server")


@pytest.mark.parametrize("ip", [4, 6])
def test_the_verdict(bpf: Any, ip: int) -> None:
    """UDP is dropped when it is told to, ICMP is not."""
    program = bpf.load("new_program", dropped_protocol=17)

    assert program.run(frames.udp(TOPOLOGY, "client", "server", dst_port=9, ip=ip)).action is Action.TC_ACT_SHOT
    assert program.run(frames.icmp(TOPOLOGY, "client", "server", ip=ip)).action is Action.TC_ACT_OK


@pytest.mark.parametrize(("place", "direction"), [("client", Direction.EGRESS), ("server", Direction.INGRESS)])
def test_real_traffic(net: Any, bpf: Any, place: str, direction: Direction) -> None:
    """By itself it drops nothing, and counts what passes."""
    program = bpf.load("new_program")
    with program.attach(net.interface(f"{place}/eth0"), direction=direction):
        sent = net.send(Stream.udp("client", "server", dst_port=9, count=10))

    assert sent.received == 10
    assert program.maps["verdicts"].total("TC_ACT_OK").packets == 10
