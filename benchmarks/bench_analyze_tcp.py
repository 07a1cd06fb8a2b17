"""What analyze_tcp adds to a connection's life and to a round trip, in a namespace that it watches and in another."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion

analyze = companion("analyze_tcp")

TOPOLOGY = Topology.pair("client", "server", sysctls={"net.core.somaxconn": 1 << 16})
NAME = "analyze_tcp"
PORT = 8080
RESET = struct.pack("ii", 1, 0)
KNOWN = (1, 4_096, 65_536, 1_048_576)
LIVE = 4_096
"""So many connections at most speak in turn; the others are there in the table alone."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
watched = pytest.mark.parametrize("watched", (True, False), ids=("watched", "not watched"))


def loaded(bpf: Any, net: Any, watched: bool, room: int = 1 << 16) -> Any:
    """For both ends of the connections, or for a namespace that does not exist."""
    inodes = tuple(analyze.inode_of(net[name]) for name in ("client", "server")) if watched else (1,)
    return analyze.load(bpf, namespaces=inodes, max_entries={"events": 1 << 20, "connections": room})


def listening(stack: ExitStack, net: Any) -> socket.socket:
    listener = stack.enter_context(net["server"].socket(socket.AF_INET6))
    listener.bind(("::", PORT))
    listener.listen(1 << 16)
    return listener


def where(net: Any, ip: int) -> tuple[str, int]:
    interface = net.interface("server/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6), PORT


@watched
@pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
def test_a_connection(net, bpf, bench, ip, watched):
    """ns more for a connection of two sockets: opened, accepted and reset; seven events and two records, or none."""
    program = loaded(bpf, net, watched)
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

        subject = f"IPv{ip} connection, both ends{'' if watched else ', not watched'}"
        bench.overhead(connect, partial(analyze.attached, program), program=NAME, subject=subject)
    assert (program.maps["totals"].total("STATE") > 100) == watched


@pytest.mark.parametrize(
    ("known", "watched"), [*((known, True) for known in KNOWN), (LIVE, False)], ids=lambda each: str(each).lower()
)
def test_a_round_trip(net, bpf, bench, known, watched):
    """ns more for a byte there and one back: tcp_probe for each segment; so many connections are known."""
    program = loaded(bpf, net, watched, room=4 * known + (1 << 14))
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

        subject = f"round trip, {known:,} connection{'s' * (known > 1)}{'' if watched else ', not watched'}"
        bench.overhead(round_trip, partial(analyze.attached, program), program=NAME, subject=subject)
        assert (cookie_of(pairs[0][0]) in program.maps["connections"]) == watched


def cookie_of(connection: socket.socket) -> int:
    """SO_COOKIE."""
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, 57, 8), sys.byteorder)
