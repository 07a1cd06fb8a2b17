"""`lab replay`: a failed scenario's frames through the same program once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.errors import NeedsRoot, StoreError
from lab.failure.text import printable
from lab.kernel import capabilities
from lab.project import find_project

if TYPE_CHECKING:
    from lab.replay.outcome import Outcome

MOST_SHOWN = 40
MAP = "map "
"""How the outcome of a map begins."""


@click.command("replay")
@click.argument("failure", metavar="ID")
@click.option("--runs", type=click.Path(path_type=Path), help="Where the runs are.  [default: reports/runs]")
@click.option("--now", is_flag=True, help="Compile the program's source as it is today: is it mended?")
@click.option("--pcapng", type=click.Path(dir_okay=False, path_type=Path), help="Write all frames of the replay here.")
def command(failure: str, runs: Path | None, now: bool, pcapng: Path | None) -> int:
    """Do a failed scenario again: the same frames, maps and knobs, on a network and by PROG_RUN.

    ID is what the failure printed, the beginning of it, or "last". Exit status 1: it happens again, as at the failure;
    0: something comes out otherwise; 2: nothing could be compared, or it differs and not all of it was done again.
    """
    from lab.replay.again import replay
    from lab.replay.folder import read_failure

    found = read_failure((runs or find_project(Path.cwd()) / "reports" / "runs") / "failures", failure)
    if lacking := capabilities.lacking():
        raise NeedsRoot(
            f"replay {found.id}: namespaces and BPF programs need root, or {', '.join(lacking)}",
            mend=f"sudo lab replay {found.id}",
        )
    if pcapng is not None and not pcapng.parent.is_dir():
        raise StoreError(f"write {pcapng}: there is no folder {pcapng.parent}", mend="mkdir -p it")
    _say([found.nodeid, f"  at the failure: {found.headline}"])
    done = replay(found, now=now)
    _say(_outcomes(done.outcomes))
    _say([f"lost        {each}" for each in done.losses])
    _say(
        [
            f"verdict     {place}: {number:,} x {verdict}  {frame}"
            for (place, verdict, frame), number in done.verdicts.items()
        ]
    )
    _say([f"remark      {each}" for each in done.remarks])
    if pcapng is not None:
        _write(pcapng, done.pcapng)
    same = sum(each.is_same for each in done.outcomes)
    if not done.outcomes:
        click.echo("Nothing of it could be compared.")
        return 2
    if done.again:
        click.echo(f"It happens again: {same} of {same} outcomes are those of the failure.")
        return 1
    click.echo(f"It comes out otherwise: {len(done.outcomes) - same} of {len(done.outcomes)} outcomes differ.")
    if done.remarks:
        click.echo("That proves nothing: not everything was done again (see the remarks).")
        return 2
    return 0


def _write(place: Path, frames: bytes) -> None:
    if not frames:
        click.echo(f"No {place}: nothing went through a network, or nothing recorded it.")
        return
    place.write_bytes(frames)
    click.echo(f"The frames are in {place}")


def _outcomes(outcomes: Sequence[Outcome]) -> list[str]:
    """One line each; maps that hold the same are one."""
    lines = []
    for each in outcomes:
        if not each.is_same:
            lines.append(f"OTHERWISE   {each.what}: {each.now or 'nothing'} (then: {each.then or 'nothing'})")
        elif not each.what.startswith(MAP):
            lines.append(f"as before   {each.what}: {each.now}")
    same = sum(each.is_same and each.what.startswith(MAP) for each in outcomes)
    return lines + ([f"as before   what {same} map{'s' if same > 1 else ''} held"] if same else [])


def _say(lines: list[str]) -> None:
    for line in lines[:MOST_SHOWN]:
        click.echo(printable(line))
    if len(lines) > MOST_SHOWN:
        click.echo(f"            and {len(lines) - MOST_SHOWN:,} more")
