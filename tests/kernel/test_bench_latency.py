"""Added latency: what was put in on purpose is found again, by each method, and what was lost is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as File

import pytest

from lab import Mode, Topology
from lab.bench import histogram, latency
from lab.bench.arms import HOOK, WITH, WITHOUT
from lab.bench.bench import Bench
from lab.bench.delay import Delay, delayed
from lab.bench.latency import METHODS
from lab.bench.path import Path
from lab.bpf.loader import Loader
from lab.calibration.delay import PATH, recover
from lab.errors import MeasurementError
from lab.model.action import Direction
from lab.model.journal import journal
from lab.model.measurement import Measurement
from lab.traffic import frames

PAIR = Topology.pair("client", "server")
FRAME = bytes(frames.udp(PAIR, "client", "server", dst_port=9, payload=bytes(18)))
AT_TC = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", direction=Direction.INGRESS)
AT_EGRESS = Path(PAIR, source="client/eth0", at="client/eth0", sink="server/eth0", direction=Direction.EGRESS)
SOURCES = File(__file__).parents[1] / "bpf"
QUICK = {"frames": 400, "repetitions": 2}


@pytest.fixture(scope="module")
def microseconds() -> Iterator[Delay]:
    """A program that holds packets for 3 µs, at XDP."""
    with delayed(3000) as delay:
        yield delay


@pytest.fixture(scope="module")
def at_tc() -> Iterator[Delay]:
    """The same at tc."""
    with delayed(3000, "tc") as delay:
        yield delay


@pytest.mark.parametrize("method", METHODS)
def test_an_injected_delay_is_recovered(microseconds: Delay, method: str) -> None:
    """3 µs are found as 3 µs, to 30 % on a machine that does other things too."""
    found = recover(microseconds, method, repetitions=2)
    assert found.p50 == pytest.approx(found.true, rel=0.3)
    assert abs(found.alike) < 1000


@pytest.mark.parametrize("path", [AT_TC, AT_EGRESS], ids=["ingress", "egress"])
def test_a_delay_at_tc_is_recovered(bench: Bench, at_tc: Delay, path: Path) -> None:
    """The stamps stand around a tc program, at the sink's ingress and at the source's egress."""
    found = bench.added_latency(at_tc.program, path, FRAME, **QUICK)
    assert found.program_p50 == pytest.approx(at_tc.true.value, rel=0.3)


def test_a_round_trip_has_the_delay_in_it(bench: Bench, microseconds: Delay) -> None:
    """UDP sockets see what the program holds back on one of the two ways; their own time is told too."""
    found = bench.round_trip(microseconds.program, PATH, **QUICK)
    assert (found.metric, found.method) == ("added_round_trip", "rtt")
    assert found.program_p50 == pytest.approx(microseconds.true.value, rel=0.5)
    assert found.p50_with > found.p50_without > 1000


def test_the_true_delay_is_near_what_was_asked_for(microseconds: Delay) -> None:
    """Calibrated by measuring: its interval is narrow, and a second look agrees."""
    assert microseconds.true.value == pytest.approx(3000, rel=0.2)
    assert microseconds.measure().value == pytest.approx(microseconds.true.value, rel=0.2)
    assert microseconds.true.low <= microseconds.true.value <= microseconds.true.high


def test_no_delay_is_none() -> None:
    """0 ns give two programs that are alike."""
    with delayed(0) as delay:
        assert abs(delay.true.value) < 20


@pytest.mark.parametrize("ns", [-1, 100_001])
def test_a_delay_out_of_reach_is_refused(ns: float) -> None:
    """Before anything is loaded."""
    with pytest.raises(MeasurementError, match=f"by {ns} ns: 0 to 100000"), delayed(ns):
        pass
    with pytest.raises(MeasurementError, match="at 'sockops'"), delayed(100, "sockops"):
        pass


def test_the_hook_and_the_program_are_told_apart(bench: Bench, microseconds: Delay) -> None:
    """What an empty program adds, and what the program adds to that, make up the whole."""
    found = bench.added_latency(microseconds.base, PATH, FRAME, **QUICK)
    assert found.hook_p50 > 0
    assert found.hook_p50 + found.program_p50 == pytest.approx(found.p50, abs=1)
    assert "an empty program at the same hook adds" in found.remarks[0]
    assert any(remark.startswith("A/A") for remark in found.remarks)


def test_all_samples_are_in_the_histogram(bench: Bench, microseconds: Delay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many frames every n-th is stored as it was, and the histogram has them all; it survives JSON."""
    monkeypatch.setattr(latency, "RAW_SAMPLES", 100)
    measured = bench.added_latency(microseconds.base, PATH, FRAME, **QUICK)
    kept = {trial.arm: trial for trial in Measurement.from_dict(measured.as_dict()).trials}
    assert len(kept[WITH].samples) == 100
    assert (kept[WITH].facts["taken"], kept[WITH].facts["every"]) == (400, 4)
    for name in (WITH, HOOK, WITHOUT):
        whole = histogram.decode(kept[name].facts["histogram"])
        assert whole.get_total_count() == 400
    assert measured.p50_with == pytest.approx(
        histogram.quantiles(kept[WITH].facts["histogram"], {"p50": 0.5})["p50"], rel=0.001
    )


