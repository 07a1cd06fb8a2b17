"""Shows what a program sees: live in a terminal, as plain columns in a pipe, or as JSON, a line each time."""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from lab.host.options import stop_held
from lab.host.plain import cell, plain
from lab.model.table import Table


def views(view: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """What the companion's view gives whenever it is asked: by a call each, or by one generator."""
    if inspect.isgeneratorfunction(view):
        yield from view(*arguments, **options)
        return
    while True:
        yield view(*arguments, **options)


def show_live(shown: Iterator[Any], every_s: float, until: float) -> None:
    """Prints or redraws until the moment `until` (time.monotonic), or for as long as there is something to show."""
    if not sys.stdout.isatty():
        for each in paced(shown, every_s, until):
            show(each)
            click.echo()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), auto_refresh=False) as screen:
        for each in paced(shown, every_s, until):
            with stop_held():
                screen.update(_drawing(each), refresh=True)


def stream_json(shown: Iterator[Any], every_s: float, until: float) -> None:
    """A line each time: an object or array of its own."""
    for each in paced(shown, every_s, until):
        show_json(each)


def show_json(value: Any) -> None:
    """One line; Tables by their records."""
    click.echo(json.dumps(as_json(value)))
    sys.stdout.flush()


def as_json(value: Any) -> Any:
    """A Table is {title: its records}; several are one object; anything else is as `plain` has it."""
    if isinstance(value, Table):
        return {value.title: plain(value.records())}
    if isinstance(value, list | tuple) and value and all(isinstance(each, Table) for each in value):
        return {each.title: plain(each.records()) for each in value}
    return plain(value) if not hasattr(value, "__rich_console__") else str(value)


def show(value: Any) -> None:
    """Once, on standard output."""
    if sys.stdout.isatty():
        _console().print(_drawing(value))
    elif _is_tables(value):
        for each in _tables(value):
            _print_plain(each)
    elif isinstance(value, str):
        click.echo(value)
    else:
        _console().print(value)
    sys.stdout.flush()


def paced(shown: Iterator[Any], every_s: float, until: float) -> Iterator[Any]:
    """One each period; the first at once."""
    due = time.monotonic()
    for each in shown:
        yield each
        due += every_s
        if due > until:
            return
        time.sleep(max(0.0, due - time.monotonic()))  # a person's refresh rate, no wait for a condition


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _drawing(value: Any) -> Any:
    from rich.console import Group

    if _is_tables(value):
        return Group(*(_drawn(each) for each in _tables(value)))
    return value


def _is_tables(value: Any) -> bool:
    return isinstance(value, Table) or (
        isinstance(value, list | tuple) and all(isinstance(each, Table) for each in value)
    )


def _tables(value: Any) -> list[Table]:
    return [value] if isinstance(value, Table) else list(value) or [Table("nothing yet", (), [])]


def _drawn(table: Table) -> Any:
    from rich import table as rich_table
    from rich.console import Group
    from rich.text import Text

    drawn = rich_table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(table.columns):
        drawn.add_column(name, justify="right" if _is_numeric(table, place) else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell(each)) for each in row))
    return Group(
        Text(table.title, "bold"), *([drawn] if table.columns else []), *([Text(table.note)] if table.note else [])
    )


def _print_plain(table: Table) -> None:
    rows = [table.columns, *([cell(each) for each in row] for row in table.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    right = [_is_numeric(table, place) for place in range(len(table.columns))]
    click.echo(table.title)
    for row in rows if table.columns else ():
        cells = (
            each.rjust(width) if end else each.ljust(width) for each, width, end in zip(row, widths, right, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
    if table.note:
        click.echo(table.note)


def _is_numeric(table: Table, place: int) -> bool:
    return bool(table.rows) and all(isinstance(row[place], int | float) for row in table.rows)
