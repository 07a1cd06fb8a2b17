"""What log_tcp_connect adds to a connection, and to every other system call of the machine."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion

log = companion("log_tcp_connect")

pytestmark = pytest.mark.needs("bcc", "btf", "ringbuf", "tracepoint")

TOPOLOGY = Topology.pair("client", "server")
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
SERVER = {ip: str(TOPOLOGY.address("server", ip)) for ip in (4, 6)}
RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: close() sends an RST, and no TIME_WAIT stays behind."""
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@contextmanager
def listening(net: Any, ip: int) -> Iterator[Callable[[], None]]:
    """An operation, of a thread in the client's namespace: one connection, accepted and closed."""
    with net["server"].socket(FAMILY[ip], socket.SOCK_STREAM) as server, net["client"].enter():
        server.bind((SERVER[ip], 9000))
        server.listen(16)

        def connect() -> None:
            with socket.socket(FAMILY[ip], socket.SOCK_STREAM) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
                client.connect((SERVER[ip], 9000))
                server.accept()[0].close()

        yield connect


def attaching(program: Any) -> Callable[[], Any]:
    """Attached for a block, and read behind it, so that the ring buffer never is full."""

    @contextmanager
    def attach() -> Iterator[None]:
        with log.attached(program):
            yield
        program.maps["events"].drain()

    return attach


@families
def test_overhead_of_a_connection(net, bpf, bench, ip):
    """ns that a connection takes longer: made, accepted and closed."""
    program = log.load(bpf)
    with listening(net, ip) as connect:
        added = bench.overhead(
            connect,
            attaching(program),
            program="log_tcp_connect",
            subject=f"IPv{ip}, a connection",
            below_ns=20_000,
            blocks=16,
        )
    assert log.totals(program)[log.Total.CONNECTED] > 1_000
    assert log.lost(program) == 0
    assert added.mean < 20_000


@pytest.mark.parametrize("under_way", (1, 4_096, 65_536, 1_048_576))
def test_overhead_among_many(net, bpf, bench, under_way):
    """ns that a connection takes longer while so many others, which nobody answers, are under way."""
    program = log.load(bpf, connections=2 * under_way + 1024)
    program.maps["connecting"].update({key: {} for key in range(1, under_way)})
    subject = f"IPv4, a connection, {under_way:,} under way"
    with listening(net, 4) as connect:
        bench.overhead(connect, attaching(program), program="log_tcp_connect", subject=subject)
    assert log.totals(program)[log.Total.CONNECTED] > 1_000
    assert log.lost(program) == log.totals(program)[log.Total.NO_ROOM] == 0


def test_overhead_of_a_refused_connection(net, bpf, bench):
    """ns that connect() to a closed port takes longer."""
    program = log.load(bpf)

    def connect() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect_ex((SERVER[4], 9001))

    with net["client"].enter():
        bench.overhead(connect, attaching(program), program="log_tcp_connect", subject="IPv4, a closed port", blocks=16)
    assert log.totals(program)[log.Total.RESET] > 1_000
    assert log.lost(program) == 0


@pytest.mark.parametrize(
    ("subject", "options"),
    (
        ("every other system call", {}),
        ("every other system call, refusals=False", {"refusals": False}),
        ("every other system call, every_call=True", {"every_call": True}),
    ),
    ids=("hooks on connect", "no hooks on calls", "hooks on every call"),
)
def test_overhead_of_other_calls(bpf, bench, subject, options):
    """ns that getppid() takes longer, which has nothing to do with it."""
    program = log.load(bpf, **options)
    added = bench.overhead(os.getppid, attaching(program), program="log_tcp_connect", subject=subject)
    assert added.mean < 1_000
