"""The price list, and what a program pays for: prices in the right order, calls in the right number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab import Topology
from lab.bench import floors, paid
from lab.bench.bench import Bench
from lab.bench.floors import LOOKUP, Operation, Table, prices_of_calls, prices_of_table
from lab.bench.paid import paid_for
from lab.bpf.loader import Loader
from lab.bpf.twin import Twin
from lab.commands.bench import command
from lab.errors import LoadError, MeasurementError
from lab.model.price import Price, PriceList
from lab.model.run import Environment
from lab.traffic import frames

PROGRAMS = Path(__file__).parents[1] / "bpf"
PAIR = Topology.pair("client", "server")
FRAME = bytes(frames.udp(PAIR, "client", "server", dst_port=9, payload=bytes(18)))
HASH = Table("hash", (1, 1 << 20), (LOOKUP,))
ARRAY = Table("array", (1,), (LOOKUP,), "-DINDEXED")
LIST = PriceList(
    "2026-11-21T08:00:00+00:00",
    Environment("6.18", "EPYC", 2, 1 << 34, "", False, "on"),
    (
        Price("map_lookup_elem", "hash", 1, 30.0, 29.0, 31.0),
        Price("map_lookup_elem, missing", "hash", 1, 20.0, 19.0, 21.0),
        Price("map_update_elem", "hash", 1, 100.0, 99.0, 101.0),
        Price("map_update_elem", "hash", 65_536, 260.0, 200.0, 300.0),
        Price("ktime_get_ns", "", 0, 33.0, 32.0, 34.0),
        Price("call", "", 0, 8.0, 7.0, 9.0),
    ),
)


def ns_of(prices: list[Price]) -> float:
    (price,) = prices
    assert price.low <= price.ns <= price.high
    return price.ns


def test_a_lookup_costs_more_in_a_hash_and_more_still_in_a_large_one(bpf: Loader) -> None:
    """An array's element is an addition; a hash is a call; a million entries are in no cache."""
    array, small = ns_of(prices_of_table(ARRAY, 1)), ns_of(prices_of_table(HASH, 1))
    large = ns_of(prices_of_table(HASH, 1 << 20))
    assert -1 < array < 10
    assert array + 3 < small < large


def test_helpers_have_prices(bpf: Loader) -> None:
    """Reading the jiffies is a load, reading the clock is a call; a lock is taken and given back."""
    rows = (Operation("jiffies64"), Operation("ktime_get_ns"), Operation("spin_lock"))
    jiffies, clock, lock = (each.ns for each in prices_of_calls(rows, "tc"))
    assert -1 < jiffies < 5 < clock < 2000
    assert lock > 5


def test_the_control_has_no_price(bpf: Loader) -> None:
    """What is subtracted leaves nothing of itself."""
    (price,) = prices_of_calls((Operation("control"),), "tc")
    assert abs(price.ns) < 1


@pytest.mark.needs("live_frames")
def test_helpers_of_xdp_have_prices(bpf: Loader) -> None:
    """Moving the frame's head leaves the frame as it was; a redirect finds its device."""
    rows = (Operation("xdp_adjust_head"), Operation("redirect_map", kind="devmap"))
    assert all(0 < each.ns < 1000 for each in prices_of_calls(rows, "xdp"))


