"""`lab show`: the kept networks, drawn."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lab.commands.table import print_table
from lab.keep.kept import Kept, every_kept, find, none_kept


@click.command("show")
@click.argument("name", default="")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the drawing there, as SVG.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each network, for other programs.")
def command(name: str, svg: Path | None, as_json: bool) -> None:
    """Draw the network NAME, or all that are kept: their namespaces, and what is attached there.

    `pytest --keep-on-failure` keeps the networks of failed tests, `lab up` that of a scenario.
    """
    if svg is not None:
        svg.write_text(find(name).svg, encoding="utf-8")
        click.echo(f"The drawing is {svg}")
        return
    networks = [find(name)] if name else every_kept()
    if not networks and not as_json:
        ways = "`pytest --keep-on-failure` keeps those of failed tests, `lab up` a scenario's."
        click.echo(f"{none_kept().capitalize()}. {ways}")
    for number, kept in enumerate(networks):
        if as_json:
            click.echo(_json(kept))
        else:
            click.echo("\n" * (number > 0) + _heading(kept) + "\n\n" + kept.drawing)
            _print_attachments(kept)
            _print_ways_in(kept)


def _heading(kept: Kept) -> str:
    return f"{click.style(kept.name, bold=True)}  {kept.title}, up for {_span(time.time() - kept.since)}"


def _print_attachments(kept: Kept) -> None:
    rows = [tuple(map(str, each.values())) for each in _attachments(kept)]
    if rows:
        print_table(("attached at", "program", "hook", "program id"), rows)
        click.echo()


def _print_ways_in(kept: Kept) -> None:
    rows = [(f"lab shell {kept.name} {each}", f"nsenter --net={kept.path(each)}") for each in kept.namespaces]
    print_table(("inside", "the same by hand"), [*rows, (f"lab down {kept.name}", "")])


def _attachments(kept: Kept) -> list[dict[str, str | int]]:
    from lab.keep.held import attachments

    return [
        {
            "at": kept.interfaces.get(each.ifindex, ""),
            "program": each.program,
            "hook": each.kind,
            "program_id": each.program_id,
        }
        for each in attachments(kept.pid)
        if each.ifindex in kept.interfaces or each.kind not in ("xdp", "tcx")  # the lab has one of its own elsewhere
    ]


def _json(kept: Kept) -> str:
    import json

    about = {
        "name": kept.name,
        "title": kept.title,
        "since": kept.since,
        "pid": kept.pid,
        "namespaces": {name: kept.path(name) for name in kept.namespaces},
        "interfaces": kept.interfaces,
        "attachments": _attachments(kept),
    }
    return json.dumps(about)


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
