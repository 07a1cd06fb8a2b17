"""What a packet pays for, as a bar: each kind of call at its price, and what is left for the program's own code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lab.model.measurement import Measurement
from lab.report.quantity import plain, quantity
from lab.report.sound import is_number

HEIGHT = 12
LEAST_SHARE = 0.02
"""Of the bar; smaller parts are told in words only."""
MARK = "pays for "
"""What the remark with the whole bill begins with."""
COLOURS = 4


@dataclass(frozen=True)
class Item:
    """One kind of call, and what all of them cost a packet."""

    what: str
    ns: float


def sentence(measurement: Measurement) -> str:
    """The bill in words, "" where prices were not known."""
    return next((remark for remark in measurement.remarks if remark.startswith(MARK)), "").removeprefix(MARK)


def remarks(measurement: Measurement) -> list[str]:
    """All that was remarked but for the bill."""
    return [remark for remark in measurement.remarks if not remark.startswith(MARK)]


def bill_bar(measurement: Measurement) -> Markup:
    """The cost from end to end, calls first, the program's own code last; nothing where there is no bill.

    Calls that the processor did at once may add up to more than the cost: then their sum is the whole bar.
    """
    items = _items(measurement)
    cost = measurement.summary[measurement.headline]
    paid = sum(item.ns for item in items)
    whole = max(cost, paid)
    if not items or whole <= 0:
        return Markup("")
    rest = [Item("the program's own code", whole - paid)] if paid < cost else []
    parts, across = [], 0.0
    for index, item in enumerate(items + rest):
        share = item.ns / whole
        kind = "own" if item in rest else f"paid-{index % COLOURS}"
        parts.append(_part(kind, across, share, f"{item.what}: {quantity(item.ns, 'ns')} of {plain(cost)} ns"))
        across += share
    return Markup('<svg class="bill" height="{}" role="img" aria-label="{}">{}</svg>').format(
        HEIGHT, sentence(measurement), Markup("").join(parts)
    )


def _items(measurement: Measurement) -> list[Item]:
    """As the first trial that has any stores them."""
    for trial in measurement.trials:
        rows = trial.facts.get("bill")
        if isinstance(rows, list | tuple):
            return [Item(str(row.get("what", "")), row["ns"]) for row in rows if _is_row(row)]
    return []


def _is_row(row: object) -> bool:
    return isinstance(row, Mapping) and is_number(row.get("ns")) and row["ns"] > 0


def _part(kind: str, across: float, share: float, title: str) -> Markup:
    if share < LEAST_SHARE:
        return Markup("")
    return Markup('<rect class="{}" x="{}%" width="{}%" height="{}"><title>{}</title></rect>').format(
        kind, round(100 * across, 2), round(100 * share, 2), HEIGHT, title
    )
