"""What trace_syscall adds to a system call: counted, told, left out, and on each kind of hook."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion
from lab.bpf.syscalls import numbers

trace = companion("trace_syscall")

pytestmark = pytest.mark.needs("bcc", "ringbuf", "tracepoint")

TOPOLOGY = Topology.pair("client", "server")
CASES: dict[str, dict[str, Any]] = {
    "getppid, counted": {"own": True},
    "getppid, counted, plain tracepoints": {"own": True, "hooks": "tracepoint"},
    "getppid, not among the chosen calls": {"own": True, "call": ("connect",)},
    "getppid, another process chosen": {"pid": 1},
}


def attaching(program: Any) -> Callable[[], Any]:
    """Attached for a block, and read behind it, so that the ring buffer never is full."""

    @contextmanager
    def attach() -> Iterator[None]:
        with trace.attached(program):
            yield
        trace.drain(program)

    return attach


@pytest.mark.parametrize("subject", CASES)
def test_overhead_of_a_cheap_call(bpf, bench, subject):
    """ns that getppid() takes longer."""
    program = trace.load(bpf, **CASES[subject])
    added = bench.overhead(os.getppid, attaching(program), program="trace_syscall", subject=subject)
    counted = [line.calls for line in trace.lines(program) if (line.pid, line.call) == (os.getpid(), "getppid")]
    assert bool(counted) == subject.startswith("getppid, counted")
    assert trace.lost(program) == 0
    assert added.mean < 2_000


@pytest.mark.parametrize("known", (1, 4_096, 65_536, 1_048_576))
def test_overhead_among_many_lines(bpf, bench, known):
    """ns that getppid() takes longer where so many lines of process and call are in the table."""
    program = trace.load(bpf, own=True, entries=2 * known + 4096)
    program.maps["stats"].update({(1 << 24 | number >> 8, number & 255): {} for number in range(known - 1)})
    subject = f"getppid, counted, {known:,} line{'s' * (known > 1)}"
    bench.overhead(os.getppid, attaching(program), program="trace_syscall", subject=subject)
    assert program.maps["stats"].total((os.getpid(), numbers()["getppid"])).calls > 1_000
    assert trace.lost(program) == 0


@pytest.mark.parametrize("network", (True, False), ids=("told", "counted"))
def test_overhead_of_a_call_of_the_network(net, bpf, bench, network):
    """ns that sendto() to an address takes longer, a datagram that is received and dropped."""
    program = trace.load(bpf, own=True, network=network, ring_pages=4096)
    with net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as server, net["client"].enter():
        to = (str(TOPOLOGY.address("server", 4)), 9000)
        server.bind(to)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            added = bench.overhead(
                lambda: client.sendto(b"hello", to),
                attaching(program),
                program="trace_syscall",
                subject=f"sendto, {'told' if network else 'counted alone'}",
            )
    assert next(line.calls for line in trace.lines(program) if line.call == "sendto") > 1_000
    assert trace.lost(program) == 0
    assert added.mean < 5_000
