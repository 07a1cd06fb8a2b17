"""Rates: what was lost is counted to the frame, a rate lies where a search must find it, and what limits is named."""

from __future__ import annotations

from pathlib import Path as File

import pytest

from lab import Direction, Mode, Topology, instruments
from lab.bench import compare_rate as compare
from lab.bench.bench import Bench
from lab.bench.compare_rate import compare_rate
from lab.bench.driver import load_instrument
from lab.bench.frame_sizes import imix, resized
from lab.bench.isolation import isolated
from lab.bench.lane import with_program, without_program
from lab.bench.path import Path
from lab.bench.rate import limits
from lab.bench.search import Bounds, LoadTrial, bounds_of, search
from lab.bench.workload import Contender, Workload
from lab.bpf.loader import Loader
from lab.errors import MeasurementError, TrafficError
from lab.traffic import frames
from lab.traffic.codec import codec
from lab.traffic.mixed_flood import MixedFlood
from lab.traffic.network import Network

TOPOLOGY = Topology.pair("client", "server")
CHAIN = Topology.chain("client", "dut", "server")
BACK = Path(TOPOLOGY, "client/eth0", at="server/eth0", sink="client/eth0", sink_without="server/eth0", mode=Mode.NATIVE)
ENDS = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FRAME = bytes(frames.udp(TOPOLOGY, "client", "server", dst_port=9, payload=bytes(18)))
SOURCES = File(__file__).parents[1] / "bpf"


@pytest.fixture
def reflect(bpf: Loader):
    """Sends frames back, but for one in `every`, each after `rounds` of work."""
    return lambda **knobs: bpf.load(instruments.path("reflect"), **knobs)


@pytest.mark.needs("live_frames")
def test_a_rate_is_searched_and_split_into_its_parts(bench: Bench, reflect) -> None:
    """NDR, PDR and MRR are near each other where nothing is lost; the time of a packet is split; trials are kept."""
    measured = bench.rate(reflect(rounds=500), BACK, FRAME, flows=64, above_pps=1000)
    summary = measured.summary
    assert 0.5 * summary["mrr_pps"] < summary["ndr_pps"] <= summary["pdr_pps"] < 1.5 * summary["mrr_pps"]
    assert summary["mrr_pps"] < summary["generator_pps"]
    assert measured.interval[0] == measured.ndr_pps <= measured.interval[1]
    assert measured.noise["path"][0].startswith("client/eth0: ")
    assert any("the program limits: of " in remark for remark in measured.remarks)
    assert [trial.arm for trial in measured.trials] == ["with", "path", "generator", "mrr"]
    assert all(facts["offered"] == facts["received"] for facts in (trial.facts for trial in measured.trials))


def test_a_path_says_what_it_is_set_to(bpf: Loader) -> None:
    """As the kernel has it while the program sits there: offloads of interfaces on the way, sysctls of the place."""
    path = Path(CHAIN, source="client/eth0", at="dut/eth0", sink="server/eth0", mode=Mode.NATIVE)
    with Network(CHAIN) as network:
        before = path.settings(network)
        with path.attach(bpf.load(instruments.path("empty_xdp"), program="empty_xdp"), network):
            after = path.settings(network)
    assert [each.partition(":")[0] for each in after] == ["client/eth0", "dut/eth0", "server/eth0", "dut/eth0"]
    assert "net.ipv4.ip_forward=1" in after[-1]
    assert "tso" in before[0].partition("off,")[2], "on, until native XDP at the peer turns it off"
    assert "tso" in after[0].partition("off,")[0]


@pytest.mark.needs("live_frames")
@pytest.mark.parametrize("every", [7, 100, 1000])
def test_a_known_loss_is_counted_to_the_frame(bench: Bench, reflect, every: int) -> None:
    """Of 70,000 frames exactly one in `every` is lost, as the sink counts and as the program says."""
    with isolated() as core, with_program(reflect(every=every), BACK, FRAME, 16, core) as lane:
        trial = lane.offer(pps=1_000_000, seconds=0.07)
    assert trial.offered == 70_000
    assert abs(trial.lost - 70_000 / every) <= 1, "the frames of the warm-up come first"


@pytest.mark.needs("live_frames")
def test_some_loss_leaves_a_pdr(bench: Bench, reflect) -> None:
    """With one frame in 1,000 lost there is no rate without loss, and that is said; that with 0.5 % is found."""
    measured = bench.rate(reflect(every=1000, rounds=500), BACK, FRAME, flows=16, above_pps=1)
    assert (measured.headline, measured.ndr_pps) == ("pdr_pps", 0.0)
    assert measured.pdr_pps > 100_000
    assert measured.remarks[0].startswith("no rate without loss: frames are lost at")
    assert measured.limit is not None
    assert not measured.limit.holds_for(measured.summary[measured.limit.statistic])


@pytest.mark.needs("live_frames")
def test_more_loss_is_no_rate(bench: Bench, reflect) -> None:
    """One frame in 100 lost is more than either goal allows at any load: an error that says where they were missed."""
    with pytest.raises(MeasurementError, match=r"measure the rate of reflect: .* frames came to client/eth0"):
        bench.rate(reflect(every=100), BACK, FRAME, flows=16)


