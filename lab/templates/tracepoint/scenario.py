"""new_program sees every change of a TCP socket's state."""

from __future__ import annotations

from typing import Any

from lab import Stream, Topology

TOPOLOGY = Topology.pair("client", "server")
ESTABLISHED, SYN_SENT, SYN_RECV, CLOSE = 1, 2, 3, 7
PORT = 7777


def test_a_connection_is_established_at_both_ends(net: Any, bpf: Any) -> None:
    """The client goes by SYN_SENT, the server by SYN_RECV; no event is lost."""
    program = bpf.load("new_program", port=PORT)
    with program.attach():
        net.send(Stream.tcp("client", "server", dst_port=PORT, count=1))

    events = program.maps["events"].drain()
    changes = [(each.old_state, each.new_state) for each in events]
    assert changes.count((SYN_SENT, ESTABLISHED)) == 1
    assert changes.count((SYN_RECV, ESTABLISHED)) == 1
    assert program.maps["changes"].total(ESTABLISHED) == 2
    assert program.globals["lost"] == 0


def test_another_port_is_not_reported(net: Any, bpf: Any) -> None:
    """The knob leaves the neighbours out."""
    program = bpf.load("new_program", port=PORT)
    with program.attach():
        net.send(Stream.tcp("client", "server", dst_port=PORT + 1, count=1))

    assert program.maps["events"].drain() == []
