"""A frame is read through a handle."""

import pytest

from lab import Action, Topology
from lab.traffic import frames

PAIR = Topology.pair("client", "server")


@pytest.mark.needs("dynptr_xdp")
def test_only_port_9_is_dropped(bpf):
    """To port 9, to the port beside, and a frame that is too short for the headers."""
    program = bpf.load("21_dynptr")
    to_9, to_10 = (frames.udp(PAIR, "client", "server", dst_port=port) for port in (9, 10))

    assert program.run(to_9).action is Action.XDP_DROP
    assert program.run(to_10).action is Action.XDP_PASS
    assert program.run(bytes(to_9)[:41]).action is Action.XDP_PASS
