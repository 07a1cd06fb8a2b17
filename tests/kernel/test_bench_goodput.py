"""Goodput: what iperf3 carries through a program, through an empty one and through none, and the CPU time of each."""

from __future__ import annotations

import pytest

from lab import Mode, Topology, instruments
from lab.bench.bench import Bench
from lab.bench.goodput import HOOK, WITH, WITHOUT, _in_turn
from lab.bench.path import Path
from lab.bpf.loader import Loader
from lab.errors import TrafficError

PATH = Path(
    Topology.pair("client", "server"),
    source="client/eth0",
    at="server/eth0",
    sink="server/eth0",
    mode=Mode.NATIVE,
)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_goodput_is_told_with_its_cpu_use(protocol: str, bpf: Loader, bench: Bench) -> None:
    """A run of each arm, its CPU use beside it; the path is read while the program sits there."""
    program = bpf.load(instruments.path("empty_xdp"), program="empty_xdp")
    measured = bench.goodput(program, PATH, protocol=protocol, turns=1)
    assert {trial.arm: len(trial.samples) for trial in measured.trials} == {WITH: 1, HOOK: 1, WITHOUT: 1}
    assert measured.p50 > 1e6 and measured.hook_bps > 1e6 and measured.without_bps > 1e6
    assert all(0 < measured.summary[f"cpu_percent_{arm}"] <= 400 for arm in (WITH, HOOK, WITHOUT))
    assert "tso" in measured.noise["path"][0].partition("off,")[0], "native XDP at the peer has turned it off"
    assert "% of a CPU with the program" in measured.remarks[0]


def test_turns_favour_none() -> None:
    """There and back: each arm has the same mean place."""
    order = _in_turn(4)
    places = {arm: sum(place for place, each in enumerate(order) if each == arm) for arm in order}
    assert len(set(places.values())) == 1 and len(order) == 12


def test_a_program_that_drops_carries_nothing(bpf: Loader, bench: Bench) -> None:
    """iperf3 says so in its own words."""
    with pytest.raises(TrafficError, match="iperf3"):
        bench.goodput(bpf.load(instruments.path("sink")), PATH, turns=1)
