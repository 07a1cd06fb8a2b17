"""Where things are: the project that a command works for, and the BPF sources that come with the lab."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError

SIGNS = ("pyproject.toml", "pytest.ini", "tox.ini", ".git")


def find_project(start: Path) -> Path:
    """The nearest folder at or above `start` that looks like a project's root; `start` itself when none does."""
    start = start.resolve()
    return next(
        (folder for folder in (start, *start.parents) if any((folder / sign).exists() for sign in SIGNS)), start
    )


def upwards(start: Path) -> Iterator[Path]:
    """The folder and those above it, no further than the root of its project."""
    start = start.resolve()
    root = find_project(start)
    for folder in (start, *start.parents):
        yield folder
        if folder == root:
            return


def trusted(path: Path) -> Path:
    """`path`, which a search came upon and which is about to run with this user's rights.

    LabError where another user could have put it there: not root, nor who called sudo, nor the owner of the lab
    itself, whose code runs already.
    """
    owners = {0, os.geteuid(), int(os.environ.get("SUDO_UID") or 0), Path(__file__).stat().st_uid}
    for each in (path, path.parent):
        about = each.stat()
        open_to_all = about.st_mode & stat.S_IWOTH and not about.st_mode & stat.S_ISVTX
        if about.st_uid not in owners or open_to_all:
            whose = "can be written by everybody" if open_to_all else f"belongs to user {about.st_uid}"
            raise LabError(
                f"use {path}: {each} {whose}, and it would run with your rights",
                mend=f"chown and chmod it if it is yours; else run this in a folder of your own, not in {Path.cwd()}",
            )
    return path


def shipped_bpf() -> Path:
    """The folder of the lab's own programs and headers: bpf/ of a checkout, lab/shipped/ of an installed wheel."""
    package = Path(__file__).parent
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parent / "bpf"
