"""Where a descriptor or a child process was made: a stack kept for each that the lab makes, about 3 µs.

Only code and line numbers are kept, no frames: nothing lives longer because of it. What others make is found by the
object that holds it, and where that was made is known while tracemalloc runs (PYTHONTRACEMALLOC=16).
"""

from __future__ import annotations

import gc
import io
import os
import socket
import subprocess
import sys
import threading
import tracemalloc
from contextlib import suppress
from types import CodeType

DEPTH = 24
FOREIGN = ("/_pytest/", "/pluggy/", "/contextlib.py")
HOLDERS = (socket.socket, io.FileIO, subprocess.Popen, threading.Thread)
Stack = tuple[tuple[CodeType, int], ...]

_of_descriptor: dict[int, tuple[str, Stack]] = {}
"""With what it stood for, since its number may be another's later."""
_of_process: dict[int, Stack] = {}


def descriptor(made: int) -> int:
    """Notes who made this descriptor, and gives it back."""
    with suppress(OSError):
        _of_descriptor[made] = _target(made), _stack()
    return made


def process(pid: int) -> None:
    """Notes who started this process."""
    _of_process[pid] = _stack()


def of_descriptor(number: int) -> str:
    """Who made it, like a traceback; where the lab did not, who holds it; "" where nothing is known."""
    target, stack = _of_descriptor.get(number, ("", ()))
    with suppress(OSError):
        if _target(number) == target:
            return _text(stack)
    return _held("fileno", number)


def of_process(pid: int) -> str:
    """Who started it, in the same way."""
    return _text(_of_process[pid]) if pid in _of_process else _held("pid", pid)


def of_thread(native_id: int) -> str:
    """Who made it, where tracemalloc knows."""
    return _held("native_id", native_id)


def _stack() -> Stack:
    frame = sys._getframe(2)
    kept: list[tuple[CodeType, int]] = []
    while frame is not None and len(kept) < DEPTH:
        kept.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(kept)


def _text(stack: Stack) -> str:
    """The innermost call last, without pytest's own lines."""
    own = [each for each in stack if not any(part in each[0].co_filename for part in FOREIGN)]
    return "\n".join(f'  File "{code.co_filename}", line {line}, in {code.co_qualname}' for code, line in reversed(own))


def _held(attribute: str, number: int) -> str:
    """The object of Python's that stands for it, and where that was made."""
    for each in gc.get_objects():
        if isinstance(each, HOLDERS) and _number(each, attribute) == number:
            trace = tracemalloc.get_object_traceback(each)
            where = trace.format() if trace else ["  PYTHONTRACEMALLOC=16 in the environment shows where it was made"]
            return "\n".join([f"  by {each!r}", *where])
    return ""


def _number(holder: object, attribute: str) -> object:
    found = getattr(holder, attribute, None)
    try:
        return found() if callable(found) else found
    except ValueError:  # of a closed file
        return None


def _target(number: int) -> str:
    return os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - a Path costs more than the call
