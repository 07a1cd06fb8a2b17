"""Tests interrupt what they start; a shell that starts pytest in the background would have all of it ignore that."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
