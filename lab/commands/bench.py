"""`lab bench`: measurements of this machine, apart from any program."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.project import find_project


@click.group("bench")
def command() -> None:
    """Measure this machine, apart from any program."""


@command.command("floors")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for other programs.")
def floors(as_json: bool) -> None:
    """The price of each map operation and helper in ns, on this machine; takes about 20 s."""
    from lab.bench.floors import measure_floors

    prices = measure_floors(find_project(Path.cwd()))
    if as_json:
        click.echo(json.dumps(prices.as_dict(), indent=2))
        return
    for each in prices.prices:
        click.echo(
            f"{each.operation:30} {each.kind:16} {each.entries:10,} {each.ns:8.1f} {each.low:8.1f} {each.high:8.1f}"
        )
