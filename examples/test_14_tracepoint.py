"""A tracepoint sees what the whole machine does; this one chooses a process."""

import os

from lab import Stream, Topology

TOPOLOGY = Topology.pair("client", "server")


def test_what_this_process_sends(net, bpf):
    """Ten frames of 100 bytes on eth0; a program that watches another process sees none of them."""
    mine, other = bpf.load("14_tracepoint", watched_pid=os.getpid()), bpf.load("14_tracepoint", watched_pid=1)
    with mine.attach(), other.attach():
        net.send(Stream.udp("client", "server", dst_port=9, count=10, frame_bytes=100))

    assert mine.maps["sent_bytes"][("eth0",)] == 1000
    assert dict(other.maps["sent_bytes"]) == {}
