"""A port is rewritten and the checksum is not: every datagram is dropped by the server's stack."""

from __future__ import annotations

from lab import Stream, Topology

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})


def test_the_service_answers_at_its_public_port(net, bpf):
    """What is sent to 8080 arrives at 9000."""
    program = bpf.load("wrong_checksum")
    with program.attach(net["server"].interface("eth0")):
        delivery = net.send(Stream.udp("client", "server", dst_port=9000, to_port=8080, count=20))
    assert delivery.received == 20
