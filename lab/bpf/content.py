"""What a map holds, as far as a reader wants to see it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

from lab.bpf.map import ARRAYS, Table
from lab.bpf.record import PerCpu
from lab.bpf.show import show, show_entries, show_whole

MOST_ENTRIES = 40
MOST_LOOKED_AT = 1 << 20


@dataclass(frozen=True)
class Content:
    """The entries with the smallest keys, those of an array that are zero left out; per-CPU values as their total."""

    entries: tuple[tuple[Any, Any], ...]
    lines: tuple[str, ...]
    """The same for a reader, in the order of the keys, and how many there are more."""
    whole: tuple[str, ...]
    """The same, with nothing cut: to be compared."""


def content_of(table: Table, most: int = MOST_ENTRIES) -> Content:
    """What is in it now; of a very large map, of its first million of entries. MapError as for any reading.

    A hash has an order of its own each time: of two that hold the same, the same entries are chosen.
    """
    pairs = list(_pairs(table))
    chosen = nsmallest(most, pairs, key=lambda pair: pair[0][::-1])  # numbers are little-endian
    entries = [(table.key_layout.decode(key), table.decode_values(value)[0]) for key, value in chosen]
    entries.sort(key=lambda entry: _order(entry[0]))
    more = [f"... {len(pairs) - most:,} more"] if len(pairs) > most else []
    plain = tuple((key, value.total() if isinstance(value, PerCpu) else value) for key, value in entries)
    lines = show_entries(entries) if entries else []
    return Content(plain, (*lines, *more), (*map(show_whole, entries), *more))


def _pairs(table: Table) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values as the kernel has them."""
    left = MOST_LOOKED_AT
    for keys, values, count in table.raw_entries():
        key_bytes, value_bytes = len(keys) // count, len(values) // count
        for place in range(min(count, left)):
            value = values[place * value_bytes : (place + 1) * value_bytes]
            if table.facts.type not in ARRAYS or any(value):
                yield keys[place * key_bytes : (place + 1) * key_bytes], value
        left -= count
        if left <= 0:
            return


def _order(key: Any) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (0, show(key))
