"""A map is a table that the program fills and user space reads."""

from lab import Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")
ICMP, UDP = 1, 17


def test_packets_by_protocol(net, bpf):
    """Three pings and four datagrams are two entries."""
    program = bpf.load("05_hash_map")
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        net.send(Stream.icmp("client", "server", count=3))
        net.send(Stream.udp("client", "server", dst_port=9, count=4))

    program.maps["packets"].eventually().equals({ICMP: 3, UDP: 4})
