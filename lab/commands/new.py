"""`lab new`: a program that passes at once, in three files, to be changed step by step into the one that is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import click

from lab.errors import LabError
from lab.project import find_project

TEMPLATES = Path(__file__).parents[1] / "templates"
NAME = "new_program"
"""The stem that the templates have."""
HOOKS = {
    "xdp": "each frame an interface receives, before the kernel has looked at it",
    "tc": "each packet that passes an interface, in or out",
    "tracepoint": "changes of a TCP socket's state, of the whole machine",
    "sockops": "events in the life of the TCP connections of a cgroup",
    "cgroup": "connect() of a cgroup's processes",
    "sk_lookup": "which socket takes a packet, in a namespace",
    "sk_reuseport": "which of several sockets on one port takes a packet",
}
STEM = re.compile(r"[a-z][a-z0-9_]{1,31}")
C_WORDS = frozenset(
    """auto bool break case char const continue default do double else enum extern float for goto if inline int long
    main register restrict return short signed sizeof static struct switch typedef union unsigned void volatile
    while""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class NewFile:
    """A file to be written."""

    path: Path
    text: str


def new_files(stem: str, hook: str, project: Path) -> list[NewFile]:
    """The program, its scenario and its benchmark, with the stem in place of the templates' own."""
    places = {
        "program.bpf.c": project / "bpf" / f"{stem}.bpf.c",
        "scenario.py": project / "scenarios" / f"test_{stem}.py",
        "benchmark.py": project / "benchmarks" / f"bench_{stem}.py",
    }
    return [NewFile(path, _text(hook, name, project).replace(NAME, stem)) for name, path in places.items()]


def _text(hook: str, name: str, project: Path) -> str:
    """A template; where lab/ is not a folder of the project, sorted imports have it beside pytest."""
    text = (TEMPLATES / hook / name).read_text(encoding="utf-8")
    own = (project / "lab").is_dir()
    return text if own else text.replace("import pytest\n\nfrom lab", "import pytest\nfrom lab")


def check_stem(stem: str) -> None:
    """LabError unless it can be the name of files, of a C function and of a command."""
    from lab.cli import COMMANDS

    if not STEM.fullmatch(stem) or stem in C_WORDS:
        raise LabError(
            f"{stem!r} is no stem: it names files, a C function and a command",
            mend="2 to 32 of a-z, 0-9 and _, a letter first; no word of C: xdp_limit_ping",
        )
    if stem in COMMANDS or stem == NAME:
        raise LabError(f"{stem!r} is taken: `lab {stem}` is something else", mend="another name")


@click.command("new")
@click.argument("stem")
@click.option("--hook", required=True, type=click.Choice(list(HOOKS)), help="Where the kernel calls it.")
@click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False),
    help="Its folder; the project around this one if not said.",
)
def command(stem: str, hook: str, project: Path | None) -> None:
    """Writes a program, its scenario and its benchmark, which pass at once; overwrites nothing.

    STEM is what the program will be called by: bpf/STEM.bpf.c, scenarios/test_STEM.py, benchmarks/bench_STEM.py.
    """
    check_stem(stem)
    root = project or find_project(Path.cwd())
    files = new_files(stem, hook, root)
    there = [each.path for each in files if each.path.exists()]
    if there:
        raise LabError(
            f"{there[0]} is there already", mend="another stem, or remove what is there; nothing was written"
        )
    for each in files:
        each.path.parent.mkdir(parents=True, exist_ok=True)
        with each.path.open("x", encoding="utf-8") as file:
            file.write(each.text)
        click.echo(f"wrote {each.path}")
    scenario, benchmark = (each.path for each in files[1:])
    click.echo(f"\nTry it:  sudo pytest {scenario} && sudo pytest {benchmark}")


command.epilog = "\b\nHooks:\n" + "\n".join(f"  {name:<13} {about}" for name, about in HOOKS.items())
