"""The harness's own BPF programs, which generate, drive and stamp; they ship with the package."""

from __future__ import annotations

from pathlib import Path


def path(stem: str) -> Path:
    """The source of an instrument, for `bpf.load`."""
    return Path(__file__).parent / f"{stem}.bpf.c"
