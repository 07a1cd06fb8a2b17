"""`lab list`: the programs that can be loaded by their stem."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.commands.table import print_table
from lab.errors import LabError
from lab.program_list import Source, programs_in
from lab.project import find_project, shipped_bpf


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for other programs.")
def command(as_json: bool) -> None:
    """The programs at hand: what `bpf.load` finds by its stem, where each hooks in, what it does.

    Looks into bpf/ of the project around the current folder, then into what comes with the lab.
    """
    own = find_project(Path.cwd()) / "bpf"
    sources = programs_in([own, shipped_bpf()])
    if not sources:
        raise LabError(f"list: no program in {own}", mend="put one there as bpf/<name>.bpf.c")
    if as_json:
        click.echo(json.dumps([_as_dict(source) for source in sources], indent=2))
        return
    print_table(
        ("program", "hook", "what it does"),
        [(source.stem, ", ".join(source.sections), source.summary) for source in sources],
    )


def _as_dict(source: Source) -> dict[str, object]:
    return {
        "stem": source.stem,
        "path": str(source.path),
        "sections": list(source.sections),
        "summary": source.summary,
    }
