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
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lab import instruments
from lab.bench.driver import Driver, driver_for
from lab.bench.environment import read_environment
from lab.bench.inference import Estimate, estimate
from lab.bench.isolation import isolated
from lab.errors import MeasurementError
from lab.model.journal import journal
from lab.model.price import Price, PriceList
from lab.net.topology import Topology

if TYPE_CHECKING:
    from lab.bpf.program import Program

TIMES = 32
"""TIMES of lab/instruments/floor.h."""
LOADS = 5
TURNS = 8
BATCH_NS = 200_000
WARMED = 100_000
"""Entries at most that are met once before the clock starts; a table of many more is in no cache."""
FEWEST = 20
"""Rounds of a batch."""
PAIR = Topology.pair("left", "right")
CHAIN = Topology.chain("left", "middle", "right")
SPARE = 4096
"""Entries that a table has room for beyond those it holds: inserted in a batch, and deleted again."""

Progress = Callable[[str, int, int], object]
"""Called before each part with its name, how many parts are done, and how many there are."""


@dataclass(frozen=True)
class Operation:
    """A row of the list, and the program that does it TIMES times.

    `before` and `after` are programs that make and mend its state, `drains` the buffer that it fills; neither is timed.
    """

    name: str
    program: str = ""
    kind: str = ""
    before: str = ""
    after: str = ""
    drains: str = ""
    control: str = "control"

    @property
    def most_rounds(self) -> int:
        """At once: as many as there is room for."""
        return SPARE // TIMES if self.before or self.after or self.drains else 1 << 20


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

HELPERS = (
    *("ktime_get_ns", "ktime_get_boot_ns", "ktime_get_coarse_ns", "jiffies64", "get_prandom_u32"),
    *("get_smp_processor_id", "csum_diff", "l3_csum_replace", "l4_csum_replace", "skb_load_bytes", "skb_store_bytes"),
    *("skb_pull_data", "redirect", "fib_lookup"),
)
"""Of tc, or of any program; each has a program of its name."""
XDP_HELPERS = ("xdp_load_bytes", "xdp_store_bytes", "xdp_adjust_head", "xdp_adjust_tail")

CALLS = (
    *(Operation(name) for name in HELPERS),
    Operation("call"),
    Operation("tail_call", kind="prog_array", control="tail_call_control"),
    Operation("spin_lock"),
    Operation("atomic_add"),
    Operation("ringbuf_reserve", kind="ringbuf", drains="ring"),
    Operation("ringbuf_output", kind="ringbuf", drains="ring"),
    Operation("perf_event_output", kind="perf_event_array", drains="events"),
    Operation("map_push_elem", "bloom_push", kind="bloom_filter"),
    Operation("map_peek_elem", "bloom_peek", kind="bloom_filter"),
    Operation("map_peek_elem, missing", "bloom_miss", kind="bloom_filter"),
    Operation("map_push_elem", "stack_push", kind="stack", after="stack_pop"),
    Operation("map_pop_elem", "stack_pop", kind="stack", before="stack_push"),
    Operation("map_lookup_elem", "lookup_array_of_maps", kind="array_of_maps"),
    Operation("map_lookup_elem", "lookup_hash_of_maps", kind="hash_of_maps"),
)
XDP_CALLS = (*(Operation(name) for name in XDP_HELPERS), Operation("redirect_map", kind="devmap"))


def measure_floors(project: Path, progress: Progress = lambda *_: None) -> PriceList:
    """The price list of this machine, in about 15 s; `project` is the folder whose commit is noted.

    MeasurementError when an operation did not do what it is priced for; NeedsRoot without the rights.
    """
    parts: list[tuple[str, Callable[[], list[Price]]]] = [
        ("helpers under tc", lambda: prices_of_calls(CALLS, "tc")),
        ("helpers under XDP", lambda: prices_of_calls(XDP_CALLS, "xdp")),
    ]
    for table in TABLES:
        for entries in table.entries:
            parts.append((f"{table.kind}, {entries:,} entries", partial(prices_of_table, table, entries)))
    prices: list[Price] = []
    with journal(), isolated():
        for done, (name, measured) in enumerate(parts):
            progress(name, done, len(parts))
            prices += measured()
    return PriceList(datetime.now(UTC).isoformat(timespec="seconds"), read_environment(project), tuple(prices))


def prices_of_table(table: Table, entries: int) -> list[Price]:
    """The table's operations at one number of entries."""
    from lab import bpf

    flags = (f"-DKIND=BPF_MAP_TYPE_{table.kind.upper()}", *filter(None, [table.flag]))
    room = entries if table.flag == "-DINDEXED" else entries + SPARE
    with ExitStack() as stack:
        path = instruments.path("floor_table")
        loaded = stack.enter_context(bpf.load(path, max_entries={"table": room}, cflags=flags))
        driver = stack.enter_context(driver_for(loaded.programs["control"], _frame(PAIR)))
        _fill(driver, loaded, entries)
        return [_price(row, table.kind, entries, _measured(driver, loaded, row, entries)) for row in table.operations]


