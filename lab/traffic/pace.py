"""Sending at a rate."""

from __future__ import annotations

import time


class Pace:
    """Says when message `n` is due at so many a second; None is at once."""

    def __init__(self, rate_pps: float | None) -> None:
        self._interval_s = 1 / rate_pps if rate_pps else 0.0
        self._start = time.monotonic()

    def wait_for(self, number: int) -> None:
        """Returns when message `number` is due: asleep while there is time, awake for the last 100 µs."""
        if not self._interval_s:
            return
        due = self._start + number * self._interval_s
        while (left := due - time.monotonic()) > 0:
            if left > 0.0002:
                time.sleep(left - 0.0001)
