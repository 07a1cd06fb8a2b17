"""Waiting for a condition with a deadline, the lab's only way to let time pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from lab.errors import LabError, WaitTimeout

T = TypeVar("T")
PATIENCE = "LAB_PATIENCE"
"""An environment variable: so many times longer is waited, on a machine that is slow (one that is emulated, say)."""


def wait_until(condition: Callable[[], T], *, within_s: float = 2.0, what: str) -> T:
    """The first true value of `condition`; WaitTimeout, naming `what`, after `within_s` seconds (times $LAB_PATIENCE).

    The condition is looked at once more at the deadline, so a slow machine cannot miss it.
    """
    within_s *= patience()
    deadline = time.monotonic() + within_s
    pause_s = 0.0002
    while True:
        last_look = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if last_look:
            raise WaitTimeout(f"waited {within_s:g} s in vain for: {what}")
        time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s = min(pause_s * 2, 0.02)


def patience() -> float:
    """How many times longer is waited: $LAB_PATIENCE, or 1."""
    return factor(PATIENCE, mend=f"{PATIENCE}=10 waits ten times as long")


def factor(variable: str, *, mend: str) -> float:
    """The positive number in an environment variable, 1 where it is not set; LabError where it is none."""
    told = os.environ.get(variable) or "1"
    with suppress(ValueError):
        if 0 < float(told) < float("inf"):
            return float(told)
    raise LabError(f"{variable}={told} is no positive number", mend=mend)
