"""Iterator programs: what they see, and what is none; and the instrument that loses segments."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from lab import Direction, Topology, instruments
from lab.bpf.iterate import iterate
from lab.errors import AttachError

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})
SOURCE = Path(__file__).parents[1] / "bpf" / "iterate.bpf.c"


def listen(net: Any, name: str, port: int) -> socket.socket:
    listener: socket.socket = net[name].socket(socket.AF_INET)
    listener.bind(("0.0.0.0", port))
    listener.listen()
    return listener


def ports(net: Any, name: str, program: Any) -> list[int]:
    raw = net[name].run(iterate, program)
    return sorted(struct.unpack(f"={len(raw) // 2}H", raw))


def test_an_iterator_sees_the_sockets_of_one_namespace(net: Any, bpf: Any) -> None:
    """What it writes is what is there now, in the namespace of the caller; no descriptor stays open."""
    program = bpf.load(SOURCE, program="ports")
    with listen(net, "server", 81), listen(net, "server", 80), listen(net, "client", 90):
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert ports(net, "server", program) == [80, 81]
        assert ports(net, "client", program) == [90]
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert ports(net, "server", program) == []


def test_what_is_no_iterator_is_refused(bpf: Any) -> None:
    """A sentence, before any system call."""
    program = bpf.load(SOURCE, program="no_iterator")
    with pytest.raises(AttachError, match="is no iterator"):
        iterate(program)


@pytest.mark.parametrize("family", (socket.AF_INET, socket.AF_INET6), ids=("ipv4", "ipv6"))
def test_lose_drops_what_it_is_told_to(net: Any, bpf: Any, family: socket.AddressFamily) -> None:
    """The next two FINs are lost, and neither SYN nor data before them."""
    lose = bpf.load(instruments.path("lose"))
    host = net.interface("server/eth0")
    with lose.attach(host, direction=Direction.INGRESS), net["server"].socket(family) as listener:
        listener.bind(("", 80))
        listener.listen()
        lose.globals["flags"], lose.globals["left"] = 0x01, 2
        clients = [net["client"].socket(family) for _ in range(2)]
        for client in clients:
            client.connect((str(host.ipv4 if family == socket.AF_INET else host.ipv6), 80))
            served, _ = listener.accept()
            client.send(b"data")
            assert served.recv(10) == b"data"
            client.close()
            served.close()
    assert (lose.globals["lost"], lose.globals["left"]) == (2, 0)
