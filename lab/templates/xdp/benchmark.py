"""What new_program costs a packet that it lets through."""

from __future__ import annotations

from typing import Any

from lab import Mode, Topology
from lab.bench.path import Path
from lab.bench.workload import Workload
from lab.traffic import frames

PAIR = Topology.pair("client", "server")
PATH = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FRAME = frames.udp(PAIR, "client", "server", dst_port=9, payload=bytes(22))


def workload_passed(bpf: Any) -> Workload:
    """UDP, let through."""
    return Workload(bpf.load("new_program", dropped_protocol=1), FRAME)


def test_cost(bpf: Any, bench: Any) -> None:
    """ns per packet, by number of flows."""
    made = workload_passed(bpf)
    for measured in bench.cost(made.program, made.frame, flows=[1, 4_096, 65_536, 1_048_576]):
        assert measured.p50 < 1000


def test_added_latency(bpf: Any, bench: Any) -> None:
    """99 % of packets arrive less than 10 µs later than without the program."""
    added = bench.added_latency(bpf.load("new_program"), PATH, FRAME, below_ns=10_000)
    assert added.p99 < 10_000
