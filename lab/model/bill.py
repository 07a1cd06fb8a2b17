"""What a program pays for: the calls of one packet, each at its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOUNS: Mapping[str, str] = {
    "map_lookup_elem": "lookup",
    "map_update_elem": "update",
    "map_delete_elem": "delete",
    "call": "function call",
    "tail_call": "tail call",
    "spin_lock": "spin lock",
}
SHOWN_NS = 1.0
"""What costs less is counted, and not named."""
SHOWN_TIMES = 0.01
OVERLAPPING = 1.1
"""Times the cost: a sum that is larger needs an explanation."""


@dataclass(frozen=True)
class Paid:
    """One kind of call: how often a packet makes it on average, and what it costs each time.

    `operation` and `kind` are those of `lab.model.price.Price`; `entries` is how many different ones of the map's are
    met, 0 where that does not matter. `ns_each` is None where the price list has no such operation.
    """

    operation: str
    kind: str
    entries: int
    times: float
    ns_each: float | None

    @property
    def ns(self) -> float:
        """A packet; 0 where there is no price."""
        return self.times * (self.ns_each or 0.0)

    def __str__(self) -> str:
        helper, _, how = self.operation.partition(", ")
        noun = NOUNS.get(helper, helper)
        plural = "s" * (helper in NOUNS and round(self.times, 2) != 1 and not noun.endswith("s"))
        words = (f"{round(self.times, 2):g}", *([self.kind] if helper.startswith("map_") else []), noun + plural)
        return " ".join(words) + (f" ({how})" if how else "")


@dataclass(frozen=True)
class Bill:
    """The calls of one packet, the dearest first; not `counted`: those in the code, which a packet may make or not."""

    rows: Sequence[Paid]
    counted: bool = True

    @property
    def ns(self) -> float:
        """The sum of all that has a price, as if one waited for the other."""
        return sum(each.ns for each in self.rows)

    def sentence(self, cost_ns: float) -> str:
        """ "2 hash lookups, 1 ktime_get_ns, 4 calls below 1 ns = 95 of 118 ns": beside a cost of 118 ns a packet."""
        rows = self.by_kind()
        if not self.counted:
            said = ", ".join(map(str, rows)) or "no calls"
            return f"its code has {said}; how often a packet makes them could not be counted"
        named = [str(each) for each in rows if each.ns_each is not None and each.ns >= SHOWN_NS]
        small = sum(each.times for each in rows if each.ns_each is not None and each.ns < SHOWN_NS)
        if small >= SHOWN_TIMES:
            named.append(f"{round(small, 2):g} call{'s' * (round(small, 2) != 1)} below {SHOWN_NS:.0f} ns")
        unknown = [f"{each} (no price)" for each in rows if each.ns_each is None]
        if not named:
            return f"no calls that have a price{''.join(f', {each}' for each in unknown)}"
        whole = f"{', '.join(named + unknown)} = {self.ns:.0f} of {cost_ns:.0f} ns"
        return whole + (" (one by one; the processor did some at once)" if self.ns > OVERLAPPING * cost_ns else "")

    def by_kind(self) -> list[Paid]:
        """One row for each operation and kind of map, the dearest first; `entries` does not matter then."""
        kinds: dict[tuple[str, str], list[Paid]] = {}
        for each in self.rows:
            kinds.setdefault((each.operation, each.kind), []).append(each)
        merged = [_merged(rows) for rows in kinds.values()]
        return sorted(merged, key=lambda row: (-row.ns, row.operation, row.kind))


def _merged(rows: Sequence[Paid]) -> Paid:
    times = sum(each.times for each in rows)
    known = all(each.ns_each is not None for each in rows) and times
    each_ns = sum(each.ns for each in rows) / times if known else None
    return Paid(rows[0].operation, rows[0].kind, 0, times, each_ns)
