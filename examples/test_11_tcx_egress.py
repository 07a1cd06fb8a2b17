"""What leaves an interface is changed, and stays valid."""

from scapy.layers.l2 import Ether

from lab import Stream, Topology, expect

TOPOLOGY = Topology.pair("client", "server")


def test_the_ttl_of_what_leaves(net, bpf):
    """The frame differs in TTL and checksum alone, and the server's kernel, which verifies that, takes it."""
    with bpf.load("11_tcx_egress").attach(net.interface("client/eth0")), net.capture("server/eth0") as capture:
        assert net.send(Stream.udp("client", "server", dst_port=9, count=3)).received == 3

    packet = capture.packets[0]
    expected = Ether(bytes(packet))
    del expected["IP"].chksum  # scapy computes it anew
    assert packet["IP"].ttl == 7
    expect([packet]).equals(Ether(bytes(expected)))
