"""`lab calibrate`: what the instruments recover, on this machine, of causes that were put in on purpose."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import click

from lab.commands.folded import folded
from lab.errors import NeedsRoot, StoreError
from lab.kernel import capabilities
from lab.model.calibration import Bar, Calibration
from lab.project import find_project

INSTRUMENTS = {
    "comparison": "equals are equal, slowdowns are found",
    "noisy": "comparisons beside a busy neighbour",
    "delay": "injected delays, by three methods",
    "throughput": "rates, losses and floods",
    "overhead": "what stays on when nothing is measured",
}
"""Modules of lab.calibration, in the order in which they run."""
INDENT = " " * 10
"""Of what stands behind "held" and "MISSED"."""


@click.command("calibrate")
@click.option("--only", type=click.Choice(list(INSTRUMENTS)), multiple=True, help="Not all of them; nothing is stored.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(only: tuple[str, ...], as_json: bool) -> int:
    """Put known causes in, and see what the lab makes of them: minutes, on a machine that does nothing else.

    The table is kept in reports/calibration.json, and the report shows it. Exit status 1 when a bar was missed.
    """
    if lacking := capabilities.lacking():
        raise NeedsRoot(f"calibrate: it needs {' and '.join(lacking)}", mend="sudo lab calibrate")
    started, clock = datetime.now(UTC), time.monotonic()
    bars = [bar for name in only or INSTRUMENTS for bar in _run(name, quiet=as_json)]
    if as_json:
        click.echo(json.dumps([{"what": b.what, "bar": b.bar, "reached": b.reached, "held": b.held} for b in bars]))
    if not only:
        _store(bars, started, time.monotonic() - clock)
    missed = sum(not bar.held for bar in bars)
    click.echo(f"{len(bars) - missed} of {len(bars)} bars held, in {time.monotonic() - clock:.0f} s", err=True)
    return 1 if missed else 0


def _run(name: str, *, quiet: bool) -> list[Bar]:
    module = import_module(f"lab.calibration.{name}")
    if not quiet:
        click.secho(f"{name}: {INSTRUMENTS[name]}", bold=True)
    found = []
    _say_alive(quiet=quiet)
    for bar in module.bars():
        found.append(bar)
        if not quiet:
            _wipe()
            _print(bar)
        _say_alive(quiet=quiet)
    _wipe()
    return found


def _say_alive(*, quiet: bool) -> None:
    """A bar takes up to a minute: a terminal is told that one is being measured."""
    if sys.stderr.isatty() and not quiet:
        click.echo("  measuring ...", nl=False, err=True)


def _wipe() -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)


def _print(bar: Bar) -> None:
    word = click.style("held  ", fg="cyan") if bar.held else click.style("MISSED", fg="yellow", bold=True)
    told = folded(f"{bar.what}: {bar.reached}", first=INDENT, indent=INDENT)
    took = f"; {bar.duration_s:.0f} s" if bar.duration_s else ""
    click.echo(f"  {word}  {told.removeprefix(INDENT)}")
    click.echo(folded(f"bar: {bar.bar}{took}", first=INDENT, indent=INDENT))
    sys.stdout.flush()


def _store(bars: list[Bar], started: datetime, duration_s: float) -> None:
    from lab.bench.environment import read_environment
    from lab.bench.store import write_whole

    project = find_project(Path.cwd())
    found = Calibration(
        started.isoformat(timespec="seconds"), round(duration_s, 1), read_environment(project), tuple(bars)
    )
    target = project / "reports" / "calibration.json"
    try:
        write_whole(target, found.as_dict())
    except OSError as error:
        raise StoreError(f"store the calibration in {target}", kernel=error.strerror or str(error)) from error
    click.echo(f"stored in {target}; `lab report` shows it", err=True)
