"""A key is written in wire order: the entry is there, under another port."""

from __future__ import annotations

from lab import Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})


def test_datagrams_are_counted_by_port(net, bpf):
    """10 datagrams to 9000 are counted under 9000."""
    program = bpf.load("wrong_byte_order")
    with program.attach(net["server"].interface("eth0"), mode=Mode.NATIVE):
        net.send(Stream.udp("client", "server", dst_port=9000, count=10))
    assert program.maps["packets"][9000] == 10
