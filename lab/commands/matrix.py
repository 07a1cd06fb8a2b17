"""`lab matrix`: the scenarios on this kernel and on others, each in a virtual machine."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import click

from lab import instruments
from lab.bpf.build import build, cache_folder, sweep
from lab.commands.table import print_table
from lab.errors import BuildError, LabError
from lab.matrix.acceleration import accelerator
from lab.matrix.fetch import fetch
from lab.matrix.image import image
from lab.matrix.junit import write as write_junit
from lab.matrix.kernel import Kernel, find
from lab.matrix.session import Lane, Matrix, run
from lab.matrix.worker import CONSOLE
from lab.program_list import program_folders
from lab.project import find_project

SHOWN = ("failed", "lost", "passed", "expected to fail", "skipped")


@click.command("matrix", context_settings={"ignore_unknown_options": True})
@click.option("--kernel", "words", multiple=True, help="A release or its beginning, or a path.  [default: all at hand]")
@click.option("--fetch", "series", multiple=True, help="First load the newest Debian kernel of a series: 6.1.")
@click.option("--no-host", is_flag=True, help="Only in machines, not on the kernel of this one.")
@click.option("--at-once", type=click.IntRange(1), help="Machines beside each other.  [default: one a CPU]")
@click.option("--list", "only_list", is_flag=True, help="Show the kernels at hand, and run nothing.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    words: tuple[str, ...],
    series: tuple[str, ...],
    no_host: bool,
    at_once: int | None,
    only_list: bool,
    arguments: tuple[str, ...],
) -> None:
    """Run pytest (by default of scenarios/) on this kernel and on others, in virtual machines.

    Ends with status 0 when all passed or was skipped, 1 when a test failed, 2 when a machine was lost.
    With LAB_STRICT=1 a test that every kernel skipped is a failure too. Interrupted, it shows what had ended by then.
    """
    for each in series:
        click.echo(f"fetched {fetch(each).release}")
    kernels = find(words)
    if only_list or (series and not words and not arguments):
        print_table(("kernel", "where"), [(each.release, str(each.vmlinuz)) for each in kernels])
        return
    if not kernels:
        raise LabError("matrix: no other kernel is at hand", mend="lab matrix --fetch 6.1 --fetch 6.12")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a build server's way to interrupt
    project = find_project(Path.cwd())
    _prepare(kernels, project)
    start = time.monotonic()
    matrix = run(kernels, arguments or ("scenarios",), project, host=not no_host, at_once=at_once, told=_tell)
    _finish(matrix, project, time.monotonic() - start)


def _prepare(kernels: list[Kernel], project: Path) -> None:
    """What all machines share is made once, before the first of them: the disk, and the programs in the cache.

    What a test asks of clang besides is compiled in the machine, many times slower; so is what does not compile here.
    """
    way = accelerator(kernels[0])
    click.echo(f"{', '.join(each.release for each in kernels)}: {way.words}")
    image()
    sweep(cache_folder())  # here, for a machine would look at each file over 9p, and forget that it did
    folders = (*program_folders(project), Path(instruments.__file__).parent)
    sources = [path for folder in folders for path in sorted(folder.glob("*.bpf.c"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_compiled, sources))


def _compiled(source: Path) -> None:
    with suppress(BuildError):
        build(source)


def _tell(lane: Lane, nodeid: str, outcome: str) -> None:
    """A test that neither passed nor was skipped, at once; of the others a count now and then."""
    done = sum(lane.outcomes.values())
    if outcome not in ("passed", "skipped"):
        click.echo(f"{lane.name}: {outcome}: {nodeid}")
    elif done % 50 == 0:
        click.echo(f"{lane.name}: {done} tests")


def _finish(matrix: Matrix, project: Path, seconds: float) -> None:
    from lab.report.matrix import Column, cells, write

    columns = [Column(each.name, each.release, each.results, each.lost, _console(each)) for each in matrix.lanes]
    click.echo()
    rows = [(program, *map(_short, counted)) for program, counted in cells(columns).items()]
    print_table(("program", *(column.name for column in columns)), rows)
    for lane in matrix.lanes:
        if lane.lost or lane.complaint:
            click.echo(f"{lane.name}: {'lost: ' + lane.lost if lane.lost else lane.complaint} ({lane.folder})")
    strict = os.environ.get("LAB_STRICT") == "1" and not matrix.interrupted
    nowhere = matrix.ran_nowhere() if strict else {}
    for nodeid, reason in nowhere.items():
        click.echo(f"ran on no kernel: {nodeid}: {reason}")
    reports = project / "reports" / "matrix"
    page = write(columns, reports / "index.html", f"Scenarios on {len(columns)} kernels")
    junit = write_junit(matrix, reports / "junit.xml")
    click.echo(f"\n{seconds:.0f} s. The table with all reasons: {page}; JUnit: {junit}")
    if matrix.interrupted:
        raise KeyboardInterrupt
    click.get_current_context().exit(matrix.status or (1 if nowhere else 0))


def _console(lane: Lane) -> str:
    path = lane.folder / CONSOLE
    return path.read_text(errors="replace")[-20_000:] if lane.lost and path.is_file() else ""


def _short(counted: dict[str, int]) -> str:
    return ", ".join(f"{counted[word]} {word}" for word in SHOWN if counted.get(word)) or "-"
