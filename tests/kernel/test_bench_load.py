"""lab.bench.load: traffic beside what is measured."""

from __future__ import annotations

import pytest

from lab import Topology
from lab.bench.load import load_from
from lab.errors import LabError
from lab.traffic import frames
from lab.traffic.network import Network
from lab.wait import wait_until

TOPOLOGY = Topology.pair("client", "server")
FRAME = frames.udp(TOPOLOGY, "client", "server", dst_port=9000, payload=bytes(22))


def test_frames_come_while_the_block_runs() -> None:
    """Thousands arrive within it, and none behind it."""
    with Network(TOPOLOGY) as net:
        arrived = net.interface("server/eth0").counters
        with load_from(net, "client/eth0", FRAME, flows=16, rate_pps=20_000):
            wait_until(lambda: arrived().rx_packets > 2000, what="2,000 frames")
        before = arrived()
        assert (arrived() - before).rx_packets == 0


def test_what_the_thread_raised_is_raised() -> None:
    """A load that never was would make a figure without load."""
    with (
        Network(TOPOLOGY) as net,
        pytest.raises(LabError, match="eth7"),
        load_from(net, "client/eth7", FRAME, flows=16, rate_pps=20_000),
    ):
        pass
