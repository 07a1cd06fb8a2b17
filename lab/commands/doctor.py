"""`lab doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.commands.table import print_table
from lab.doctor.check import Check
from lab.doctor.examination import Examination, examine
from lab.project import find_project


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for other programs.")
def command(as_json: bool) -> None:
    """What this machine and its kernel can do, what is missing, what that costs, and how to mend it.

    Ends with status 0 when the lab can run, 1 when something required is missing. Changes nothing.
    """
    seen = examine(find_project(Path.cwd()))
    if as_json:
        click.echo(json.dumps(seen.as_dict(), indent=2))
    else:
        _print(seen)
    click.get_current_context().exit(1 if seen.blocking else 0)


def _print(seen: Examination) -> None:
    about = seen.description
    click.echo(
        f"bpflab {about['bpflab']} on Linux {about['kernel']} ({about['architecture']}), {about['cpus']} CPUs, "
        f"{about['memory_gib']} GiB, Python {about['python']}\n"
    )
    click.echo("MACHINE")
    print_table(("", "there", "gives", "seen"), [_row(check) for check in seen.checks])
    click.echo("\nFEATURES")
    print_table(("", "there", "gives", "seen"), [_row(check) for check in seen.features])
    _print_mends([*seen.checks, *seen.features])
    _print_scenarios(seen)
    _print_verdict(seen)


def _row(check: Check) -> tuple[str, str, str, str]:
    return check.name, "NO" if check.blocks else check.answer, check.gives, check.detail


def _print_mends(checks: list[Check]) -> None:
    to_mend = [check for check in checks if check.answer != "yes" and check.mend]
    if to_mend:
        click.echo("\nTO MEND")
        print_table(("", "how"), [(check.name, check.mend) for check in to_mend])


def _print_scenarios(seen: Examination) -> None:
    if not seen.scenarios:
        return
    if seen.blocking:
        click.echo(f"\nSCENARIOS\n{len(seen.scenarios)} found; none can run before the required things are there.")
        return
    lost = seen.costs
    click.echo(f"\nSCENARIOS\n{len(seen.scenarios) - len(lost)} of {len(seen.scenarios)} can run here.")
    if lost:
        print_table(("cannot run", "for want of"), [(nodeid, ", ".join(names)) for nodeid, names in lost.items()])


def _print_verdict(seen: Examination) -> None:
    click.echo()
    if not seen.blocking:
        click.echo("Ready.")
        return
    for check in seen.blocking:
        click.echo(f"Not ready: {check.name}: {check.detail}. Mend: {check.mend}")
