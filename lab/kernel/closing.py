"""Closing what the kernel takes its time to close, without waiting for it.

An AF_PACKET socket takes 8 to 25 ms (synchronize_net), an XDP attachment up to 20 (the dispatcher is rewritten).
Several threads wait together: the grace periods that they wait for are the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

CLOSERS = 8

_closers: ThreadPoolExecutor | None = None
_pending: set[Future[object]] = set()
_lock = threading.Lock()


def soon(close: Callable[[], object]) -> None:
    """Runs `close` in another thread, within some tens of ms; the process does not end before it ran."""
    global _closers
    with _lock:
        if _closers is None:
            _closers = ThreadPoolExecutor(max_workers=CLOSERS, thread_name_prefix="lab-closer")
        job = _closers.submit(close)
        _pending.add(job)
        job.add_done_callback(_pending.discard)


def pending() -> frozenset[Future[object]]:
    """What is not closed yet."""
    return frozenset(_pending.copy())


def _forget() -> None:
    """A fork takes no thread along but the one that forked."""
    global _closers, _lock
    _closers, _lock = None, threading.Lock()
    _pending.clear()


os.register_at_fork(after_in_child=_forget)
