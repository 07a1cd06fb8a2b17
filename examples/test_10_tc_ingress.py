"""tc sees what the kernel made of the frame, and may write into it."""

from lab import Action, Stream, Topology
from lab.traffic import frames

TOPOLOGY = Topology.pair("client", "server")


def test_the_mark_is_written(bpf):
    """The context that comes back from BPF_PROG_RUN has it; UDP has none."""
    program = bpf.load("10_tc_ingress")
    ping = program.run(frames.icmp(TOPOLOGY, "client", "server"))
    datagram = program.run(frames.udp(TOPOLOGY, "client", "server", dst_port=9))

    assert (ping.action, ping.context["mark"]) == (Action.TC_ACT_OK, 7)
    assert (datagram.action, datagram.context["mark"]) == (Action.TC_ACT_OK, 0)


def test_a_source_port_is_dropped(net, bpf):
    """Attached at the server's ingress; what comes from the port beside arrives."""
    with bpf.load("10_tc_ingress").attach(net.interface("server/eth0")):
        assert net.send(Stream.udp("client", "server", src_port=9, dst_port=5000, count=5)).received == 0
        assert net.send(Stream.udp("client", "server", src_port=10, dst_port=5000, count=5)).received == 5
