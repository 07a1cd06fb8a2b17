"""The programs in a folder, as their sources describe them; nothing is compiled and no root is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

SECTION = re.compile(r'\bSEC\("([^"]+)"\)')
HEADER = re.compile(r"/\*(.*?)\*/", re.DOTALL)
NOT_PROGRAMS = re.compile(r"^(license|version|\.maps|maps|\.struct_ops.*|\.ksyms|\.kconfig|\.(ro)?data.*|\.bss.*)$")


@dataclass(frozen=True)
class Source:
    """A `.bpf.c` file: what it is loaded by, where it hooks in, what it says of itself."""

    stem: str
    path: Path
    sections: tuple[str, ...]
    summary: str


def programs_in(folders: list[Path]) -> list[Source]:
    """Every program of the folders, sorted by stem; of two with one stem, the earlier folder's, as in loading."""
    found: dict[str, Source] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.bpf.c")):
            found.setdefault(path.name.removesuffix(".bpf.c"), read_source(path))
    return [found[stem] for stem in sorted(found)]


def read_source(path: Path) -> Source:
    """What can be said of a source file from its text alone."""
    text = path.read_text(encoding="utf-8", errors="replace")
    sections = dict.fromkeys(name for name in SECTION.findall(text) if not NOT_PROGRAMS.match(name))
    stem = path.name.removesuffix(".bpf.c")
    return Source(stem, path, tuple(sections), _first_sentence(text, stem))


def _first_sentence(text: str, stem: str) -> str:
    """The first sentence of the first comment that is not the licence, without "<stem>: "; "" when there is none."""
    for block in HEADER.findall(text):
        lines = [line.strip(" \t*") for line in block.strip(" \t*\n").splitlines()]
        if lines and not lines[0].startswith("SPDX"):
            paragraph = " ".join(takewhile(bool, lines))
            sentence = re.split(r"(?<=[.])\s", paragraph, maxsplit=1)[0].rstrip(".:")
            return re.sub(rf"^{re.escape(stem)}(\.bpf\.c)?\s*[:,-]\s*", "", sentence)
    return ""
