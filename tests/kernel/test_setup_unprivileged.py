"""Without root, make and lab say so in one sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534


@pytest.mark.parametrize("target", ["test", "bench", "scenarios"])
def test_make_says_that_it_needs_root(target: str) -> None:
    """As an ordinary user: status 2, the mend, and nothing is run."""
    # A clean environment: inside `make test`, MAKEFLAGS would make this one a child that announces itself.
    done = subprocess.run(
        ["make", "-f", "-", target],
        input=(REPOSITORY / "Makefile").read_text(),
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "make: namespaces and BPF need root: run it with sudo" in done.stderr
    assert done.stdout == ""
