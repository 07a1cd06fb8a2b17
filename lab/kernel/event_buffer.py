"""Records that a program sends up: ring buffers and perf buffers, read through libbpf.

libbpf orders the memory accesses between kernel and reader; each record is copied, because its room is given back to
the kernel when the callback returns.
"""

from __future__ import annotations

import ctypes
import errno
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from lab.errors import MapError
from lab.kernel import libbpf

PERF_PAGES = 64
"""Of 4096 bytes, for each CPU: 256 KiB."""
LONGEST_POLL_MS = 20
"""A program may submit with BPF_RB_NO_WAKEUP, so nobody is woken: the buffer is looked into at least this often."""


class _Buffer:
    """What both kinds share: records wait here, in order, until they are asked for."""

    _kind = ""

    def __init__(self) -> None:
        self.lost = 0
        self._waiting: deque[bytes] = deque()
        self._handle: int | None = None

    def wait(self, count: int, within_s: float) -> bool:
        """True once `count` records wait to be taken, False when the deadline comes first."""
        deadline = time.monotonic() + within_s
        self._consume()
        while len(self._waiting) < count and (left_s := deadline - time.monotonic()) > 0:
            self._poll(min(LONGEST_POLL_MS, int(left_s * 1000) + 1))
            self._consume()
        return len(self._waiting) >= count

    def take(self, count: int | None) -> list[bytes]:
        """The oldest `count` of the records that wait, or all."""
        taken = len(self._waiting) if count is None else min(count, len(self._waiting))
        return [self._waiting.popleft() for _ in range(taken)]

    def peek(self) -> list[bytes]:
        """The records that wait; they stay."""
        return list(self._waiting)

    def close(self) -> None:
        """Gives the memory back; records that nobody read are gone."""
        handle, self._handle = self._handle, None
        if handle:
            getattr(libbpf.library(), f"{self._kind}__free")(handle)

    def _opened(self, handle: int | None) -> int:
        if not handle:
            number = libbpf.error_of(None)
            raise MapError(f"read a {self._kind.replace('_', ' ')}: {libbpf.sentence(number)}")
        return handle

    def _consume(self) -> None:
        self._call("consume")

    def _poll(self, timeout_ms: int) -> None:
        self._call("poll", timeout_ms)

    def _call(self, verb: str, *arguments: int) -> None:
        if not self._handle:
            raise MapError(f"read a {self._kind.replace('_', ' ')} that is closed", mend="read it before close()")
        result = getattr(libbpf.library(), f"{self._kind}__{verb}")(self._handle, *arguments)
        if result < 0 and -result not in (errno.EINTR, errno.EAGAIN):
            raise MapError(f"read a {self._kind.replace('_', ' ')}: {libbpf.sentence(-result)}")


class RingBuffer(_Buffer):
    """BPF_MAP_TYPE_RINGBUF: one buffer for all CPUs, records in the order in which they were reserved."""

    _kind = "ring_buffer"

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._callback = libbpf.SAMPLE(self._on_sample)
        self._handle = self._opened(libbpf.library().ring_buffer__new(fd, self._callback, None, None))

    def _on_sample(self, _context: Any, data: int, size: int) -> int:
        self._waiting.append(ctypes.string_at(data, size))
        return 0


class PerfBuffer(_Buffer):
    """BPF_MAP_TYPE_PERF_EVENT_ARRAY: a buffer a CPU, so records of two CPUs come in no order.

    `lost` counts the records for which a buffer had no room. The kernel pads records to a multiple of 8, minus 4.
    """

    _kind = "perf_buffer"

    def __init__(self, fd: int, pages: int = PERF_PAGES) -> None:
        super().__init__()
        self._callbacks: tuple[Callable[..., Any], ...] = (
            libbpf.PERF_SAMPLE(self._on_sample),
            libbpf.PERF_LOST(self._on_lost),
        )
        self._handle = self._opened(libbpf.library().perf_buffer__new(fd, pages, *self._callbacks, None, None))

    def _on_sample(self, _context: Any, _cpu: int, data: int, size: int) -> None:
        self._waiting.append(ctypes.string_at(data, size))

    def _on_lost(self, _context: Any, _cpu: int, count: int) -> None:
        self.lost += count
