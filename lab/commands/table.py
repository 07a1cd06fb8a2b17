"""Tables for people: rich in a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click

# Colours that differ in brightness too, so that no reader depends on telling red from green; the word says it anyway.
STYLES: Mapping[str, str] = {"yes": "cyan", "no": "bold yellow", "unknown": "magenta", "NO": "bold reverse yellow"}


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under headings; a cell that is one of STYLES' words is coloured in a terminal."""
    if sys.stdout.isatty():
        _print_rich(headings, rows)
    else:
        _print_plain(headings, rows)


def _print_rich(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns[:-1]:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(table)


def _print_plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for row in (headings, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
