"""Where things are: the project that a command works for, and the BPF sources that come with the lab."""

from __future__ import annotations

from pathlib import Path

SIGNS = ("pyproject.toml", "pytest.ini", "tox.ini", ".git")


def find_project(start: Path) -> Path:
    """The nearest folder at or above `start` that looks like a project's root; `start` itself when none does."""
    start = start.resolve()
    return next(
        (folder for folder in (start, *start.parents) if any((folder / sign).exists() for sign in SIGNS)), start
    )


def shipped_bpf() -> Path:
    """The folder of the lab's own programs and headers: bpf/ of a checkout, lab/shipped/ of an installed wheel."""
    package = Path(__file__).parent
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parent / "bpf"
