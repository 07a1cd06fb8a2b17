"""The instruments: what costs nothing measures as nothing, and what was not measured is an error."""

from __future__ import annotations

from pathlib import Path as File

import pytest

from lab import Mode, Topology
from lab.bench.bench import Bench
from lab.bench.path import Path
from lab.bpf.loader import Loader
from lab.errors import MeasurementError, TrafficError
from lab.model.journal import journal
from lab.traffic import frames

PAIR = Topology.pair("client", "server")
CHAIN = Topology.chain("client", "dut", "server")
STRAIGHT = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FRAME = bytes(frames.udp(PAIR, "client", "server", dst_port=9, payload=bytes(18)))
SOURCES = File(__file__).parents[1] / "bpf"


@pytest.fixture
def busy(bpf: Loader):
    """Passes frames, after a number of multiplications that a knob sets."""
    return lambda rounds: bpf.load(SOURCES / "busy.bpf.c", rounds=rounds)


def test_an_empty_program_costs_nothing(bpf: Loader, bench: Bench, busy) -> None:
    """The floor is subtracted: what is left of nothing is far below any real program, and grows with work."""
    nothing, some, much = (bench.cost(busy(rounds), FRAME, flows=[1])[0] for rounds in (0, 100, 1000))
    assert abs(nothing.p50) < 15
    assert nothing.p50 + 10 < some.p50 < much.p50
    assert nothing.unit == "ns/packet"
    assert nothing.interval[0] <= nothing.mean <= nothing.interval[1]


@pytest.mark.parametrize("ip", [4, 6])
def test_every_flow_reaches_the_program(bpf: Loader, bench: Bench, ip: int) -> None:
    """4,096 flows are 4,096 sources to the program, not one frame over and over."""
    program = bpf.load(SOURCES / "sources.bpf.c")
    frame = frames.tcp(PAIR, "client", "server", dst_port=9, ip=ip, payload=bytes(18))
    (measured,) = bench.cost(program, frame, flows=[4096], turns=3)
    assert len(program.maps["sources"]) == 4096
    assert measured.trials[0].facts["flows"] == 4096


@pytest.mark.parametrize(("port_bits", "addresses", "ports"), [(0, 4096, 1), (4, 256, 16), (14, 1, 4096)])
def test_flows_share_as_many_addresses_as_is_asked_for(bpf: Loader, bench: Bench, port_bits, addresses, ports) -> None:
    """2 ** port_bits flows have one source address and differ in their ports; with 0 each has its own address."""
    program = bpf.load(SOURCES / "sources.bpf.c")
    frame = frames.udp(PAIR, "client", "server", dst_port=9, payload=bytes(18))
    bench.cost(program, frame, flows=[4096], port_bits=port_bits, turns=3)
    seen = list(program.maps["sources"])
    assert len({source.address[0] for source in seen}) == addresses
    assert len({source.port for source in seen}) == ports


def test_a_tc_program_is_measured_too(bpf: Loader, bench: Bench) -> None:
    """The driver for tc restores the frame and calls the program."""
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_tc")
    (measured,) = bench.cost(program, FRAME, flows=[16], turns=3)
    assert len(measured.trials[0].samples) == 3 * measured.summary["n"]
    assert program.globals["dropped"] > 2000


def test_added_latency_is_a_distribution_over_two_paths(bench: Bench, busy) -> None:
    """Each arm has every sample; a busy program adds more than an idle one; the limit is on p99."""
    idle = bench.added_latency(busy(0), STRAIGHT, FRAME, frames=1000, repetitions=2, below_ns=1e9)
    working = bench.added_latency(busy(5000), STRAIGHT, FRAME, frames=1000, repetitions=2)
    assert {trial.arm: len(trial.samples) for trial in idle.trials} == dict.fromkeys(
        ("with", "hook", "without", "again"), 1000
    )
    assert working.p50 > idle.p50 + 500
    assert idle.limit is not None
    assert idle.limit.statistic == "p99"


def test_lost_frames_are_no_latency(bpf: Loader, bench: Bench) -> None:
    """A program that drops gives no number but an error that says how many arrived."""
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp")
    with pytest.raises(MeasurementError, match="0 of 100 frames arrived with the program"):
        bench.added_latency(program, STRAIGHT, FRAME, frames=1000)


def test_what_cannot_be_measured_is_said(bpf: Loader, bench: Bench) -> None:
    """Flows that are no power of two, frames without ports, types without a driver, too many frames."""
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp")
    with pytest.raises(MeasurementError, match="3 flows: not a power of two"):
        bench.cost(program, FRAME, flows=[3])
    with pytest.raises(TrafficError, match="vary the flows"):
        bench.cost(program, bytes(60), flows=[1])
    with pytest.raises(MeasurementError, match="600 to"):
        bench.added_latency(program, STRAIGHT, FRAME, frames=1_000_000)


def test_rounds_that_never_reached_the_program_are_no_cost(bpf: Loader, bench: Bench) -> None:
    """Ports behind 128 bytes of headers cannot be varied: no number, but how many rounds were refused."""
    from lab.traffic.codec import codec

    scapy = codec()
    far = scapy.IPv6ExtHdrDestOpt(options=[scapy.PadN(optdata=bytes(100))])
    frame = frames.ether(PAIR, "client", "server", ip=6) / scapy.IPv6() / far / scapy.UDP(dport=9) / bytes(30)
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp")
    with pytest.raises((MeasurementError, TrafficError)):
        bench.cost(program, frame, flows=[1], turns=3)


def test_a_program_beside_the_path_has_no_latency(bpf: Loader, bench: Bench, busy) -> None:
    """Attached where the frames don't pass, it adds nothing: that is an error, and no good news."""
    beside = Path(CHAIN, source="client/eth0", at="dut/eth1", sink="server/eth0", mode=Mode.NATIVE)
    frame = bytes(frames.udp(CHAIN, "client", "server", dst_port=9, payload=bytes(18)))
    with pytest.raises(MeasurementError, match=r"busy at dut/eth1: it met \d of 100 frames"):
        bench.added_latency(busy(0), beside, frame, frames=1000)


def test_measurements_are_noted(bench: Bench, busy) -> None:
    """What a benchmark measures is in the journal, and so in the stored run."""
    with journal() as kept:
        bench.cost(busy(0), FRAME, flows=[1], turns=3)
    assert [each["metric"] for each in kept.of("measurement")] == ["cost"]
