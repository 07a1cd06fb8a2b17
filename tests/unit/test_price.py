"""Prices and bills: between what was measured, in words, stored and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.bench.price_file import prices_for, read_prices, write_prices
from lab.errors import StoreError
from lab.model.bill import Bill, Paid
from lab.model.price import Price, PriceList
from lab.model.run import Environment

HERE = Environment("6.18.44", "EPYC", 2, 1 << 34, "c0ffee", False, "on")
LIST = PriceList(
    "2026-11-21T08:00:00+00:00",
    HERE,
    (
        Price("map_lookup_elem", "hash", 1, 30.0, 29.0, 31.0),
        Price("map_lookup_elem", "hash", 65_536, 110.0, 100.0, 120.0),
        Price("ktime_get_ns", "", 0, 33.0, 32.0, 34.0),
    ),
)


@pytest.mark.parametrize(("entries", "ns"), [(0, 30), (1, 30), (256, 70), (65_536, 110), (1 << 20, 110)])
def test_a_price_grows_with_the_logarithm_between_what_was_measured(entries: int, ns: float) -> None:
    """Half-way between 1 and 65,536 entries are 256; beyond the last the price stays."""
    assert LIST.ns("map_lookup_elem", "hash", entries) == pytest.approx(ns)


def test_what_was_not_measured_has_no_price() -> None:
    """Another kind of map, another helper; one without entries has its one price at any number."""
    assert LIST.ns("map_lookup_elem", "lru_hash", 1) is None
    assert LIST.ns("map_delete_elem", "hash", 1) is None
    assert LIST.ns("ktime_get_ns", "", 5) == 33.0


def test_a_list_is_stored_whole_and_read_again(tmp_path: Path) -> None:
    """What was written is what is read; nothing else lies in the folder; without a list there is none."""
    assert read_prices(tmp_path) is None
    write_prices(LIST, tmp_path / "reports")
    assert read_prices(tmp_path / "reports") == LIST
    assert [each.name for each in (tmp_path / "reports").iterdir()] == ["floors.json"]


def test_a_list_of_another_machine_is_not_used(tmp_path: Path) -> None:
    """Another commit is no other machine; another kernel, CPU, number of CPUs or JIT is."""
    write_prices(LIST, tmp_path)
    assert prices_for(replace(HERE, commit="another", memory_bytes=1), tmp_path) == LIST
    for change in ({"kernel": "6.19"}, {"cpu": "Xeon"}, {"cpus": 4}, {"bpf_jit": "off"}):
        assert prices_for(replace(HERE, **change), tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({**LIST.as_dict(), "schema": 99})])
def test_a_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    """Empty, of another shape, of another version: the error names the file and how to mend it."""
    (tmp_path / "floors.json").write_text(text)
    with pytest.raises(StoreError, match=r"floors.json: no price list(.|\n)*lab bench floors"):
        read_prices(tmp_path)


def test_a_list_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The folder's name is a file's: the house's error, and no half file."""
    (tmp_path / "reports").write_text("")
    with pytest.raises(StoreError, match="could not be written"):
        write_prices(LIST, tmp_path / "reports")


LOOKUPS = Paid("map_lookup_elem", "hash", 1, 2.0, 30.0)
CLOCK = Paid("ktime_get_ns", "", 0, 1.0, 33.0)


@pytest.mark.parametrize(
    ("rows", "cost_ns", "sentence"),
    [
        ([LOOKUPS, CLOCK], 118, "2 hash lookups, 1 ktime_get_ns = 93 of 118 ns"),
        ([CLOCK, replace(LOOKUPS, times=0.25)], 50, "1 ktime_get_ns, 0.25 hash lookups = 40 of 50 ns"),
        ([LOOKUPS, replace(LOOKUPS, entries=9, times=1)], 118, "3 hash lookups = 90 of 118 ns"),
        ([LOOKUPS], 50, "2 hash lookups = 60 of 50 ns (one by one; the processor did some at once)"),
        ([replace(CLOCK, ns_each=None)], 50, "no calls that have a price, 1 ktime_get_ns (no price)"),
        ([CLOCK, replace(LOOKUPS, ns_each=0.1)], 50, "1 ktime_get_ns, 2 calls below 1 ns = 33 of 50 ns"),
        ([Paid("map_lookup_elem, missing", "lru_hash", 1, 1, 20)], 50, "1 lru_hash lookup (missing) = 20 of 50 ns"),
        ([], 50, "no calls that have a price"),
    ],
)
def test_a_bill_is_a_sentence(rows: list[Paid], cost_ns: float, sentence: str) -> None:
    """The dearest first, the cheap ones together, and what has no price is said."""
    assert Bill(rows).sentence(cost_ns) == sentence


def test_a_bill_that_was_not_counted_says_so() -> None:
    """Calls in the code are no calls of a packet: no sum."""
    said = Bill([replace(CLOCK, times=4)], counted=False).sentence(50)
    assert said == "its code has 4 ktime_get_ns; how often a packet makes them could not be counted"
