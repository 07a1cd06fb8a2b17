"""What new_program adds to a TCP connection, from connect() to close()."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from typing import Any

import pytest

from lab import Topology

TOPOLOGY = Topology.pair("client", "server")


@pytest.mark.parametrize("attached", [False, True], ids=["without", "with"])
def test_a_connection(net: Any, bpf: Any, benchmark: Any, attached: bool) -> None:
    """The two rows differ by what the program costs: read them side by side."""
    program = bpf.load("new_program", first_port=7000, last_port=7999)
    address = (str(net.topology.address("server", 4)), 7000)
    with net["server"].socket(socket.AF_INET) as listener:
        listener.bind(address)
        listener.listen()
        program.maps["sockets"][0] = listener

        def connect() -> None:
            with net["client"].socket(socket.AF_INET) as client:
                client.connect(address)
                listener.accept()[0].close()

        with program.attach(net["server"]) if attached else nullcontext():
            benchmark.pedantic(connect, rounds=200, warmup_rounds=20)
