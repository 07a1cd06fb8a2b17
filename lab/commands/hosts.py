"""`lab hosts`: scenarios dealt out to several machines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from lab.errors import LabError


@click.command("hosts", context_settings={"ignore_unknown_options": True})
@click.option("--host", "names", multiple=True, metavar="HOST", help="One that ssh reaches: root@alpha. Repeat it.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers on each host.")
@click.option("--here", is_flag=True, help="This machine takes part too.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENTS]")
def command(names: tuple[str, ...], workers: int, here: bool, words: tuple[str, ...]) -> int:
    """Run scenarios/ on several machines at once, each test on one of them, and store one run.

    The checkout stands at this same path on each host, at the same commit, with `make setup` done; $LAB_SSH names
    another command than ssh. A machine that is lost in mid-run loses nothing: its tests go to the others.
    Exit status as pytest's.
    """
    from lab.hosts.host import ask

    if not names:
        raise click.UsageError("say at least one --host")
    if len(set(names)) < len(names):
        raise LabError("hosts: one is named twice", mend="--workers 2 gives each host two workers")
    found = ask(names)
    for each in found:
        click.echo(f"{each.name}: Linux {each.kernel}, {each.cpus} CPUs")
    specs = [each.spec(workers) for each in found] + ([f"{workers}*popen"] if here else [])
    transports = [word for spec in specs for word in ("--tx", spec)]
    options = ["-p", "no:randomly", "--dist", "load", *transports]
    paths = [] if any(Path(each.partition("::")[0]).exists() for each in words) else ["scenarios"]
    return subprocess.run([sys.executable, "-m", "pytest", *options, *words, *paths]).returncode
