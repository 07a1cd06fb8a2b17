"""The kernel's own structs are read by their names."""

import os

from lab import Stream, Topology

TOPOLOGY = Topology.pair("client", "server")


def test_fields_of_the_kernels_structs(net, bpf):
    """Length, interface number and name are those of the frames sent; a field that no kernel has is not there."""
    program = bpf.load("15_tp_btf", watched_pid=os.getpid())
    with program.attach():
        net.send(Stream.udp("client", "server", dst_port=9, count=3, frame_bytes=123))

    seen = program.globals
    assert (seen["frames"], seen["last_bytes"], seen["last_name"]) == (3, 123, "eth0")
    assert seen["last_ifindex"] == net.interface("client/eth0").ifindex
    assert (seen["has_mark"], seen["has_colour"]) == (True, False)
