"""How a comparison is told while it runs, and when its verdict is there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from lab.commands.folded import folded, width

if TYPE_CHECKING:
    from lab.bench.decision import Decision
    from lab.model.comparison import Comparison

COLOURS = {"slower": "yellow", "faster": "cyan"}
"""The word says it, too."""


class Progress:
    """A line for each round: what is known so far while it runs in a terminal, and the verdict."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._wipe()

    def told(self, title: str, decision: Decision, base: float, passed_s: float) -> None:
        """Over the line of the look before."""
        if self._live:
            share = 100 / base if base > 0 else 0.0
            known = decision.difference.times(share)
            text = f"{title}: {known.value:+.2f} % ({known.low:+.2f} to {known.high:+.2f}) after {passed_s:.1f} s ..."
            click.echo(f"\r\033[K{text[: width()]}", nl=False, err=True)

    def done(self, found: Comparison, stem: str = "") -> None:
        """For good; with the program's name where there are several."""
        self._wipe()
        if not self._quiet:
            click.secho(f"{stem}: {found.subject}" if stem else found.subject, bold=True)
            click.secho(folded(found.sentence, first="  ", indent="    "), fg=COLOURS.get(found.verdict))
            click.echo(folded(_small_print(found), first="  ", indent="  "))

    def _wipe(self) -> None:
        if self._live:
            click.echo("\r\033[K", nl=False, err=True)


def _small_print(found: Comparison) -> str:
    sure = f"; about {found.to_be_sure_s:.0f} s more to be sure" if found.to_be_sure_s else ""
    noise = f"; {found.noise['sentence']}" if found.noise.get("sentence") else ""
    return f"{'; '.join(found.remarks)}, {found.duration_s:.1f} s, interval {100 * found.confidence:g} %{sure}{noise}"
