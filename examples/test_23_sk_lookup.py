"""One socket, a thousand ports."""

import errno
import socket

from lab import Topology

TOPOLOGY = Topology.pair("client", "server")


def test_the_range_and_its_neighbours(net, bpf):
    """The first and the last port are answered by a socket bound to port 80, those beside them are refused."""
    program = bpf.load("23_sk_lookup")
    address = str(net.topology.address("server", 4))
    with net["server"].socket(socket.AF_INET) as listener, program.attach(net["server"]):
        listener.bind((address, 80))
        listener.listen()
        program.maps["server"][0] = listener
        answers = []
        for port in (6999, 7000, 7999, 8000):
            with net["client"].socket(socket.AF_INET) as client:
                answers.append(client.connect_ex((address, port)))

    assert answers == [errno.ECONNREFUSED, 0, 0, errno.ECONNREFUSED]
