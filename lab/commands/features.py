"""`lab features`: what the kernels offer of what the lab and its programs use."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import click

from lab import features
from lab.commands.table import print_table
from lab.errors import LabError
from lab.matrix.offers import Offer, ask, document, unexpected
from lab.project import find_project


@click.command("features")
@click.option("--matrix", "on_all", is_flag=True, help="Of every kernel at hand, each asked in a machine of its own.")
@click.option("--kernel", "words", multiple=True, help="Of these kernels: a release or its beginning, or a path.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, of this kernel only.")
def command(on_all: bool, words: tuple[str, ...], as_json: bool) -> None:
    """What this kernel offers, or with --matrix each of several; then also written into docs/features.md.

    With LAB_STRICT=1 the status is 1 when a kernel lacks a feature that is older than itself.
    """
    found = {state.name: Offer(state.answer, state.detail) for state in features.probe() if not state.feature.is_tool}
    if as_json:
        click.echo(json.dumps({name: [offer.answer, offer.detail] for name, offer in found.items()}))
        return
    columns = {platform.release(): found}
    if on_all or words:
        columns |= _of_machines(words)
    rows = [(name, *(offers[name].answer for offers in columns.values())) for name in found]
    print_table(("feature", *columns), rows)
    if on_all:
        out = find_project(Path.cwd()) / "docs" / "features.md"
        out.write_text(document(columns), encoding="utf-8")
        click.echo(f"\nWritten into {out}")
    missing = unexpected(columns)
    for sentence in missing:
        click.echo(sentence, err=True)
    click.get_current_context().exit(1 if missing and features.is_strict() else 0)


def _of_machines(words: tuple[str, ...]) -> dict[str, dict[str, Offer]]:
    from lab.matrix.kernel import find

    kernels = find(words)
    if not kernels:
        raise LabError("features: no other kernel is at hand", mend="lab matrix --fetch 6.1 --fetch 6.12")
    return {kernel.release: ask(kernel) for kernel in kernels}
