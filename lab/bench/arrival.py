"""What was sent has arrived, or it will not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_NS = 1_000_000


def arrived(receive: Callable[..., T], *arguments: int) -> T | None:
    """What a receive call of a socket that does not block returns; None when nothing has come for a millisecond.

    On one CPU a frame has arrived when the send returns, and the first try gets it. Else a softirq was put off, and
    the thread of the kernel that catches up needs this CPU, which the caller may hold: who waits long, waits in vain.
    """
    try:
        return receive(*arguments)
    except BlockingIOError:
        pass
    end = time.perf_counter_ns() + PATIENCE_NS
    while time.perf_counter_ns() < end:
        try:
            return receive(*arguments)
        except BlockingIOError:
            continue
    return None
