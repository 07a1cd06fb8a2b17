"""The requests pass, the answers do not."""

from __future__ import annotations

from lab import Stream, Topology

TOPOLOGY = Topology.chain("client", "firewall", "server", offloads={"tx": False})


def test_a_client_gets_its_answers(net, bpf):
    """Each of 15 echo requests through the firewall is answered."""
    program = bpf.load("dropped_return_path")
    with program.attach(net["firewall"].interface("eth0")), program.attach(net["firewall"].interface("eth1")):
        echo = net.send(Stream.icmp("client", "server", count=15))
    assert echo.lost == 0
