"""@COMMIT: all programs of a commit, or of the working tree, and which of them are others in another tree."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lab.contest.checkout import checkout
from lab.contest.named import Named
from lab.project import find_project, trusted

FOLDERS = ("bpf", ".")
"""Where a project has its programs, as `lab.bpf.find` looks for them."""
KINDS = ("bpf", "bcc")
INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]', re.MULTILINE)


@dataclass(frozen=True)
class Tree:
    """The project's files at a commit, as it was typed; "" is the working tree."""

    root: Path
    commit: str = ""

    def sources(self) -> dict[str, Path]:
        """The source of each program by its stem; of one that is written both ways, the one for libbpf."""
        found: dict[str, Path] = {}
        for kind in KINDS:
            for folder in FOLDERS:
                for path in sorted((self.root / folder).glob(f"*.{kind}.c")):
                    found.setdefault(path.name.partition(".")[0], path)
        return found

    def named(self, stem: str) -> Named:
        """The program as a contender; KeyError where there is none, LabError for one that is not to be trusted."""
        source = self.sources()[stem]
        if self.commit:
            return Named(f"{stem}@{self.commit}", source, self.root)
        return Named(stem, trusted(source), self.root)

    def files_of(self, stem: str) -> dict[str, bytes]:
        """What a program is made of, by path in the tree: its source, the tree's headers in it, and its companion."""
        source = self.sources()[stem]
        found: dict[str, bytes] = {}
        self._read(source, source.parent, found)
        companion = source.with_name(f"{stem}.py")
        if companion.is_file():
            found[self._path(companion)] = companion.read_bytes()
        return found

    def _read(self, path: Path, beside: Path, found: dict[str, bytes]) -> None:
        """Every include counts, whatever #if it stands in; one that is not in the tree is the system's or the lab's."""
        name = self._path(path)
        if name in found:
            return
        found[name] = path.read_bytes()
        for include in INCLUDE.findall(found[name]):
            for folder in (path.parent, beside / "include", beside / "include" / "bcc"):
                header = Path(os.path.normpath(folder / os.fsdecode(include)))
                if header.is_file() and header.is_relative_to(self.root):
                    self._read(header, beside, found)
                    break

    def _path(self, path: Path) -> str:
        return str(path.relative_to(self.root))


@dataclass(frozen=True)
class Change:
    """What became of a program from one tree to the next: "same", "changed", "new", "gone"; which files did it."""

    stem: str
    kind: str
    files: tuple[str, ...] = ()


def tree(text: str) -> Tree:
    """The tree that "@main" names, "@" the working tree; LabError when git knows no such commit."""
    project = find_project(Path.cwd())
    commit = text.removeprefix("@")
    return Tree(checkout(project, commit) if commit else project, commit)


def changes(a: Tree, b: Tree) -> list[Change]:
    """Of each program in either tree, in the order of their stems."""
    ours, theirs = a.sources(), b.sources()
    return [_change(stem, a, b) for stem in sorted({*ours, *theirs})]


def _change(stem: str, a: Tree, b: Tree) -> Change:
    if stem not in a.sources():
        return Change(stem, "new")
    if stem not in b.sources():
        return Change(stem, "gone")
    before, after = a.files_of(stem), b.files_of(stem)
    files = tuple(sorted(path for path in {*before, *after} if before.get(path) != after.get(path)))
    return Change(stem, "changed" if files else "same", files)
