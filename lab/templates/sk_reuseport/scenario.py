"""new_program gives connections to servers in turn."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from lab import Topology

TOPOLOGY = Topology.pair("client", "server")
SERVERS = 3


def listener(net: Any, address: tuple[str, int]) -> socket.socket:
    """One of several on one port."""
    made: socket.socket = net["server"].socket(socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(address)
    made.listen()
    made.setblocking(False)
    return made


def test_each_server_has_its_turn(net: Any, bpf: Any) -> None:
    """Of six connections each of three servers accepts two."""
    program = bpf.load("new_program", servers=SERVERS)
    address = (str(net.topology.address("server", 4)), 7777)
    with ExitStack() as stack:
        servers = [stack.enter_context(listener(net, address)) for _ in range(SERVERS)]
        for slot, server in enumerate(servers):
            program.maps["sockets"][slot] = server
        with program.attach(servers[0]):
            for _ in range(2 * SERVERS):
                stack.enter_context(net["client"].socket(socket.AF_INET)).connect(address)
        accepted = [len([server.accept()[0].close() for _ in range(2)]) for server in servers]

    assert accepted == [2, 2, 2]
    assert [program.maps["given"][slot] for slot in range(SERVERS)] == [2, 2, 2]
