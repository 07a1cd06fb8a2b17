"""Which file a stem or a path means."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.errors import LoadError
from lab.project import shipped_bpf, trusted, upwards

ENDINGS = (".bpf.c", ".bpf.o", ".c", ".o")
SHOWN = 12


def find(source: str | os.PathLike[str], near: Path | None = None) -> Path:
    """The source or object of a program; LoadError, with stems that look alike, when there is none.

    A path (it has a slash or an ending) is taken from the working directory, then from `near`. A stem is looked for as
    bpf/<stem>.bpf.c, <stem>.bpf.c and examples/<stem>.bpf.c, each with .bpf.o too: in `near` and the folders above it
    up to the root of the project, then so from the working directory, and last among the programs that come with the
    lab.
    """
    text = os.fspath(source)
    if text.endswith(ENDINGS) or os.sep in text:
        return _by_path(Path(text), near)
    folders = list(_folders(near))
    for folder in folders:
        for ending in (".bpf.c", ".bpf.o"):
            if _is_there(folder / f"{text}{ending}"):
                return trusted(folder / f"{text}{ending}")
    there = sorted({each.name.partition(".")[0] for folder in folders for each in folder.glob("*.bpf.[co]")})
    close = difflib.get_close_matches(text, there) or there
    raise LoadError(
        f"load {text}: there is no bpf/{text}.bpf.c here or above, nor among the lab's own programs",
        mend=f"there are {', '.join(close[:SHOWN])}" if close else "give a path to a .bpf.c or .bpf.o",
    )


def _by_path(path: Path, near: Path | None) -> Path:
    places = [path] if near is None else [path, near / path]
    for place in places:
        if _is_there(place):
            return place
    looked = " and ".join(str(place.absolute().parent) for place in places)
    raise LoadError(f"load {path}: there is no such file in {looked}", mend="a stem alone is looked for in bpf/")


def _is_there(path: Path) -> bool:
    """False also where it may not be looked at."""
    with suppress(OSError):
        return path.is_file()
    return False


def _folders(near: Path | None) -> Iterator[Path]:
    seen: set[Path] = set()
    for start in (near, Path.cwd()):
        for folder in upwards(start) if start is not None else ():
            for place in (folder / "bpf", folder, folder / "examples"):
                if place not in seen:
                    seen.add(place)
                    yield place
    yield shipped_bpf()
