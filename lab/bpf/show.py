"""Values of maps as the reader of a difference wants them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from lab.bpf.record import PerCpu, Record

SHOWN_LETTERS = 160


def show(value: Any) -> str:
    """Records by their fields, enums by name, addresses as text, per-CPU values by their total; long ones cut.

    >>> show(PerCpu([2, 3]))
    '5 in all'
    """
    text = _text(value)
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."


def show_entries(entries: Iterable[tuple[Any, Any]]) -> list[str]:
    """One line an entry."""
    return [f"{show(key)}: {show(value)}" for key, value in entries] or ["no entries"]


def show_whole(entry: tuple[Any, Any]) -> str:
    """A line that is not cut."""
    return f"{_text(entry[0])}: {_text(entry[1])}"


def shorten(lines: list[str], most: int) -> list[str]:
    """The first `most` lines, and how many there were more."""
    return lines if len(lines) <= most else [*lines[:most], f"... {len(lines) - most:,} more"]


def _text(value: Any) -> str:
    if isinstance(value, Record):
        return "{" + ", ".join(f"{name}: {_text(each)}" for name, each in value.named()) + "}"
    if isinstance(value, PerCpu):
        return f"{_text(value.total())} in all"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, Enum):
        return value.name
    return str(value) if hasattr(value, "packed") else repr(value)
