"""A knob is set before the load, a variable is read while the program runs."""

import pytest

from lab import Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")


def test_the_knob_and_the_counter(net, bpf):
    """Short datagrams pass, long ones are dropped and counted; the counter can be set back."""
    program = bpf.load("04_knobs", most_bytes=100)
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        assert net.send(Stream.udp("client", "server", dst_port=9, count=5, frame_bytes=100)).received == 5
        assert net.send(Stream.udp("client", "server", dst_port=9, count=5, frame_bytes=101)).received == 0

    assert program.globals["dropped"] == 5
    program.globals["dropped"] = 0
    assert program.globals["dropped"] == 0


@pytest.mark.blind("it is about the code that the kernel keeps, not about what that does")
def test_an_unused_branch_is_not_even_loaded(bpf):
    """The kernel's own code size says that the verifier took the knob for a constant."""
    assert bpf.load("04_knobs", most_bytes=0).facts.xlated_bytes < bpf.load("04_knobs", most_bytes=1).facts.xlated_bytes
