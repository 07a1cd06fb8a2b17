"""A table as data: who shows it decides how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Raw values in rows: a terminal aligns and colours them, a pipe gets plain columns, --json the values.

    >>> Table("sources", ("source", "packets"), [("10.0.0.1", 3)]).records()
    [{'source': '10.0.0.1', 'packets': 3}]
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    """A sentence below it: what was left out, what the figures are."""

    def records(self) -> list[dict[str, Any]]:
        """One dict a row, by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]
