"""The programs in a folder, as their sources describe them; nothing is compiled or imported, and no root is needed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from lab.project import find_project, shipped_bpf

SECTION = re.compile(r'\bSEC\("([^"]+)"\)')
HEADER = re.compile(r"/\*(.*?)\*/", re.DOTALL)
NOT_PROGRAMS = re.compile(r"^(license|version|\.maps|maps|\.struct_ops.*|\.ksyms|\.kconfig|\.(ro)?data.*|\.bss.*)$")
DEFINED = re.compile(r"^(?:def (\w+)\(|(\w+)(?::[^=\n]*)? = )", re.MULTILINE)
HOOKS = re.compile(r"^HOOKS(?::[^=\n]*)? = \(([^)]*)\)", re.MULTILINE)
QUOTED = re.compile(r'"([^"]+)"')
SHOWING = {"view", "watch", "command"}


@dataclass(frozen=True)
class Companion:
    """What the text of a bpf/<stem>.py defines at its top."""

    names: frozenset[str] = frozenset()
    hooks: tuple[str, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Source:
    """A program: what it is loaded by, where it hooks in, what it says of itself, what its companion defines."""

    stem: str
    path: Path
    sections: tuple[str, ...]
    summary: str
    offers: frozenset[str] = frozenset()

    @property
    def has_command(self) -> bool:
        """Whether `lab <stem>` shows more than its maps."""
        return bool(self.offers & SHOWING)

    @property
    def is_example(self) -> bool:
        """A step of the ladder in examples/."""
        return self.path.parent.name == "examples"


def program_folders(start: Path) -> list[Path]:
    """bpf/ of the project around `start`, then what comes with the lab."""
    return [find_project(start) / "bpf", shipped_bpf()]


def example_folder(start: Path) -> Path:
    """The ladder of small programs, in a checkout of the lab; other projects may have one too."""
    return find_project(start) / "examples"


def programs_in(folders: Iterable[Path]) -> list[Source]:
    """Every program of the folders, sorted by stem; of two with one stem, the earlier folder's, as in loading."""
    found: dict[str, Source] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.bpf.c")):
            found.setdefault(path.name.removesuffix(".bpf.c"), read_source(path))
        for path in sorted(folder.glob("*.py")):
            about = read_companion(path) if path.stem not in found else None
            if about and about.hooks:
                found[path.stem] = Source(path.stem, path, about.hooks, about.summary, about.names)
    return [found[stem] for stem in sorted(found)]


def read_source(path: Path) -> Source:
    """What can be said of a source file from its text alone."""
    text = path.read_text(encoding="utf-8", errors="replace")
    sections = dict.fromkeys(name for name in SECTION.findall(text) if not NOT_PROGRAMS.match(name))
    stem = path.name.removesuffix(".bpf.c")
    offers = read_companion(path.with_name(f"{stem}.py")).names
    return Source(stem, path, tuple(sections), _first_sentence(text, stem), offers)


def read_companion(path: Path) -> Companion:
    """What a companion's text says; nothing where there is none."""
    if not path.is_file():
        return Companion()
    text = path.read_text(encoding="utf-8", errors="replace")
    names = {each for pair in DEFINED.findall(text) for each in pair if each}
    hooks = HOOKS.search(text)
    return Companion(
        frozenset(names),
        tuple(QUOTED.findall(hooks[1])) if hooks else (),
        _sentence_of(text.lstrip().removeprefix('"""').partition('"""')[0].splitlines(), path.stem),
    )


def header_part(path: Path, title: str) -> str:
    """A part of the header block by its title ("KNOBS"), as it is written there; "" where there is none."""
    for block in HEADER.findall(path.read_text(encoding="utf-8", errors="replace")):
        lines = [line.removeprefix(" *").rstrip() for line in block.splitlines()]
        for place, line in enumerate(lines):
            if line.strip() == title or line.strip().startswith(f"{title} "):
                return "\n".join(takewhile(bool, lines[place:]))
    return ""


def _first_sentence(text: str, stem: str) -> str:
    """The first sentence of the first comment that is not the licence, without "<stem>: "; "" when there is none."""
    for block in HEADER.findall(text):
        lines = [line.strip(" \t*") for line in block.strip(" \t*\n").splitlines()]
        if lines and not lines[0].startswith("SPDX"):
            return _sentence_of(lines, stem)
    return ""


def _sentence_of(lines: list[str], stem: str) -> str:
    paragraph = " ".join(takewhile(bool, lines))
    sentence = re.split(r"(?<=[.])\s", paragraph, maxsplit=1)[0].rstrip(".:")
    return re.sub(rf"^{re.escape(stem)}(\.bpf\.c)?\s*[:,-]\s*", "", sentence)
