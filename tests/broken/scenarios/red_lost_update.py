"""Two CPUs count in one place, each from what it read before: the one that writes last wins."""

from __future__ import annotations

import os

FRAMES = 20
FRAME = bytes(64)


def test_every_frame_is_counted(bpf):
    """20 frames on each of two CPUs count 40."""
    program = bpf.load("lost_update")
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in sorted(allowed)[:2]:
            os.sched_setaffinity(0, {cpu})
            for _ in range(FRAMES):
                program.run(FRAME)
    finally:
        os.sched_setaffinity(0, allowed)
    assert program.maps["frames"][0] == 2 * FRAMES
