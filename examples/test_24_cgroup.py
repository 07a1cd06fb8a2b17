"""A program changes the system calls of a cgroup."""

import errno
import socket

from lab import Cgroup, Topology

TOPOLOGY = Topology.pair("client", "server")


def connect(net, address):
    """The client's connect(): 0, or the error's number."""
    with net["client"].socket(socket.AF_INET) as client:
        return client.connect_ex((address, 80))


def test_inside_and_outside(net, bpf):
    """Nobody listens on port 80, but inside the cgroup it answers."""
    program = bpf.load("24_cgroup")
    address = str(net.topology.address("server", 4))
    with net["server"].socket(socket.AF_INET) as listener, Cgroup() as group, program.attach(group):
        listener.bind((address, 8080))
        listener.listen()
        assert connect(net, address) == errno.ECONNREFUSED
        with group.entered():
            assert connect(net, address) == 0

    assert program.globals["redirected"] == 1
