"""log_tcp_connect tells every connection once: who, where to, how long it took, and why it failed."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lab import Mode, Topology
from lab.bpf.companion import companion

log = companion("log_tcp_connect")
Total = log.Total

pytestmark = pytest.mark.needs("bcc", "btf", "ringbuf", "tracepoint")

TOPOLOGY = Topology.chain("client", "router", "server")
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
SERVER = {ip: str(TOPOLOGY.address("server", ip)) for ip in (4, 6)}
CLIENT = {ip: str(TOPOLOGY.address("client", ip)) for ip in (4, 6)}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
OPEN, CLOSED = 9000, 9001
DROP = "int drop(struct xdp_md *ctx) { return XDP_DROP; }"
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@pytest.fixture
def tracer(bpf) -> Iterator[Any]:
    """The program, attached."""
    program = log.load(bpf)
    with log.attached(program):
        yield program


@pytest.fixture
def server(net) -> Iterator[dict[int, Any]]:
    """A listener for each family on the port OPEN of the server."""
    listeners = {}
    for ip in (4, 6):
        listeners[ip] = net["server"].socket(FAMILY[ip], socket.SOCK_STREAM)
        listeners[ip].bind((SERVER[ip], OPEN))
        listeners[ip].listen(1024)
    yield listeners
    for each in listeners.values():
        each.close()


def open_socket(net: Any, ip: int = 4, *, blocking: bool = True) -> socket.socket:
    """A TCP socket of the client's namespace."""
    made: socket.socket = net["client"].socket(FAMILY[ip], socket.SOCK_STREAM)
    made.setblocking(blocking)
    return made


def connect(net: Any, ip: int, where: tuple[str, int], *, blocking: bool = True) -> int:
    """The errno of a connect whose socket is closed again."""
    with open_socket(net, ip, blocking=blocking) as made:
        return made.connect_ex(where)


def told(program: Any, net: Any) -> list[Any]:
    """What was told of the client's namespace: others on this machine connect, too."""
    inode = os.fstat(net["client"].netns_fd).st_ino
    return [each for each in log.drain(program) if each.netns == inode]


def only(program: Any, net: Any) -> Any:
    (one,) = told(program, net)
    return one


@contextmanager
def black_hole(net: Any, bpf: Any) -> Iterator[None]:
    """What goes to the server vanishes without a word."""
    with bpf.load_bcc(DROP, "drop", "xdp").attach(net.interface("server/eth0"), mode=Mode.GENERIC):
        yield


# ---- Every way in which it can end ----


@families
def test_a_connection_is_told_with_all_that_is_asked(net, tracer, server, ip):
    """Process, thread, user, both ends with their ports, one SYN, and less time than the call took."""
    with open_socket(net, ip) as made:
        made.connect((SERVER[ip], OPEN))
        source_port = made.getsockname()[1]
    one = only(tracer, net)
    assert (one.pid, one.thread, one.uid) == (os.getpid(), threading.get_native_id(), os.getuid())
    assert one.comm == Path("/proc/thread-self/comm").read_text().strip()
    assert (one.source, one.source_port) == (ip_address(CLIENT[ip]), source_port)
    assert (one.dest, one.dest_port) == (ip_address(SERVER[ip]), OPEN)
    assert (one.ending, one.error, one.syns) == (Total.CONNECTED, "", 1)
    assert 0 < one.took_ns < 10**9


@families
@pytest.mark.parametrize("blocking", (True, False), ids=("blocking", "non-blocking"))
def test_a_closed_port_is_a_reset(net, tracer, server, ip, blocking):
    """An RST from the other end: RESET, ECONNREFUSED, whether connect() waits for it or not."""
    connect(net, ip, (SERVER[ip], CLOSED), blocking=blocking)
    one = only(tracer, net)
    assert (one.ending, one.error, one.dest_port) == (Total.RESET, "ECONNREFUSED", CLOSED)
    assert (str(one.source), one.source_port > 0) == (CLIENT[ip], True)


@families
def test_loopback_is_a_network_as_well(net, tracer, ip):
    """On the namespace's own loopback: the RST is met within connect(), and told once."""
    assert connect(net, ip, (LOOPBACK[ip], CLOSED)) == errno.ECONNREFUSED
    one = only(tracer, net)
    assert (one.ending, one.error, str(one.dest)) == (Total.RESET, "ECONNREFUSED", LOOPBACK[ip])


UNREACHABLE = {4: ("192.0.2.1", {"ENETUNREACH", "EHOSTUNREACH"}), 6: ("2001:db8::1", {"ENETUNREACH", "EHOSTUNREACH"})}


@families
def test_icmp_makes_it_unreachable(net, tracer, ip):
    """The router has no route to it and says so."""
    address, errors = UNREACHABLE[ip]
    number = connect(net, ip, (address, OPEN))
    one = only(tracer, net)
    assert (one.ending, one.error) == (Total.UNREACHABLE, errno.errorcode[number])
    assert one.error in errors and str(one.dest) == address


HERE = {
    "no broadcast": (4, "255.255.255.255", errno.ENETUNREACH),
    "a multicast group": (6, "ff02::1%0", errno.ENETUNREACH),
    "a link-local address without its link": (6, "fe80::1", errno.EINVAL),
}


@pytest.mark.parametrize(("ip", "address", "number"), HERE.values(), ids=HERE.keys())
def test_what_this_machine_refuses_is_told_with_its_error(net, tracer, ip, address, number):
    """No SYN is sent: REFUSED_HERE, with the address that was asked for and what connect() said."""
    assert connect(net, ip, (address, OPEN)) == number
    one = only(tracer, net)
    assert (one.ending, one.error) == (Total.REFUSED_HERE, errno.errorcode[number])
    assert (one.pid, str(one.dest), one.dest_port) == (os.getpid(), address.partition("%")[0], OPEN)
