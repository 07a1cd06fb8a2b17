"""NAME[@COMMIT][:knob=value,...]: a program as a contender.

xdp_filter              the program as it is in the working tree
xdp_filter@main         the same at a commit, its headers, companion and benchmark too
./mine.bpf.o            any object or source
xdp_filter:strict=1     with a knob set
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lab.bpf.find import find
from lab.contest.checkout import checkout
from lab.errors import LabError, LoadError, NotComparable
from lab.project import find_project, shipped_bpf

GRAMMAR = re.compile(r"(?P<source>[^@:]+)(?:@(?P<commit>[^:]+))?(?::(?P<knobs>.+))?")


@dataclass(frozen=True)
class Named:
    """What a person typed, taken apart. `root` is the tree that its files come from, `source` the program's file."""

    text: str
    source: Path
    root: Path
    knobs: dict[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The source's name without its ending."""
        return self.source.name.partition(".")[0]

    @property
    def is_bcc(self) -> bool:
        """True for a source that BCC compiles."""
        return self.source.name.endswith(".bcc.c")


def named(text: str) -> Named:
    """The contender that `text` names; LabError or LoadError when there is none."""
    found = GRAMMAR.fullmatch(text)
    if not found:
        raise LabError(f"compare {text!r}: not a contender", mend="NAME, NAME@COMMIT or NAME:knob=value,knob=value")
    knobs = _knobs(text, found["knobs"] or "")
    if found["commit"]:
        return _at_commit(text, found["source"], found["commit"], knobs)
    project = find_project(Path.cwd())
    try:
        return Named(text, find(found["source"]).resolve(), project, knobs)
    except LoadError:
        _refuse_bcc(found["source"], project / "bpf", project, shipped_bpf())
        raise


def _at_commit(text: str, source: str, commit: str, knobs: dict[str, str]) -> Named:
    project = find_project(Path.cwd())
    root = checkout(project, commit)
    given = Path(source)
    if given.is_absolute() and given.is_relative_to(project):
        given = given.relative_to(project)
    for place in (root / given, root / "bpf" / f"{source}.bpf.c", root / f"{source}.bpf.c"):
        if place.is_file():
            return Named(text, place, root, knobs)
    _refuse_bcc(source, root / "bpf", root)
    raise LoadError(
        f"compare {text}: there is no {source} in commit {commit}", mend=f"git ls-tree -r --name-only {commit}"
    )


def _refuse_bcc(source: str, *folders: Path) -> None:
    stem = Path(source).name.partition(".")[0]
    if any((folder / f"{stem}.bcc.c").is_file() for folder in folders):
        raise bcc_is_not_compared(stem)


def bcc_is_not_compared(stem: str) -> NotComparable:
    """BCC compiles a program anew, in 0.2 s or more, for each of the hundred loads a second that a comparison takes."""
    return NotComparable(
        f"compare {stem}: a BCC program cannot be loaded a hundred times a second, as a comparison does",
        mend=f"run benchmarks/bench_{stem}.py at both commits: `lab history` says where its figures changed",
    )


def _knobs(text: str, given: str) -> dict[str, str]:
    knobs = {}
    for each in filter(None, given.split(",")):
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise LabError(f"compare {text!r}: {each!r} is not knob=value", mend="NAME:knob=value,knob=value")
        knobs[name] = value
    return knobs
