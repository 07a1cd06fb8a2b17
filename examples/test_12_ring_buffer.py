"""Events arrive in order, or are counted as lost."""

from lab import Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")
MOST = 4096 // 16  # a record has 8 bytes of its own and 8 of the kernel's


def test_one_event_a_datagram(net, bpf):
    """Two streams of two lengths, four events in the order in which they were sent."""
    program = bpf.load("12_ring_buffer")
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        for size in (64, 100):
            net.send(Stream.udp("client", "server", dst_port=9, count=2, frame_bytes=size))

    events = program.maps["events"].events(count=4)
    assert {event.source for event in events} == {int(net.topology.address("client", 4))}
    assert [event.bytes for event in events] == [64, 64, 100, 100]


def test_what_does_not_fit_is_counted(net, bpf):
    """Nobody reads meanwhile: some are lost, and none of them unnoticed."""
    program = bpf.load("12_ring_buffer")
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        net.send(Stream.udp("client", "server", dst_port=9, count=MOST + 100))

    kept = len(program.maps["events"].drain())
    assert 0 < kept <= MOST
    assert kept + program.globals["lost"] == MOST + 100
