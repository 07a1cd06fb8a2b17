"""Processes inside a namespace that cannot outlive the lab (prctl(2), PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from lab.kernel import netns, origin

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_spawner: ThreadPoolExecutor | None = None
_spawner_lock = threading.Lock()


def spawn(netns_fd: int, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts `argv` in the namespace, in a session of its own; the kernel kills it when the lab dies.

    The signal fires when the *thread* that forked ends, so a thread other than the main one has a thread fork that
    lives as long as the process does.
    """
    if threading.current_thread() is threading.main_thread():
        made = _spawn(netns_fd, argv, options)
    else:
        made = _long_lived().submit(_spawn, netns_fd, argv, options).result()
    origin.process(made.pid)
    return made


def kill(process: subprocess.Popen[Any]) -> None:
    """Ends the process and whatever it started in its session, and waits for it; nothing if it has ended."""
    if process.returncode is None:  # not waited for yet, so its number is still its own, ended or not
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def dying_with_the_lab() -> Callable[[], None]:
    """What a child runs before its program (`preexec_fn`): the kernel kills it when the thread that forked it ends."""
    parent = os.getpid()
    prctl, getppid, leave = _libc.prctl, os.getppid, os._exit

    def die_with_the_lab() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if getppid() != parent:  # it died between the fork and the line above
            leave(127)

    return die_with_the_lab


def _spawn(netns_fd: int, argv: Sequence[str], options: dict[str, Any]) -> subprocess.Popen[Any]:
    options = {"start_new_session": True, **options}
    with netns.inside(netns_fd):
        return subprocess.Popen(argv, preexec_fn=dying_with_the_lab(), **options)


def _long_lived() -> ThreadPoolExecutor:
    global _spawner
    with _spawner_lock:
        if _spawner is None:
            _spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-spawner")
        return _spawner


def _forget() -> None:
    """A fork takes no thread along but the one that forked."""
    global _spawner, _spawner_lock
    _spawner, _spawner_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
