"""trace_syscall by kprobes counts and tells the chosen calls; apart from its other scenarios, for emulated machines.

Kernels with kprobes are often those of a machine of the matrix, where BCC's compiler takes long: one compile is worth
it, the sixty of the other scenarios are not.
"""

from __future__ import annotations

import ctypes
import os
import socket
from typing import Any

import pytest

from lab.bpf.companion import companion
from lab.bpf.syscalls import numbers

trace = companion("trace_syscall")

pytestmark = pytest.mark.needs("bcc_compiler", "btf", "ringbuf", "kprobe")

LIBC = ctypes.CDLL(None, use_errno=True)


def told(program: Any) -> list[str]:
    """What was told, each call without its process and time: "connect(3, 10.0.0.2:80) = 0"."""
    return [str(each).partition(") ")[2].rpartition(",")[0] for each in trace.drain(program)]


def test_kprobes_on_chosen_calls_tell_what_tracepoints_tell(bpf):
    """Counts, errors, arguments and addresses of the chosen calls; of another one nothing, and nothing is lost."""
    chosen = ("getppid", "getpgid", "connect")
    program = trace.load(bpf, pid=os.getpid(), own=True, call=chosen, hooks="kprobe")
    with trace.attached(program, chosen), socket.socket() as ip4, socket.socket(socket.AF_INET6) as ip6:
        for _ in range(10):
            os.getppid()
        LIBC.syscall(numbers()["getpgid"], -5)
        LIBC.syscall(numbers()["getuid"])
        ip4.connect_ex(("255.255.255.255", 9))
        ip6.connect_ex(("ff02::1", 9))
        descriptors = ip4.fileno(), ip6.fileno()
    assert {each.call: (each.calls, dict(each.error_names)) for each in trace.lines(program)} == {
        "getppid": (10, {}),
        "getpgid": (1, {"ESRCH": 1}),
        "connect": (2, {"ENETUNREACH": 2}),
    }
    assert told(program) == [
        f"connect({descriptors[0]}, 255.255.255.255:9) = -1 ENETUNREACH",
        f"connect({descriptors[1]}, [ff02::1]:9) = -1 ENETUNREACH",
    ]
    assert trace.lost(program) == 0
