"""What one operation costs on one machine: the price list that a program's cost is explained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

from lab.model.run import Environment

SCHEMA = 1
ALIKE = ("kernel", "cpu", "cpus", "bpf_jit")
"""Two environments in which these are equal have the same prices."""


@dataclass(frozen=True)
class Price:
    """ns that one operation costs, with the interval in which it lies.

    `operation` is a helper's name without "bpf_" ("map_lookup_elem", "ktime_get_ns"), with ", missing" for a lookup
    that finds nothing; `kind` the type of its map in bpftool's spelling, "" for none. `entries` is how many the map
    holds, visited so that the processor's caches do not know what comes next; 0 where that does not matter.
    """

    operation: str
    kind: str
    entries: int
    ns: float
    low: float
    high: float


@dataclass(frozen=True)
class PriceList:
    """The prices of one machine, in the order in which they were measured; `taken` is an ISO 8601 time."""

    taken: str
    environment: Environment
    prices: tuple[Price, ...]

    def holds_in(self, environment: Environment) -> bool:
        """Whether it is the price list of that machine and kernel, too."""
        return all(getattr(self.environment, name) == getattr(environment, name) for name in ALIKE)

    def ns(self, operation: str, kind: str = "", entries: int = 0) -> float | None:
        """The price of an operation, None where it is not on the list.

        Between two numbers of entries that were measured the price grows with the number's logarithm; beyond the
        largest it is the largest's.

        >>> PriceList("", ..., (Price("f", "hash", 1, 30, 0, 0), Price("f", "hash", 4, 50, 0, 0))).ns("f", "hash", 2)
        40.0
        """
        known = sorted(
            (each.entries, each.ns) for each in self.prices if (each.operation, each.kind) == (operation, kind)
        )
        if not known:
            return None
        below = [each for each in known if each[0] <= entries] or known[:1]
        above = [each for each in known if each[0] >= entries] or known[-1:]
        (fewer, low), (more, high) = below[-1], above[0]
        if fewer == more:
            return low
        return low + (high - low) * log2(entries / fewer) / log2(more / fewer)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PriceList:
        """The list that `as_dict` wrote; ValueError for a schema that this version does not know."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')} is not {SCHEMA}, the one this version reads")
        prices = tuple(Price(**each) for each in data["prices"])
        return cls(data["taken"], Environment(**data["environment"]), prices)