def test_the_tail_is_shown_for_each_path_and_not_subtracted(bench: Bench, microseconds: Delay) -> None:
    """p99.9 is there with and without the program; a difference of it is not."""
    found = bench.added_latency(microseconds.base, PATH, FRAME, **QUICK)
    assert found.p999_with >= found.p99_with >= found.p50_with
    assert "p999" not in found.summary


@pytest.mark.parametrize("method", METHODS)
def test_frames_lost_are_an_error_in_each_method(bpf: Loader, bench: Bench, method: str) -> None:
    """A program that drops has no latency."""
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp")
    with pytest.raises(MeasurementError, match="0 of 100 frames arrived with the program"):
        bench.added_latency(program, PATH, FRAME, method=method, **QUICK)


def test_what_ends_the_chain_at_the_sink_is_measured_by_another_method(bpf: Loader, bench: Bench) -> None:
    """TC_ACT_OK leaves nothing to a stamp behind it; the error names the method that needs none."""
    program = bpf.load(SOURCES / "accept.bpf.c")
    with pytest.raises(MeasurementError, match="0 of 100 frames arrived") as refused:
        bench.added_latency(program, AT_TC, FRAME, **QUICK)
    assert 'method="user_clock"' in refused.value.mend
    assert bench.added_latency(program, AT_TC, FRAME, method="user_clock", **QUICK).summary["n"] == 400


def test_requests_lost_are_an_error(bpf: Loader, bench: Bench) -> None:
    """A round trip that never ends is not a slow one."""
    program = bpf.load(SOURCES / "drop.bpf.c", program="drop_xdp")
    with pytest.raises(MeasurementError, match="0 of 100 frames arrived with the program"):
        bench.round_trip(program, PATH, **QUICK)


def test_what_a_method_cannot_see_is_refused(bench: Bench, at_tc: Delay) -> None:
    """The kernel stamps an arrival before tc and before generic XDP: that would be a latency of 0."""
    with pytest.raises(MeasurementError, match="stamps arrivals before that hook"):
        bench.added_latency(at_tc.program, AT_TC, FRAME, method="socket_stamp", **QUICK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "guess"}, "no such method"),
        ({"frames": 150, "repetitions": 2}, "200 to 31968 are possible in 2"),
        ({"frames": 40_000, "repetitions": 2}, "200 to 31968 are possible in 2"),
        ({"repetitions": 1}, "2 to 100 repetitions"),
    ],
)
def test_bad_arguments_are_refused_at_once(bench: Bench, microseconds: Delay, options, said: str) -> None:
    """Before a network is made."""
    with journal() as kept, pytest.raises(MeasurementError, match=said):
        bench.added_latency(microseconds.base, PATH, FRAME, **options)
    assert not kept.notes


def test_nothing_of_ours_stays(microseconds: Delay, bench: Bench) -> None:
    """Only the first networks are news; the copies of the program are closed again."""
    with journal() as kept:
        bench.added_latency(microseconds.base, PATH, FRAME, **QUICK)
    assert len(kept.of("topology")) == 4
    assert [each["metric"] for each in kept.of("measurement")] == ["added_latency"]
    assert microseconds.base.fd >= 0


def test_the_mode_is_of_the_path(bench: Bench, microseconds: Delay) -> None:
    """Generic XDP is measured by stamps at tc, which comes behind it."""
    generic = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.GENERIC)
    found = bench.added_latency(microseconds.program, generic, FRAME, **QUICK)
    assert found.program_p50 == pytest.approx(microseconds.true.value, rel=0.3)
    assert found.subject == "server/eth0, generic"
