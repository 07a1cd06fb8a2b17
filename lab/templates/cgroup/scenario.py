"""new_program refuses connections to one port."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from lab import Cgroup, Topology

TOPOLOGY = Topology.pair("client", "server")
CLOSED, OPEN = 7777, 7778


@pytest.mark.parametrize("ip", [4, 6])
def test_only_the_closed_port_is_refused(net: Any, bpf: Any, ip: int) -> None:
    """connect() to it fails with EPERM, to its neighbour with what the server says; both are counted."""
    loaded = bpf.load("new_program", closed_port=CLOSED)
    program = loaded.programs[f"new_program{ip}"]
    family = socket.AF_INET if ip == 4 else socket.AF_INET6
    server = str(net.topology.address("server", ip))
    with Cgroup() as group, program.attach(group), group.entered():
        answers = {}
        for port in (CLOSED, OPEN):
            with net["client"].socket(family) as client:
                answers[port] = client.connect_ex((server, port))

    assert answers == {CLOSED: errno.EPERM, OPEN: errno.ECONNREFUSED}
    assert dict(program.maps["asked"].items()) == {CLOSED: 1, OPEN: 1}
