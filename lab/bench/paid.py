"""What a program pays for on the way of a frame: which helpers it calls, on which maps, how often, at which price.

A twin of the program (`lab.bpf.twin`) meets the frame's flows in a driver, as in a measurement of its cost, on the
program's own maps; it writes to them as the program would. The prices are those of `lab bench floors`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.bench.driver import driver_for
from lab.bench.environment import read_environment
from lab.bench.price_file import prices_for
from lab.bpf.instructions import Instruction, read
from lab.bpf.names import map_type
from lab.bpf.twin import Call, Twin
from lab.errors import LabError, LoadError
from lab.kernel import bpf
from lab.model.bill import Bill, Paid
from lab.model.measurement import Measurement
from lab.model.price import PriceList
from lab.project import find_project
from lab.traffic.flow_fields import PORT_BITS

if TYPE_CHECKING:
    from lab.bpf.program import Program

FEWEST_ROUNDS, MOST_ROUNDS = 256, 16_384
INCLUDED = ("spin_unlock", "ringbuf_submit", "ringbuf_discard")
"""Whose price is in that of the call before them."""
MISSING = "map_lookup_elem, missing"
SAME_PRICE = {
    **{"lru_percpu_hash": "lru_hash", "queue": "stack"},
    **dict.fromkeys(("devmap_hash", "cpumap", "xskmap"), "devmap"),
}


def paid_for(
    program: Program, frame: Any, prices: PriceList, *, flows: Iterable[int] = (1,), port_bits: int = PORT_BITS
) -> list[Bill]:
    """The calls that a packet makes, for each number of flows, each flow seen before; takes about 0.1 s.

    Where the kernel refuses the twin, what stands in the program's code. MeasurementError for types of programs that
    have no driver, LoadError for a program that BCC loaded.
    """
    every = read(program.code)
    try:
        twin = Twin(program)
    except LoadError:
        return [_uncounted(every, prices) for _ in flows]
    with twin:
        return [_bill(program, twin, frame, prices, count, port_bits) for count in flows]


def with_bills(measured: Sequence[Measurement], program: Program, frame: Any, port_bits: int) -> list[Measurement]:
    """Costs with a remark on what they were paid for, if `lab bench floors` was run on this machine; never an error."""
    try:
        prices = prices_here()
        if prices is None:
            return list(measured)
        flows = [each.trials[0].facts["flows"] for each in measured]
        bills = paid_for(program, frame, prices, flows=flows, port_bits=port_bits)
    except (LabError, OSError):
        return list(measured)
    return [_with_bill(each, bill) for each, bill in zip(measured, bills, strict=True)]


def _with_bill(measured: Measurement, bill: Bill) -> Measurement:
    """The bill in words as a remark; where its calls were counted, row by row in the facts of the first trial too."""
    said = bill.sentence(measured.summary[measured.headline])
    if not bill.counted:
        return replace(measured, remarks=(*measured.remarks, said))
    rows = [{"what": str(row), "ns": round(row.ns, 3)} for row in bill.by_kind()]
    first, *others = measured.trials
    return replace(
        measured,
        remarks=(*measured.remarks, f"pays for {said}"),
        trials=(replace(first, facts={**first.facts, "bill": rows}), *others),
    )


@cache
def prices_here() -> PriceList | None:
    """The price list of this machine, in the project around the current folder; None without one. Read once."""
    project = find_project(Path.cwd())
    return prices_for(read_environment(project), project / "reports")


def _bill(program: Program, twin: Twin, frame: Any, prices: PriceList, flows: int, port_bits: int) -> Bill:
    rounds = max(FEWEST_ROUNDS, min(flows, MOST_ROUNDS))
    with driver_for(program, frame, flows=flows, port_bits=port_bits) as driver:
        slot = driver.place(twin.program)
        driver.meet_every_flow(slot)
        twin.reset()
        driver.run(slot, rounds)
        driver.check(program.name)
        rows = _priced(twin.calls(), prices, rounds, flows)
    return Bill(sorted(rows, key=lambda row: (-row.ns, row.operation, row.kind)))


def _uncounted(every: Sequence[Instruction], prices: PriceList) -> Bill:
    sites = Counter(each.callee for each in every if each.callee and each.callee not in INCLUDED)
    return Bill([Paid(name, "", 0, many, prices.ns(name)) for name, many in sites.items()], counted=False)


def _priced(calls: Sequence[Call], prices: PriceList, rounds: int, flows: int) -> list[Paid]:
    """One row for each operation on maps of one kind and size."""
    times: defaultdict[tuple[str, str, int], int] = defaultdict(int)
    for call in calls:
        kind = map_type(bpf.map_facts(call.map_fd)[0]) if call.map_fd >= 0 else ""
        if call.times and call.callee not in INCLUDED:
            met = _met(call, rounds, flows) if kind else 0
            for operation, many in _outcomes(call):
                times[operation, kind, met] += many
    return [
        Paid(operation, kind, met, many / rounds, prices.ns(operation, SAME_PRICE.get(kind, kind), met))
        for (operation, kind, met), many in times.items()
    ]


def _outcomes(call: Call) -> Iterator[tuple[str, int]]:
    """Lookups that find nothing have a price of their own."""
    if call.callee == "map_lookup_elem" and call.empty:
        yield MISSING, call.empty
    if call.times > call.empty or call.callee != "map_lookup_elem":
        yield call.callee, call.times - (call.empty if call.callee == "map_lookup_elem" else 0)


def _met(call: Call, rounds: int, flows: int) -> int:
    """About how many different entries all flows meet at this call."""
    most = max(1, min(flows, bpf.map_facts(call.map_fd)[4]))
    if not call.entries:  # no lookup, or one that found nothing: each flow another
        return most
    if flows <= rounds:  # each came at least once
        return min(most, call.entries)
    return min(most, _population(call.entries, call.times - call.empty, most))


def _population(different: int, drawn: int, most: int) -> int:
    """How many there are, `most` at most, if `drawn` draws gave so many different ones.

    different = all (1 - exp(-drawn / all)), the expectation of draws with replacement.
    """
    low, high = different, max(different, most)
    while low < high:
        middle = (low + high) // 2
        if middle * (1 - exp(-drawn / middle)) < different:
            low = middle + 1
        else:
            high = middle
    return low
