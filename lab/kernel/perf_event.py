"""perf_event_open(2), as far as BPF programs need it: an event that runs a program instead of being counted."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
from dataclasses import dataclass

from lab.kernel import origin

PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "s390x": 331, "ppc64le": 319}.get(
    platform.machine(), 298
)
PERF_TYPE_SOFTWARE, PERF_TYPE_TRACEPOINT = 1, 2
PERF_COUNT_SW_CPU_CLOCK = 0
PERF_FLAG_FD_CLOEXEC = 8
IOC_ENABLE, IOC_SET_BPF = 0x2400, 0x40042408
FREQUENCY = 1 << 10
ATTRIBUTE_BYTES = 112

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Event:
    """struct perf_event_attr, as far as it is used here; `config1` and `config2` name a probe's function and offset."""

    type: int
    config: int
    sample_period: int = 1
    flags: int = 0
    config1: int = 0
    config2: int = 0

    def open(self, *, pid: int = -1, cpu: int = 0) -> int:
        """Its descriptor, not yet enabled; for every process on one CPU. OSError when the kernel refuses."""
        head = struct.pack(
            "=IIQQQQQII", self.type, ATTRIBUTE_BYTES, self.config, self.sample_period, 0, 0, self.flags, 1, 0
        )
        raw = (head + struct.pack("=QQ", self.config1, self.config2)).ljust(ATTRIBUTE_BYTES, b"\0")
        result: int = _libc.syscall(PERF_EVENT_OPEN, raw, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return origin.descriptor(result)


def set_program(event_fd: int, program_fd: int) -> None:
    """Has the event run the program; how it is done where it has no bpf_link (before Linux 5.15)."""
    fcntl.ioctl(event_fd, IOC_SET_BPF, program_fd)


def enable(event_fd: int) -> None:
    """Starts the event."""
    fcntl.ioctl(event_fd, IOC_ENABLE, 0)


def probe_type(kind: str) -> tuple[int, int]:
    """The (type, bit of config for a return probe) of "kprobe" or "uprobe"; FileNotFoundError where there is none."""
    folder = f"/sys/bus/event_source/devices/{kind}"
    return int(_read(f"{folder}/type")), int(_read(f"{folder}/format/retprobe").removeprefix("config:"))


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 256).decode().strip()
    finally:
        os.close(descriptor)