@pytest.mark.needs("live_frames")
def test_a_program_at_the_end_of_the_path_is_counted_by_its_interface(bpf: Loader) -> None:
    """Where the program itself is the end, what its interface received counts, and the program saw all of it."""
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp")
    with isolated() as core, with_program(program, ENDS, FRAME, 64, core) as lane:
        before = program.globals["dropped"]
        trial = lane.offer(pps=500_000, seconds=0.02)
    assert (trial.offered, trial.received) == (10_000, 10_000)
    assert program.globals["dropped"] - before == 10_000


@pytest.mark.needs("live_frames")
def test_frames_are_counted_at_the_sink_and_not_on_the_way(bpf: Loader) -> None:
    """What a router drops did come to the router, and is lost all the same; without the program it arrives."""
    path = Path(CHAIN, source="client/eth0", at="dut/eth0", sink="server/eth0", mode=Mode.NATIVE)
    frame = bytes(frames.udp(CHAIN, "client", "server", dst_port=9, payload=bytes(18)))
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp")
    with isolated() as core:
        with with_program(program, path, frame, 16, core) as lane:
            assert lane.offer(pps=100_000, seconds=0.02).received == 0
        with without_program(path, frame, 16, core) as lane:
            assert lane.offer(pps=100_000, seconds=0.02).received == 2000


