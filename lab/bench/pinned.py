"""Keeps the measuring thread on one CPU, with Python's garbage collector quiet."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned() -> Iterator[int]:
    """This thread on the last CPU it may use (the first one serves most interrupts); gives its number.

    On one CPU the softirq that a send raises runs before the send returns, so sender, program and receiver follow
    each other without a wake-up.
    """
    before = os.sched_getaffinity(0)
    cpu = max(before)
    collecting = gc.isenabled()
    os.sched_setaffinity(0, {cpu})
    gc.disable()
    try:
        yield cpu
    finally:
        if collecting:
            gc.enable()
        os.sched_setaffinity(0, before)
