"""`lab bench`: measurements of this machine, apart from any program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.commands.table import print_table
from lab.project import find_project

if TYPE_CHECKING:
    from lab.bench.floors import Progress
    from lab.model.price import Price, PriceList


@click.group("bench")
def command() -> None:
    """Measure this machine, apart from any program."""


@command.command("floors")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of floors.json.  [default: reports]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for other programs.")
def floors(out: Path | None, as_json: bool) -> None:
    """The price of each map operation and helper in ns, on this machine.

    Takes about 15 s, in which nothing else should run. The list is stored as reports/floors.json: from then on a
    program's cost is stated with the operations that it pays for.
    """
    from lab.bench.floors import measure_floors
    from lab.bench.price_file import write_prices

    project = find_project(Path.cwd())
    with _progress() as progress:
        prices = measure_floors(project, progress)
    written = write_prices(prices, out or project / "reports")
    if as_json:
        click.echo(json.dumps(prices.as_dict(), indent=2))
        return
    _print(prices)
    click.echo(f"\nThe list is stored in {written}")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar that says what is being measured, on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=shown, transient=True, disable=not sys.stderr.isatty(), auto_refresh=False) as bar:
        task = bar.add_task("")

        def show(part: str, done: int, parts: int) -> None:
            bar.update(task, description=part, completed=done, total=parts, refresh=True)

        yield show


def _print(prices: PriceList) -> None:
    about = prices.environment
    click.echo(f"{about.cpu}, Linux {about.kernel}; ns, by PROG_RUN against a control, 95 % interval\n")
    calls = [each for each in prices.prices if not each.entries]
    print_table(
        ("helper or call", "map", "ns", "interval"), [(each.operation, each.kind, *_figures(each)) for each in calls]
    )
    tables = [each for each in prices.prices if each.entries]
    click.echo()
    print_table(
        ("operation", "map", "entries", "ns", "interval"),
        [(each.operation, each.kind, f"{each.entries:>9,}", *_figures(each)) for each in tables],
    )


def _figures(price: Price) -> tuple[str, str]:
    return f"{price.ns:z7.1f}", f"{price.low:z.1f} to {price.high:z.1f}"
