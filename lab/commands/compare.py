"""`lab compare`: two programs, commits, knob settings or stored runs against each other."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.commands.told import Progress
from lab.errors import LabError
from lab.project import find_project

if TYPE_CHECKING:
    from lab.contest.contest import Wanted
    from lab.model.comparison import Comparison

EPILOG = """\b
A and B are programs:
  xdp_filter               as it is in the working tree
  xdp_filter@main          at a commit, with the headers and benchmark of then
  ./mine.bpf.o             any object, any source
  xdp_filter:strict=1      with a knob set
or both are whole trees, of which every program that differs is compared:
  @main @HEAD              two commits
  @main                    a commit and the working tree
or both are stored runs (reports/runs/*.json): the way for two kernels, which
cannot take turns in one run.

\b
Exit status: 0 compared, 1 slower for certain than --fail-if-slower allows,
2 could not be compared. Of whole trees, a program that is new, or that no
frame can be run through, is named in the table and is no reason to fail.
"""

RESOLUTION = {"cost": 0.01, "rate": 0.015}


class Share(click.ParamType[float]):
    """ "5%" or "0.05"."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As a share: 0.05."""
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{value!r} is not a percentage, such as 5%", param, ctx)
        if not 0 < share < 1:
            self.fail(f"{value!r} is not between 0 and 100 %", param, ctx)
        return share


class Seconds(click.ParamType[float]):
    """ "10", "10s" or "2m"."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In seconds."""
        text = str(value)
        unit = {"s": 1, "m": 60}.get(text[-1:], 0)
        try:
            seconds = float(text[:-1] if unit else text) * (unit or 1)
        except ValueError:
            self.fail(f"{value!r} is not a time, such as 10s", param, ctx)
        if not 0 < seconds <= 3600:
            self.fail(f"{value!r} is not between 0 and an hour", param, ctx)
        return seconds


@click.command("compare", epilog=EPILOG)
@click.argument("a")
@click.argument("b", default="")
@click.option(
    "--metric",
    type=click.Choice(("cost", "rate")),
    default="cost",
    show_default=True,
    help="The program alone, or a path with it (the PATH of the benchmark, or a veth).",
)
@click.option(
    "--flows",
    type=click.IntRange(1, 1 << 24),
    multiple=True,
    help="Distinct flows, a power of two; again for more.  [default: 1]",
)
@click.option("--workload", metavar="TEXT", help="Only the workloads of the benchmark that say this.")
@click.option(
    "--frame", metavar="FRAME", help="udp4, udp6, tcp4, tcp6, a capture file or hexadecimal: no benchmark is asked."
)
@click.option("--program", metavar="NAME", help="Of an object with several programs.")
@click.option(
    "--resolution", type=Share(), help="The difference that matters.  [default: 1%, of a rate 1.5%]", metavar="PERCENT"
)
@click.option("--budget", type=Seconds(), default="30s", show_default=True, help="At most so long for each line.")
@click.option(
    "--fail-if-slower", type=Share(), metavar="PERCENT", help="Exit with 1 when B is slower by more, for certain."
)
@click.option("--all", "all_programs", is_flag=True, help="Of whole trees, programs that are the same in both, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparisons as JSON.")
@click.option("--store/--no-store", default=True, help="Keep the result among the stored runs.  [default: keep]")
@click.option("--across-environments", is_flag=True, help="Compare stored runs of unlike machines all the same.")
def command(a: str, b: str, **options: Any) -> int:
    """Measure two contenders in one run, interleaved, until it is sure which is slower, or that neither is."""
    if a.endswith(".json") and b.endswith(".json"):
        return _stored(Path(a), Path(b), options)
    if a.startswith("@"):
        return _trees(a, b or "@", options)
    if not b:
        raise click.UsageError("Missing argument 'B'. Only a whole tree (@main) is compared with the working tree.")
    return _measured(a, b, options)


def _trees(a: str, b: str, options: dict[str, Any]) -> int:
    from lab.commands.compare_trees import compare_trees

    for option in ("workload", "program"):
        if options[option]:
            raise click.UsageError(f"--{option} is of one program, and {a} means all of a tree.")
    return compare_trees(a, b, _wanted(options), options)


def _measured(a: str, b: str, options: dict[str, Any]) -> int:
    from lab.contest.contest import hold, store
    from lab.contest.named import named

    started = time.monotonic()
    first, second = named(a), named(b)
    wanted = _wanted(options)
    found: list[Comparison] = []
    with Progress(quiet=options["as_json"]) as progress:
        for each in hold(first, second, wanted, progress.told):
            found.append(each)
            progress.done(each)
    if options["as_json"]:
        click.echo(json.dumps([each.as_dict() for each in found], indent=1))
    if options["store"]:
        path = store([(second.stem, each) for each in found], (a, b), find_project(Path.cwd()), started)
        click.echo(f"stored in {path}; `lab report` shows it", err=True)
    return _status(found, options["fail_if_slower"])


def _wanted(options: dict[str, Any]) -> Wanted:
    from lab.bench.decision import Rule
    from lab.contest.contest import Wanted
    from lab.contest.frames import frame_named

    return Wanted(
        flows=options["flows"] or (1,),
        metric=options["metric"],
        rule=Rule(options["resolution"] or RESOLUTION[options["metric"]], threshold=options["fail_if_slower"]),
        budget_s=options["budget"],
        workload=options["workload"],
        program=options["program"],
        frame=frame_named(options["frame"]) if options["frame"] else None,
    )


def _status(found: list[Comparison], threshold: float | None) -> int:
    slower = [each for each in found if threshold is not None and each.is_slower_by(threshold)]
    for each in slower:
        click.echo(f"lab: {each.subject}: over {100 * (threshold or 0):g} %: {each.sentence}", err=True)
    return 1 if slower else 0


def _stored(a: Path, b: Path, options: dict[str, Any]) -> int:
    from lab.contest.stored import pairs
    from lab.model.likeness import unlike

    first, second, found = pairs(a, b)
    differing = unlike(first.environment, second.environment)
    if differing and not options["across_environments"]:
        of_kernels = first.environment.kernel != second.environment.kernel
        instead = (
            "two kernels never take turns in one run" if of_kernels else "NAME@COMMIT NAME measures both in one run"
        )
        raise LabError(
            f"compare {a} with {b}: they were made on unlike machines: {'; '.join(differing)}",
            mend=f"{instead}; --across-environments compares ratios to the reference that ran beside each",
        )
    from lab.commands.table import print_table

    print_table(
        ("program", "what", "A ns", "B ns", "B / A in references", "verdict"),
        [
            (
                each.program,
                each.subject,
                f"{each.a:.1f}",
                f"{each.b:.1f}",
                "{:.3f} ({:.3f} to {:.3f})".format(*each.ratio),
                each.verdict,
            )
            for each in found
        ],
    )
    limit = options["fail_if_slower"]
    return 1 if limit is not None and any(each.ratio[1] > 1 + limit for each in found) else 0