@pytest.mark.needs("live_frames")
def test_a_program_that_meets_no_frame_has_no_rate(bpf: Loader, bench: Bench) -> None:
    """Attached beside the path, it is an error and no good news."""
    beside = Path(CHAIN, source="client/eth0", at="dut/eth1", sink="server/eth0", mode=Mode.NATIVE)
    frame = bytes(frames.udp(CHAIN, "client", "server", dst_port=9, payload=bytes(18)))
    with pytest.raises(MeasurementError, match=r"it met \d+ of 1000 frames"):
        bench.rate(bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp"), beside, frame)


def reflecting(**knobs: int) -> Contender:
    """A contender that sends frames back after some work."""
    return Contender(str(knobs), lambda loader: Workload(loader.load(instruments.path("reflect"), **knobs), FRAME))


@pytest.mark.needs("live_frames")
def test_a_program_that_takes_longer_is_slower_on_the_path() -> None:
    """Twice the work is found to be slower and not faster; the figure is the time of a packet, raw samples kept."""
    found = compare_rate(reflecting(rounds=200), reflecting(rounds=600), BACK, flows=64, budget_s=1.0)
    assert found.difference[0] > 100
    assert found.verdict in ("slower", "inconclusive"), found.noise["sentence"]
    assert (found.metric, found.unit) == ("rate", "ns/packet")
    assert {trial.arm: len(trial.samples) for trial in found.trials}["A"] >= 8


@pytest.mark.needs("live_frames")
def test_equals_take_turns_at_one_hook() -> None:
    """Two loads of one program differ by far less than they cost, and so for tc."""
    path = Path(CHAIN, source="client/eth0", at="dut/eth0", sink="server/eth0", direction=Direction.INGRESS)
    frame = bytes(frames.udp(CHAIN, "client", "server", dst_port=9, payload=bytes(18)))
    passing = Contender(
        "pass", lambda loader: Workload(loader.load(instruments.path("empty_tc"), program="empty_tc"), frame)
    )
    for contender, where in ((reflecting(), BACK), (passing, path)):
        found = compare_rate(contender, contender, where, budget_s=0.5)
        assert abs(found.difference[0]) < 0.3 * found.base


@pytest.mark.needs("live_frames")
def test_programs_that_had_their_turn_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch holds the first program and the two of this repetition: else a minute of large maps fills memory."""
    made = []
    monkeypatch.setattr(compare, "load_instrument", lambda *words: made.append(load_instrument(*words)) or made[0])
    held = []
    with isolated() as core:
        repetitions = compare._repetitions(reflecting(), reflecting(), BACK, 1, core)
        for _ in range(5):
            next(repetitions)
            held.append(len(list(made[0].maps["targets"].items())))
        repetitions.close()
    assert 2 <= max(held) <= 3


@pytest.mark.needs("live_frames")
def test_what_drops_everything_has_no_rate_to_compare() -> None:
    """No frame comes to the sink: an error, and no verdict."""
    with pytest.raises(MeasurementError, match="came to the sink of the path"):
        compare_rate(reflecting(every=1), reflecting(every=1), BACK, budget_s=0.5)


@pytest.mark.parametrize("limit_pps", [80_000.0, 3_500_000.0])
def test_a_search_finds_the_edge(limit_pps: float) -> None:
    """A subject that needs a fixed CPU time for each frame is found within 2 %, whatever disturbs one trial in five."""
    made = 0

    def offer(pps: float, seconds: float) -> LoadTrial:
        nonlocal made
        made += 1
        slow = 1.3 if made % 5 == 0 else 1.0
        frames = round(pps * seconds)
        return LoadTrial(pps, seconds, frames, frames, slow * frames / limit_pps)

    found = search(offer, 1.2 * limit_pps)
    for goal in ("ndr", "pdr"):
        bounds = found.bounds[goal]
        assert bounds is not None
        assert 0.98 * limit_pps <= bounds.good_pps <= 1.01 * limit_pps
    assert len(found.trials) == made


def test_a_search_that_never_ends_is_cut_short(monkeypatch) -> None:
    """Where the subject changes all the while, the bounds are what the trials agree on when the time is over."""
    monkeypatch.setattr("lab.bench.search.LONGEST_S", 1e-6)
    found = search(lambda pps, seconds: LoadTrial(pps, seconds, 1000, 1000, seconds * pps / 1e6), 1.2e6)
    assert found.cut_short
    assert len(found.trials) > 1


def test_bounds_are_where_most_trials_agree() -> None:
    """Half of the long trials of a load decide; a good load above a bad one is no bound, and short trials count not."""

    def trials(pps: float, *lost: int, seconds: float = 0.1) -> list[tuple[float, LoadTrial]]:
        frames = round(pps * seconds)
        return [(pps, LoadTrial(pps, seconds, frames, frames - each, 0.01)) for each in lost]

    made = [*trials(1e4, 0, 0, 9), *trials(2e4, 0, 9), *trials(3e4, 9, 9, 0), *trials(4e4, 0)]
    assert bounds_of([*made, *trials(1e3, 9, 9, seconds=0.02)], 0.0) == Bounds(2e4, 3e4)
    assert bounds_of(trials(1e4, 9), 0.0) is None


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((5.9e6, 5.9e6, 6.0e6), "the generator limits: of 169 ns a packet"),
        (
            (0.9e6, 1.0e6, 6.0e6),
            "the path limits: of 1,111 ns a packet, the generator 167, the path 833, the program 111",
        ),
        ((2.0e6, 5.9e6, 6.0e6), "the program limits"),
        ((4.0e6, 1.0e6, 6.0e6), "without the program it would take 1,000 ns"),
        ((4.0e6, 0.0, 6.0e6), "what limits the rate is not known"),
    ],
)
def test_what_limits_is_named(rates: tuple[float, float, float], words: str) -> None:
    """The largest share of a packet's time: generator, path or program."""
    assert words in limits(*rates)


@pytest.mark.needs("live_frames")
def test_each_size_is_a_rate_of_its_own(bench: Bench, reflect) -> None:
    """Packets and Gbit/s of what was asked for; IMIX has the mean size of its mix."""
    (mixed,) = bench.rates(reflect(), BACK, FRAME, frame_bytes=("imix",), flows=16)
    assert mixed.subject.endswith(", 16 flows, IMIX")
    mean = (7 * 64 + 4 * 570 + 1500) / 12
    assert mixed.trials[0].facts["frame_bytes"] == mean
    assert f"NDR {mixed.ndr_pps * mean * 8 / 1e9:,.2f} Gbit/s in frames of 352 bytes" in mixed.remarks[0]


@pytest.mark.needs("live_frames")
def test_imix_is_seven_to_four_to_one(net, bpf: Loader) -> None:
    """Of 1,205 frames 705 are short, and the program meets exactly the bytes of the mix."""
    program = bpf.load(SOURCES / "lengths.bpf.c")
    mix = imix(FRAME)
    with (
        program.attach(net.interface("server/eth0"), mode=Mode.NATIVE),
        MixedFlood(net.interface("client/eth0"), mix, flows=4) as flood,
    ):
        came = flood.run(count=1205)
    assert (came.offered, came.received) == (1205, 1205)
    assert dict(program.maps["lengths"].items()) == {64: 705, 570: 400, 1500: 100}


@pytest.mark.parametrize("size", [64, 570, 1500])
@pytest.mark.parametrize("make", [frames.udp, frames.tcp])
@pytest.mark.parametrize(("ip", "vlans"), [(4, ()), (4, (7,)), (6, ())])
def test_a_resized_frame_is_right(make, size: int, ip: int, vlans: tuple[int, ...]) -> None:
    """Length fields and checksums are those that scapy would compute, and nothing else has changed."""
    frame = make(TOPOLOGY, "client", "server", dst_port=9, ip=ip, vlans=vlans, payload=b"whatever")
    headers = len(frame) - 8
    if headers > size:
        with pytest.raises(TrafficError, match=f"its headers alone are {headers}"):
            resized(frame, size)
        return
    made = resized(frame, size)
    right = make(TOPOLOGY, "client", "server", dst_port=9, ip=ip, vlans=vlans, payload=bytes(size - headers))
    assert (len(made), made) == (size, bytes(right))


def test_what_has_no_payload_to_resize_is_refused() -> None:
    """ARP is neither UDP nor TCP."""
    with pytest.raises(TrafficError, match="neither UDP nor TCP"):
        resized(codec().Ether() / codec().ARP(), 64)
