"""new_program drops one IP protocol and lets the rest through."""

from __future__ import annotations

from typing import Any

import pytest

from lab import Action, Mode, Stream, Topology
from lab.traffic import frames

TOPOLOGY = Topology.pair("client", "server")


@pytest.mark.parametrize("ip", [4, 6])
def test_the_verdict(bpf: Any, ip: int) -> None:
    """UDP is dropped when it is told to, ICMP is not."""
    program = bpf.load("new_program", dropped_protocol=17)

    assert program.run(frames.udp(TOPOLOGY, "client", "server", dst_port=9, ip=ip)).action is Action.XDP_DROP
    assert program.run(frames.icmp(TOPOLOGY, "client", "server", ip=ip)).action is Action.XDP_PASS


@pytest.mark.parametrize("mode", list(Mode))
def test_real_traffic(net: Any, bpf: Any, mode: Mode) -> None:
    """By itself it drops nothing, and counts what passes."""
    program = bpf.load("new_program")
    with program.attach(net.interface("server/eth0"), mode=mode):
        sent = net.send(Stream.udp("client", "server", dst_port=9, count=10))

    assert sent.received == 10
    assert program.maps["verdicts"].total("XDP_PASS").packets == 10
