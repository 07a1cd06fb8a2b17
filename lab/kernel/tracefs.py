"""Tracepoints and the functions that can be probed, as tracefs lists them (Documentation/trace/events.rst)."""

from __future__ import annotations

import os

from lab.kernel import mounts


def event_id(category: str, name: str) -> int:
    """The number by which perf_event_open(2) knows a tracepoint; FileNotFoundError where there is no such one."""
    return int(_read(f"events/{category}/{name}/id"))


def events() -> list[str]:
    """All tracepoints, as "sock/inet_sock_set_state"."""
    return [line.replace(":", "/", 1) for line in _read("available_events").splitlines()]


def functions() -> list[str]:
    """All functions that kprobes may sit on; none where the kernel has no function tracer, or does not tell."""
    try:
        return [line.split()[0] for line in _read("available_filter_functions").splitlines() if line]
    except OSError:
        return []


def _read(path: str) -> str:
    with mounts.folder("tracefs") as root:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as text:
            return text.read()