def prices_of_calls(rows: tuple[Operation, ...], hook: str) -> list[Price]:
    """Helpers and calls under "tc" or "xdp", inside a namespace that forwards."""
    from lab import bpf
    from lab.kernel import netns
    from lab.traffic.network import Network

    with ExitStack() as stack:
        network = stack.enter_context(Network(CHAIN))
        if hook == "xdp":
            loaded = stack.enter_context(bpf.load(instruments.path("floor_xdp")))
            loaded.maps["devices"][0] = network.interface("middle/eth1")
        else:
            ingress, destination = network.interface("middle/eth0").ifindex, str(CHAIN.address("right", 4))
            loaded = bpf.load(instruments.path("floor_call"), ingress=ingress, destination=destination)
            stack.enter_context(loaded)
            _furnish(loaded)
        driver = stack.enter_context(driver_for(loaded.programs["control"], _frame(CHAIN)))
        stack.enter_context(netns.inside(network["middle"].netns_fd))
        return [_price(row, row.kind, 0, _measured(driver, loaded, row, SPARE)) for row in rows]


def _frame(topology: Topology) -> bytes:
    from lab.traffic import frames

    return bytes(frames.udp(topology, "left", "right", dst_port=9, payload=bytes(18)))


def _furnish(loaded: Program) -> None:
    """Gives the maps what their operations are to find; opens the buffers, since a closed one takes no events."""
    for outer in ("array_of_maps", "hash_of_maps"):
        loaded.maps[outer][0] = loaded.maps[outer].new_inner()
    for buffer in ("ring", "events"):
        loaded.maps[buffer].drain()


def _price(row: Operation, kind: str, entries: int, found: Estimate) -> Price:
    return Price(row.name, kind, entries, found.value, found.low, found.high)


def _fill(driver: Driver, loaded: Program, entries: int) -> None:
    loaded.globals["held"] = entries
    if "insert" in loaded.programs:
        slot = driver.place(loaded.programs["insert"])
        driver.run(slot, -(-entries // TIMES))
        driver.clear(slot)
        loaded.globals["gone"] = loaded.globals["fresh"]


def _measured(driver: Driver, loaded: Program, row: Operation, entries: int) -> Estimate:
    """The operation's price in ns, over LOADS fresh loads."""
    samples = []
    for _ in range(LOADS):
        with ExitStack() as stack:
            driver.renew()
            slots = {}
            for name in {row.control, row.program or row.name, row.before, row.after} - {""}:
                fresh = stack.enter_context(loaded.programs[name].again())
                slots[name] = driver.place(fresh)
                stack.callback(driver.clear, slots[name])
                if row.kind == "prog_array" and name != row.control:
                    loaded.maps["self"][0] = fresh
            arms = _Arms(driver, loaded, row, slots)
            samples.append(arms.difference(entries) / TIMES)
    if failed := loaded.globals["failed"]:
        raise MeasurementError(f"price {row.name}: {failed:,} times it did something else")
    return estimate(samples)


@dataclass(frozen=True)
class _Arms:
    """One load of a row's programs, in slots of a driver."""

    driver: Driver
    loaded: Program
    row: Operation
    slots: dict[str, int]

    def difference(self, entries: int) -> float:
        """ns a run that the operations take longer than the control: the median over turns.

        The only place that times anything. Before, `entries` entries are met: what fits into the caches is there.
        """
        if not (self.row.before or self.row.after):
            self.operate(-(-min(entries, WARMED) // TIMES) or 1)
        rounds = max(FEWEST, min(self.row.most_rounds, int(BATCH_NS / (self.operate(FEWEST) / FEWEST))))
        differences = []
        for turn in range(TURNS):
            without = self.control(rounds) if turn % 2 else 0
            spent = self.operate(rounds)
            differences.append((spent - (without or self.control(rounds))) / rounds)
        return median(differences)

    def control(self, rounds: int) -> int:
        """ns for so many rounds of all but the operations."""
        return self.driver.run(self.slots[self.row.control], rounds)

    def operate(self, rounds: int) -> int:
        """ns for so many rounds; what goes before and after takes its time, too, but is not counted."""
        row = self.row
        if row.before:
            self.driver.run(self.slots[row.before], rounds)
        spent = self.driver.run(self.slots[row.program or row.name], rounds)
        if row.after:
            self.driver.run(self.slots[row.after], rounds)
        if row.drains:
            self.loaded.maps[row.drains].drain()
        return spent
