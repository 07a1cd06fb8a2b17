"""new_program gives a range of ports to one socket."""

from __future__ import annotations

import errno
import socket
from typing import Any

from lab import Topology

TOPOLOGY = Topology.pair("client", "server")
FIRST, LAST = 7000, 7999


def test_the_whole_range_and_no_more(net: Any, bpf: Any) -> None:
    """Both ends of the range reach the listener, the ports beside it are refused."""
    program = bpf.load("new_program", first_port=FIRST, last_port=LAST)
    address = str(net.topology.address("server", 4))
    with net["server"].socket(socket.AF_INET) as listener, program.attach(net["server"]):
        listener.bind((address, 80))
        listener.listen()
        program.maps["sockets"][0] = listener
        answers = {}
        for port in (FIRST - 1, FIRST, LAST, LAST + 1):
            with net["client"].socket(socket.AF_INET) as client:
                answers[port] = client.connect_ex((address, port))

    refused = errno.ECONNREFUSED
    assert answers == {FIRST - 1: refused, FIRST: 0, LAST: 0, LAST + 1: refused}
    assert program.maps["taken"][0] == 2


def test_datagrams_go_to_the_udp_socket(net: Any, bpf: Any) -> None:
    """A datagram to any port of the range arrives there."""
    program = bpf.load("new_program", first_port=FIRST, last_port=LAST)
    address = str(net.topology.address("server", 4))
    with net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as server, program.attach(net["server"]):
        server.bind((address, 53))
        server.settimeout(2)
        program.maps["sockets"][1] = server
        with net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", (address, FIRST))
        assert server.recv(100) == b"hello"