def test_what_fails_has_no_price(bpf: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was not filled: lookups find nothing, and that is an error and no cheap lookup."""
    monkeypatch.setattr(floors, "_fill", lambda *_: None)
    with pytest.raises(MeasurementError, match=r"price map_lookup_elem: [\d,]+ times it did something else"):
        prices_of_table(HASH, 1)


def test_the_command_stores_what_it_prints(bpf: Loader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One JSON object, the same as in floors.json; each part was named before it began."""
    monkeypatch.setattr(floors, "TABLES", (replace(ARRAY, operations=(LOOKUP,)),))
    monkeypatch.setattr(floors, "CALLS", (Operation("ktime_get_ns"),))
    monkeypatch.setattr(floors, "XDP_CALLS", ())
    done = CliRunner().invoke(command, ["floors", "--json", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    stored = json.loads((tmp_path / "floors.json").read_text())
    assert json.loads(done.stdout) == stored
    assert [(each["operation"], each["kind"]) for each in stored["prices"]] == [
        ("ktime_get_ns", ""),
        ("map_lookup_elem", "array"),
    ]


def test_a_packet_pays_for_what_it_calls(bpf: Loader) -> None:
    """Four lookups of which one finds something, two calls of a function that reads the clock; no price is said."""
    program = bpf.load(PROGRAMS / "pay.bpf.c", program="pay", lookups=4)
    program.maps["known"][0] = 1
    (bill,) = paid_for(program, FRAME, LIST)
    assert {(row.operation, row.kind): (row.times, row.ns_each) for row in bill.rows} == {
        ("map_lookup_elem", "hash"): (1, 30.0),
        ("map_lookup_elem, missing", "hash"): (3, 20.0),
        ("ktime_get_ns", ""): (2, 33.0),
        ("call", ""): (2, 8.0),
        ("tail_call", "prog_array"): (1, None),
    }
    assert bill.ns == 30 + 60 + 66 + 16
    assert bill.sentence(200).startswith("2 ktime_get_ns, 3 hash lookups (missing), 1 hash lookup, 2 function calls")


@pytest.mark.parametrize(("flows", "ns"), [(1, 100.0), (256, 180.0)])
def test_the_price_is_that_of_so_many_entries(bpf: Loader, flows: int, ns: float) -> None:
    """256 flows are 256 entries, whose price lies between those that were measured."""
    program = bpf.load(PROGRAMS / "sources.bpf.c")
    (bill,) = paid_for(program, FRAME, LIST, flows=[flows])
    assert [(row.operation, row.entries, row.times) for row in bill.rows] == [("map_update_elem", flows, 1)]
    assert bill.ns == pytest.approx(ns)


@pytest.mark.parametrize(("flows", "entries"), [(64, 64), (16_384, 16_384)])
def test_entries_are_told_by_where_they_lie(bpf: Loader, flows: int, entries: int) -> None:
    """Lookups that find 16,384 entries are priced as such, within a few percent; their inserts are long over."""
    program = bpf.load(PROGRAMS / "pay.bpf.c", program="per_flow", max_entries={"recent": 1 << 17})
    frame = bytes(frames.udp(PAIR, "client", "server", src_port=1024, dst_port=9, payload=bytes(18)))
    (bill,) = paid_for(program, frame, LIST, flows=[flows])
    rows = {row.operation: row for row in bill.rows}
    assert set(rows) == {"xdp_load_bytes", "map_lookup_elem"}
    assert 0.95 * entries <= rows["map_lookup_elem"].entries <= entries


def test_a_sample_of_flows_tells_how_many_entries_there_are() -> None:
    """All different: as many as there can be; a thousand draws that gave 63 different ones drew from about 63."""
    assert paid._population(1000, 1000, 65_536) == 65_536
    assert paid._population(63, 1000, 65_536) == pytest.approx(63, rel=0.02)
    assert paid._population(632, 1000, 65_536) == pytest.approx(1000, rel=0.02)


def test_a_bill_for_tc(bpf: Loader) -> None:
    """A program that calls nothing pays nothing."""
    (bill,) = paid_for(bpf.load(PROGRAMS / "drop.bpf.c", program="drop_tc"), FRAME, LIST)
    assert bill.rows == []


def test_without_a_twin_the_code_is_looked_at(bpf: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses it, the calls in the code are named and no sum is claimed."""

    def refused(self: Twin) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(Twin, "_load", refused)
    (bill,) = paid_for(bpf.load(PROGRAMS / "pay.bpf.c", program="either"), FRAME, LIST)
    assert not bill.counted
    assert bill.sentence(50).startswith("its code has 1 ktime_get_ns, 1 jiffies64; how often")


@pytest.mark.needs("bcc")
def test_a_program_that_bcc_loaded_has_no_bill(bpf: Loader) -> None:
    """There is no code to look at: an error that says so."""
    program = bpf.load_bcc("int nothing(struct xdp_md *ctx) { return XDP_PASS; }", "nothing", "xdp")
    with pytest.raises(LoadError, match="read the code of nothing: BCC keeps none of it"):
        paid_for(program, FRAME, LIST)


@pytest.mark.parametrize("there", [True, False])
def test_a_cost_says_what_it_was_paid_for(
    bpf: Loader, bench: Bench, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Where this machine has a price list, a remark is the bill; without one the cost is the same, and no error."""
    monkeypatch.setattr(paid, "prices_here", lambda: LIST if there else None)
    program = bpf.load(PROGRAMS / "pay.bpf.c", program="pay", lookups=2)
    (measured,) = bench.cost(program, FRAME, flows=[1], turns=3)
    said = [remark for remark in measured.remarks if remark.startswith("pays for")]
    assert len(said) == there
    if there:
        assert said[0].startswith("pays for 2 ktime_get_ns, 2 hash lookups (missing), 2 function calls")
        assert said[0].endswith(f" of {measured.mean:.0f} ns")
