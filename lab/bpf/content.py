"""What a map holds, as far as a reader wants to see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.bpf.map import ARRAYS, Table
from lab.bpf.matcher import any_bit
from lab.bpf.record import PerCpu
from lab.bpf.show import show_entries

MOST_ENTRIES = 40
MOST_LOOKED_AT = 65_536


@dataclass(frozen=True)
class Content:
    """The first entries, those of an array that are zero left out; per-CPU values as their total."""

    entries: tuple[tuple[Any, Any], ...]
    lines: tuple[str, ...]
    """The same for a reader, in the order of the keys' text, and how many there are more."""


def content_of(table: Table, most: int = MOST_ENTRIES) -> Content:
    """What is in it now; of a very large map, of its first 65,536 entries. MapError as for any reading."""
    entries: list[tuple[Any, Any]] = []
    looked_at = more = 0
    for keys, values, count in table.raw_entries():
        looked_at += count
        decoded = zip(table.key_layout.decode_many(keys), table.decode_values(values), strict=True)
        told = [(key, value) for key, value in decoded if table.facts.type not in ARRAYS or any_bit(value)]
        more += max(0, len(told) + len(entries) - most)
        entries += told[: most - len(entries)]
        if looked_at >= MOST_LOOKED_AT:
            break
    lines = sorted(show_entries(entries)) if entries else []
    plain = tuple((key, value.total() if isinstance(value, PerCpu) else value) for key, value in entries)
    return Content(plain, (*lines, *([f"... {more:,} more"] if more else [])))
