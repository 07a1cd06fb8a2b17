"""A timer goes on when the frame has gone."""

import time

from lab import wait_until


def test_three_ticks_after_one_frame(bpf):
    """Two frames start one clock; it ticks three times, 5 ms apart at least."""
    program = bpf.load("19_timer")
    start = time.monotonic()
    program.run(bytes(64))
    program.run(bytes(64))

    wait_until(lambda: program.globals["ticks"] == 3, within_s=5, what="three ticks")
    assert time.monotonic() - start >= 0.015
