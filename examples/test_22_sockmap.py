"""Two connections are joined in the kernel."""

import socket

from lab import Topology

TOPOLOGY = Topology.star("proxy", leaves=("left", "right"))


def connection(net, leaf, port):
    """A connection from a leaf to the proxy: its end at the leaf, its end at the proxy."""
    address = (str(net.topology.address("proxy", 4)), port)
    with net["proxy"].socket(socket.AF_INET) as listener:
        listener.bind(("0.0.0.0", port))
        listener.listen()
        client = net[leaf].socket(socket.AF_INET)
        client.connect(address)
        client.settimeout(5)
        return client, listener.accept()[0]


def test_bytes_pass_without_the_proxy_reading(net, bpf):
    """What one client writes, the other reads; the proxy never calls recv() or send()."""
    program = bpf.load("22_sockmap", first_port=7001)
    left, left_at_proxy = connection(net, "left", 7001)
    right, right_at_proxy = connection(net, "right", 7002)
    with left, left_at_proxy, right, right_at_proxy, program.attach(program.maps["sockets"]):
        program.maps["sockets"][0] = left_at_proxy
        program.maps["sockets"][1] = right_at_proxy
        left.sendall(b"to the right")
        assert right.recv(100) == b"to the right"
        right.sendall(b"and back")
        assert left.recv(100) == b"and back"

    assert program.globals["handed_over"] == len(b"to the right" + b"and back")
