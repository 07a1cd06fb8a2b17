"""What sockops_track_connection adds to a connection's life, and to a round trip on one, by number of connections."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import cycle
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion
from lab.kernel.cgroup import Cgroup

track = companion("sockops_track_connection")

TOPOLOGY = Topology.pair("client", "server", sysctls={"net.core.somaxconn": 1 << 16})
NAME = "sockops_track_connection"
PORT = 8080
RESET = struct.pack("ii", 1, 0)
KNOWN = (1, 4_096, 65_536, 1_048_576)
LIVE = 4_096
"""So many connections at most speak in turn; the others are there in the table alone."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup with this process inside."""
    with Cgroup() as made, made.entered():
        yield made


def tracking(program: Any, group: Cgroup, net: Any) -> Callable[[], AbstractContextManager[None]]:
    """Attached, with the connections that are there already."""

    @contextmanager
    def attach() -> Iterator[None]:
        with program.attach(group):
            for name in ("client", "server"):
                net[name].run(track.look, program, group)
            yield

    return attach


def listening(stack: ExitStack, net: Any) -> socket.socket:
    listener = stack.enter_context(net["server"].socket(socket.AF_INET6))
    listener.bind(("::", PORT))
    listener.listen(1 << 16)
    return listener


def where(net: Any, ip: int) -> tuple[str, int]:
    interface = net.interface("server/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6), PORT


@families
def test_a_connection(net, bpf, bench, group, ip):
    """ns more for a connection of two tracked sockets: opened, accepted and reset; two entries, two events."""
    program = bpf.load(NAME)
    with ExitStack() as stack:
        listener, address = listening(stack, net), where(net, ip)
        stack.enter_context(net["client"].enter())

        def connect() -> None:
            client = socket.socket(FAMILIES[ip])
            client.connect(address)
            served = listener.accept()[0]
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            served.close()

        bench.overhead(connect, tracking(program, group, net), program=NAME, subject=f"IPv{ip} connection, both ends")
    times = track.happened(program.maps)
    assert times["OPENED_ACTIVE"] == times["OPENED_PASSIVE"] > 100
    assert times["NOT_TRACKED"] == times["STRANGER"] == 0


@pytest.mark.parametrize("known", KNOWN)
def test_a_round_trip(net, bpf, bench, group, known):
    """ns more for a byte there and one back: an RTT sample at either end; so many connections are known."""
    program = bpf.load(NAME, max_entries={"connections": 4 * known + (1 << 14)})
    live = min(known, LIVE)
    program.maps["connections"].update({key: {} for key in range(1 << 40, (1 << 40) + known - live)})
    with ExitStack() as stack:
        listener, address, pairs = listening(stack, net), where(net, 4), []
        for _ in range(live):
            client = stack.enter_context(net["client"].socket(socket.AF_INET))
            client.connect(address)
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        turn = cycle(pairs)

        def round_trip() -> None:
            client, served = next(turn)
            client.send(b"1")
            served.recv(1)
            served.send(b"2")
            client.recv(1)

        subject = f"round trip, {known:,} connection{'s' * (known > 1)}"
        bench.overhead(round_trip, tracking(program, group, net), program=NAME, subject=subject)
        assert track.happened(program.maps)["OPENED_ADOPTED"] == 2 * live
        assert program.maps["connections"][cookie_of(pairs[0][0])].rtt_samples > 0


def cookie_of(connection: socket.socket) -> int:
    """SO_COOKIE."""
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, 57, 8), sys.byteorder)
