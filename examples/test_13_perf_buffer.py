"""A piece of each frame reaches user space."""

from scapy.layers.l2 import Ether

from lab import Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")
STAMP = (0x600D).to_bytes(4, "little")


def test_the_beginning_of_each_frame(net, bpf):
    """What the program said comes first, then the frame, cut at 64 bytes."""
    program = bpf.load("13_perf_buffer")
    program.maps["frames"].listen()  # it keeps nothing from before
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        net.send(Stream.udp("client", "server", dst_port=9, count=3, frame_bytes=200))

    events = program.maps["frames"].events(count=3)
    assert {event[:4] for event in events} == {STAMP}
    assert {Ether(event[4:68])["UDP"].dport for event in events} == {9}
    assert max(map(len, events)) < 80
    assert program.maps["frames"].lost == 0
