"""A verdict decides what becomes of a frame."""

from lab import Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")


def test_the_verdict_decides(net, bpf):
    """With one program all ten datagrams arrive, with the other none, though nobody changed the network."""
    datagrams = Stream.udp("client", "server", dst_port=9000, count=10)
    programs = bpf.load("01_xdp_verdict").programs

    with programs["let_through"].attach(net.interface("server/eth0"), mode=Mode.NATIVE) as attachment:
        assert net.send(datagrams).received == 10
        attachment.update(programs["drop"])
        assert net.send(datagrams).received == 0
    assert net.send(datagrams).received == 10
