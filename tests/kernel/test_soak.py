"""The soak tool itself: it tells growth, and two hundred cycles bring none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.soak import Soak

PROJECT = Path(__file__).resolve().parents[2]


def test_two_hundred_cycles_leave_nothing() -> None:
    """As `make soak` does in 10,000: as many descriptors, threads and children as before, and the same memory."""
    words = [sys.executable, "-m", "tests.soak", "200", "--workers", "2", "--look-every", "25", "--within", "60"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["grew"] == 0, done.stdout
    assert counts["cycles"] > 0
    assert [each["descriptors"] for each in counts["first"]] == [each["descriptors"] for each in counts["last"]]
    assert counts["looks"] > 2


def test_growth_is_told() -> None:
    """A descriptor more at the last look than at the first; memory may breathe by 8 MiB."""
    soak, kept = Soak(), []
    soak.look()
    assert soak.grown() == []
    with Path("/etc/hosts").open() as file:
        kept.append(file)
        soak.look()
        assert [each.partition(":")[0] for each in soak.grown()] == ["descriptors"]
    memory = bytearray(64 << 20)
    memory[::4096] = bytes(len(memory) // 4096)
    soak.look()
    assert [each.partition(":")[0] for each in soak.grown()] == ["memory_bytes"]
