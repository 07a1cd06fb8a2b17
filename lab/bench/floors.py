"""What each operation of a program costs on this machine, in ns: maps, helpers, calls.

A program of an instrument (lab/instruments/floor_*.bpf.c) does the operation 32 times, a control does all but that.
Both sit in one driver (`lab.bench.driver`) and take turns in batches of 0.2 ms; the median of the differences of
neighbours, by 32, is one sample. Program, control and driver are loaded afresh several times, since where code lies in
memory is a part of its cost: the price is the mean over these loads, and its interval Student's.

An operation waits for the one before it, as a packet's work waits for its lookup. A program that does two at once pays
less than the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lab import instruments
from lab.bench.driver import Driver, driver_for
from lab.bench.environment import read_environment
from lab.bench.inference import Estimate, estimate
from lab.bench.pinned import pinned
from lab.errors import MeasurementError
from lab.model.journal import journal
from lab.model.price import Price, PriceList

if TYPE_CHECKING:
    from lab.bpf.program import Program

TIMES = 32
"""TIMES of lab/instruments/floor.h."""
LOADS = 5
TURNS = 8
BATCH_NS = 200_000
WARMED = 100_000
"""Entries at most that are met once before the clock starts; a table of many more is in no cache."""
SPARE = 4096
"""Entries that a table has room for beyond those it holds: inserted in a batch, and deleted again."""

Progress = Callable[[str, int, int], object]
"""Called before each part with its name, how many parts are done, and how many there are."""


@dataclass(frozen=True)
class Operation:
    """A row of the list: what its program does TIMES times; `before` and `after` make and mend its state, untimed."""

    name: str
    program: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Table:
    """A type of map with keys, and the numbers of entries that it is measured at."""

    kind: str
    entries: tuple[int, ...]
    operations: tuple[Operation, ...]
    flag: str = ""


LOOKUP = Operation("map_lookup_elem", "lookup")
UPDATE = Operation("map_update_elem", "update")
MISS = Operation("map_lookup_elem, missing", "miss")
INSERT = Operation("map_update_elem, inserting", "insert", after="delete")
EVICT = Operation("map_update_elem, inserting", "insert")
DELETE = Operation("map_delete_elem", "delete", before="insert")
KEYED = (LOOKUP, MISS, UPDATE, INSERT, DELETE)
SIZES = (1, 4096, 65_536, 1_048_576)

TABLES = (
    Table("array", SIZES, (LOOKUP, UPDATE), "-DINDEXED"),
    Table("percpu_array", SIZES[:3], (LOOKUP, UPDATE), "-DINDEXED"),
    Table("hash", SIZES, KEYED),
    Table("percpu_hash", SIZES, KEYED),
    Table("lru_hash", SIZES, (LOOKUP, MISS, UPDATE, EVICT)),
    Table("lpm_trie", (1, 10_000), KEYED, "-DPREFIXES"),
)


def measure_floors(project: Path, progress: Progress = lambda *_: None) -> PriceList:
    """The price list of this machine, in about 20 s; `project` is the folder whose commit is noted.

    MeasurementError when an operation did not do what it is priced for.
    """
    from lab import bpf
    from lab.net.topology import Topology
    from lab.traffic import frames

    frame = bytes(frames.udp(Topology.pair("left", "right"), "left", "right", dst_port=9, payload=bytes(18)))
    prices: list[Price] = []
    parts = [(table, entries) for table in TABLES for entries in table.entries]
    with ExitStack() as stack, journal():
        like = stack.enter_context(bpf.load(instruments.path("empty_tc"), program="empty_tc"))
        driver = stack.enter_context(driver_for(like, frame))
        stack.enter_context(pinned())
        for done, (table, entries) in enumerate(parts):
            progress(f"{table.kind}, {entries:,}", done, len(parts))
            prices += _prices_of_table(driver, table, entries)
    return PriceList(datetime.now(UTC).isoformat(timespec="seconds"), read_environment(project), tuple(prices))


def _prices_of_table(driver: Driver, table: Table, entries: int) -> list[Price]:
    from lab import bpf

    flags = (f"-DKIND=BPF_MAP_TYPE_{table.kind.upper()}", *filter(None, [table.flag]))
    room = entries if table.flag == "-DINDEXED" else entries + SPARE
    with bpf.load(instruments.path("floor_table"), max_entries={"table": room}, cflags=flags) as loaded:
        _fill(driver, loaded, entries)
        return [_price(row, table.kind, entries, _measured(driver, loaded, row, entries)) for row in table.operations]


def _price(row: Operation, kind: str, entries: int, found: Estimate) -> Price:
    return Price(row.name, kind, entries, found.value, found.low, found.high)


def _fill(driver: Driver, loaded: Program, entries: int) -> None:
    loaded.globals["held"] = entries
    if "insert" in loaded.programs:
        slot = driver.place(loaded.programs["insert"])
        driver.run(slot, -(-entries // TIMES))
        driver.clear(slot)
        loaded.globals["gone"] = loaded.globals["fresh"]


def _measured(driver: Driver, loaded: Program, row: Operation, entries: int = 0, control: str = "control") -> Estimate:
    """The operation's price in ns, over LOADS fresh loads."""
    samples = []
    needed = {control, row.program, row.before, row.after} - {""}
    for _ in range(LOADS):
        with ExitStack() as stack:
            driver.renew()
            slots = {}
            for name in needed:
                slots[name] = driver.place(stack.enter_context(loaded.programs[name].again()))
                stack.callback(driver.clear, slots[name])
            samples.append(_difference(driver, row, slots, slots[control], entries) / TIMES)
    if failed := loaded.globals["failed"]:
        raise MeasurementError(f"price {row.name}: {failed:,} times it did something else")
    return estimate(samples)


def _difference(driver: Driver, row: Operation, slots: dict[str, int], control: int, entries: int) -> float:
    """ns a run that the row's program takes longer than the control: the median over turns.

    The only place that times anything. Before, it meets `entries` entries: what fits into the caches is there.
    """
    if not (row.before or row.after):
        driver.run(slots[row.program], -(-min(entries, WARMED) // TIMES))
    rounds = _rounds(driver, row, slots)
    differences = []
    for turn in range(TURNS):
        without = driver.run(control, rounds) if turn % 2 else 0
        if row.before:
            driver.run(slots[row.before], rounds)
        spent = driver.run(slots[row.program], rounds)
        if row.after:
            driver.run(slots[row.after], rounds)
        without = without or driver.run(control, rounds)
        differences.append((spent - without) / rounds)
    return median(differences)


def _rounds(driver: Driver, row: Operation, slots: dict[str, int]) -> int:
    """As many as take BATCH_NS, and no more than there is room for."""
    few = 20
    if row.before:
        driver.run(slots[row.before], few)
    spent = driver.run(slots[row.program], few) / few
    if row.after:
        driver.run(slots[row.after], few)
    most = SPARE // TIMES if row.before or row.after else 1 << 20
    return max(few, min(most, int(BATCH_NS / spent)))
