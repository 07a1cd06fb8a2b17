"""What reuseport_balance adds to a datagram and to a connection, by policy, by servers and by flows."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion
from lab.kernel.packet import open_sender
from lab.traffic import frames

balance = companion("reuseport_balance")

TOPOLOGY = Topology.pair("client", "server")
PORT = 8080
FLOWS = (1, 4_096, 65_536, 1_048_576)
PORTS = 32_768
IP_CHECKSUM, SOURCE_ADDRESS, SOURCE_PORT, UDP_CHECKSUM = 24, 26, 34, 40
"""Offsets in a frame of Ethernet, IPv4 and UDP."""


@contextmanager
def servers(net: Any, kind: int, count: int) -> Iterator[list[socket.socket]]:
    """So many on one port; of datagrams nobody reads, they are dropped at a full buffer."""
    with ExitStack() as stack:
        made = [stack.enter_context(net["server"].socket(socket.AF_INET, kind)) for _ in range(count)]
        for each in made:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            each.bind((str(net.topology.address("server", 4)), PORT))
            if kind == socket.SOCK_STREAM:
                each.listen(64)
                each.setblocking(False)
        yield made


def balancing(bpf: Any, policy: str, sockets: list[socket.socket]) -> Any:
    """The program, and what attaches it to them."""
    program = bpf.load("reuseport_balance", program=policy)
    balancer = balance.Balancer(program)
    for each in sockets:
        balancer.add(each)
    return program


def datagrams(count: int) -> list[bytes]:
    """One of each flow, 64 bytes: a source port and address of its own. Without a checksum, as RFC 768 allows."""
    frame = bytearray(bytes(frames.udp(TOPOLOGY, "client", "server", dst_port=PORT, payload=bytes(22))))
    frame[UDP_CHECKSUM : UDP_CHECKSUM + 2] = bytes(2)
    (client,), (checksum,) = (
        struct.unpack_from("!I", frame, SOURCE_ADDRESS),
        struct.unpack_from("!H", frame, IP_CHECKSUM),
    )
    made = []
    for number in range(count):
        struct.pack_into("!H", frame, SOURCE_PORT, 1024 + number % PORTS)
        struct.pack_into("!I", frame, SOURCE_ADDRESS, client + number // PORTS)
        struct.pack_into("!H", frame, IP_CHECKSUM, (checksum - number // PORTS) % 0xFFFF)  # RFC 1624
        made.append(bytes(frame))
    return made


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize("policy", ("by_hash", "in_turn", "by_cpu"))
def test_what_a_datagram_costs(net: Any, bpf: Any, bench: Any, policy: str, flows: int) -> None:
    """ns more than the kernel's own choice among four sockets, for a datagram that is chosen for, then dropped."""
    with servers(net, socket.SOCK_DGRAM, 4) as sockets, net["client"].run(open_sender, "eth0") as raw:
        program = balancing(bpf, policy, sockets)
        send, endless = raw.send, cycle(datagrams(flows))
        bench.overhead(
            lambda: send(next(endless)),
            lambda: program.attach(sockets[0]),
            program="reuseport_balance",
            subject=f"{policy}, UDP, {flows:,} flow{'s' * (flows > 1)}",
        )
        given = [program.maps["counts"].total(slot).chosen for slot in range(4)]
    assert sum(given) > 1000
    assert program.maps["outcomes"].total("KERNEL_CHOSE") == 0


@pytest.mark.parametrize("count", (1, 4))
def test_what_a_connection_costs(net: Any, bpf: Any, bench: Any, count: int) -> None:
    """ns more than without, from connect() to a reset, by the number of servers."""
    address = (str(net.topology.address("server", 4)), PORT)
    with servers(net, socket.SOCK_STREAM, count) as sockets:
        program = balancing(bpf, "in_turn", sockets)
        enter = net["client"].socket

        def connect() -> None:
            with enter(socket.AF_INET) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.connect(address)
            for each in sockets:
                try:
                    each.accept()[0].close()
                    return
                except BlockingIOError:
                    continue

        bench.overhead(
            connect,
            lambda: program.attach(sockets[0]),
            program="reuseport_balance",
            subject=f"in_turn, TCP, {count} server{'s' * (count > 1)}",
        )
    assert sum(program.maps["counts"].total(slot).chosen for slot in range(count)) > 100
