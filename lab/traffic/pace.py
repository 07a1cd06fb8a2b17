"""Sending at a rate."""

from __future__ import annotations

import time

SLEEP_OVERRUN_S = 0.0001
"""A sleep ends so much too late on an idle machine."""


class Pace:
    """Says when message `n` is due at so many a second; None is at once."""

    def __init__(self, rate_pps: float | None) -> None:
        self._interval_s = 1 / rate_pps if rate_pps else 0.0
        self._start_s = time.monotonic()

    def start(self) -> None:
        """Message 0 is due now."""
        self._start_s = time.monotonic()

    def due_in_s(self, number: int) -> float:
        """Seconds until message `number` is due; 0.0 when it is."""
        if not self._interval_s:
            return 0.0
        return max(0.0, self._start_s + number * self._interval_s - time.monotonic())

    @staticmethod
    def sleep(seconds: float) -> None:
        """Lets time pass, and returns a little early rather than late: asks for no more where little is left."""
        if seconds > 2 * SLEEP_OVERRUN_S:
            time.sleep(seconds - SLEEP_OVERRUN_S)
