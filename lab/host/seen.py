"""What any program has seen, read from its maps alone: for programs whose companion does not say it better."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from lab.bpf import map as maps
from lab.bpf.event_map import EventMap
from lab.errors import LabError, WaitTimeout
from lab.host.plain import cell, is_zero
from lab.model.table import Table

if TYPE_CHECKING:
    from lab.bpf.program import Program

SHOWN = 20
VERDICTS = "verdicts"
"""The map of lab/verdict.h: packets and bytes by verdict."""


def tables(program: Program) -> list[Table]:
    """One table a map that has entries, the verdicts first."""
    found = [_table(name, each) for name, each in _readable(program).items()]
    return sorted((each for each in found if each.rows), key=lambda each: each.title != VERDICTS)


def events(program: Program) -> Iterator[Any]:
    """The events of all its buffers as they come, and None whenever there was none for a while."""
    buffers = event_maps(program)
    while True:
        came = [event for each in buffers for event in each.drain()]
        yield from came
        if not came:
            try:
                yield from buffers[0].events(within_s=0.2)
            except WaitTimeout:
                yield None


def event_maps(program: Program) -> list[EventMap]:
    """Its ring and perf buffers."""
    return [each for each in program.maps.values() if isinstance(each, EventMap)]


def summary(program: Program) -> str:
    """A sentence: packets by verdict, or how many entries each map has."""
    readable = _readable(program)
    if VERDICTS in readable:
        counts = {cell(key): value.total() for key, value in readable[VERDICTS].items()}
        told = [f"{name} {_packets(count)}" for name, count in counts.items() if not is_zero(count)]
        return ", ".join(told) or "no packet"
    told = [f"{name}: {_entries(len(table.rows))}" for name, table in _all_tables(readable).items() if table.rows]
    return ", ".join(told) or "nothing in its maps"


def _all_tables(readable: dict[str, Any]) -> dict[str, Table]:
    return {name: _table(name, each, most=None) for name, each in readable.items()}


def _readable(program: Program) -> dict[str, Any]:
    """The maps with entries of plain values."""
    return {name: each for name, each in program.maps.items() if type(each).__name__ in ("Table", "PerCpuMap")}


def _table(name: str, entries: maps.Table, most: int | None = SHOWN) -> Table:
    """The first entries; those of an array only where something was written."""
    skip_zero = entries.facts.type in maps.ARRAYS
    try:
        written = [pair for pair in entries.items() if not (skip_zero and is_zero(pair[1]))]
    except LabError as error:
        return Table(name, ("",), [(str(error),)])
    shown = list(islice(written, most))
    note = f"{len(written) - len(shown):,} more" if len(written) > len(shown) else ""
    fields = _fields(shown)
    rows = [(cell(key), *(_values(value, fields))) for key, value in shown]
    return Table(name, ("key", *(fields or ("value",))), rows, note)


def _fields(shown: list[tuple[Any, Any]]) -> tuple[str, ...]:
    """A column a field, where values are structs."""
    return getattr(_summed(shown[0][1]), "fields", ()) if shown else ()


def _values(value: Any, fields: tuple[str, ...]) -> tuple[Any, ...]:
    one = _summed(value)
    return tuple(one) if fields else (one,)


def _summed(value: Any) -> Any:
    return value.total() if hasattr(value, "total") else value


def _packets(count: Any) -> str:
    if hasattr(count, "packets"):
        return f"{count.packets:,} packets" + (f" ({count.bytes:,} bytes)" if hasattr(count, "bytes") else "")
    return cell(count)


def _entries(number: int) -> str:
    return f"{number:,} entr{'y' if number == 1 else 'ies'}"
