"""`lab down`: kept networks ended."""

from __future__ import annotations

import click

from lab.keep.kept import every_kept, find, none_kept


@click.command("down")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are kept.")
def command(names: tuple[str, ...], everything: bool) -> None:
    """End the networks of these NAMES; without one, the only one that is kept.

    Shells inside keep their namespace until they end.
    """
    if everything and names:
        raise click.UsageError("either --all or names")
    networks = every_kept() if everything else [find(name) for name in names or ("",)]
    for kept in networks:
        kept.down()
        click.echo(f"{kept.name} is down ({kept.title})")
    if not networks:
        click.echo(f"{none_kept().capitalize()}.")
