"""`lab report`: one HTML page from the stored runs."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lab.errors import LabError
from lab.project import find_project


@click.command("report")
@click.option("--runs", type=click.Path(path_type=Path), help="Where the runs are.  [default: reports/runs]")
@click.option("--out", type=click.Path(path_type=Path), help="Where the page goes.  [default: reports/index.html]")
@click.option("--open", "open_page", is_flag=True, help="Show the page in the web browser.")
def command(runs: Path | None, out: Path | None, open_page: bool) -> None:
    """Write one HTML page from the stored runs: it needs no root, no network, and opens offline."""
    from lab.report.html import write

    reports = find_project(Path.cwd()) / "reports"
    runs = runs or reports / "runs"
    if not any(runs.glob("*.json")):
        raise LabError(f"report: no stored run in {_short(runs)}", mend="make bench, or sudo pytest scenarios/, first")
    page = write(runs, out or reports / "index.html")
    click.echo(f"The report is {_short(page)}")
    if open_page:
        _show(page)


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        raise LabError(f"report: no web browser to show {page}", mend="open that file by hand")


def _short(path: Path) -> str:
    """Relative to the current folder where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)
