"""What cgroup_redirect_connect adds to connect(), to a datagram and to getpeername(), redirected and not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from ipaddress import IPv6Address
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion
from lab.kernel.cgroup import Cgroup

redirect = companion("cgroup_redirect_connect")

TOPOLOGY = Topology.pair("client", "server")
NAME = "cgroup_redirect_connect"
WANTED, OTHER = 81, 82
FAMILIES = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup with this process inside."""
    with Cgroup() as made, made.entered():
        yield made


def prepared(bpf: Any, **options: Any) -> Any:
    """What goes to port WANTED of loopback goes to another port of loopback: the way is the same."""
    program = bpf.load(NAME, **options)
    rules = redirect.Redirector(program)
    rules.send_to("127.0.0.1", "::1")
    for _, host in FAMILIES.values():
        for protocol in redirect.PROTOCOLS:
            rules.redirect(host, port=WANTED, protocol=protocol)
    return program


def attaching(program: Any, group: Cgroup) -> Callable[[], AbstractContextManager[None]]:
    return partial(redirect.attached, program, clients=group)


def refused(family: int, address: tuple[str, int]) -> Callable[[], None]:
    """A socket that connects to where nobody listens, wanted or not: the same work with the program and without."""

    def connect() -> None:
        with socket.socket(family) as client:
            client.connect_ex(address)

    return connect


@families
@pytest.mark.parametrize("port", (WANTED, OTHER), ids=("redirected", "direct"))
def test_connect(net, bpf, bench, group, ip, port):
    """ns more for socket(), connect() and close() of TCP: an entry, a note for the proxy, and both gone; or none."""
    program = prepared(bpf)
    family, host = FAMILIES[ip]
    with net["client"].enter():
        subject = f"IPv{ip} connect, {'redirected' if port == WANTED else 'direct'}"
        bench.overhead(refused(family, (host, port)), attaching(program, group), program=NAME, subject=subject)
    outcome = "REDIRECTED" if port == WANTED else "DIRECT"
    assert redirect.outcomes(program.maps)[outcome] > 100
    assert not list(redirect.redirects(program.maps))


@pytest.mark.parametrize("rules", (16, 4_096, 65_536))
def test_rules(net, bpf, bench, group, rules):
    """ns more for a redirected connect() among so many rules."""
    program = prepared(bpf, max_entries={"rules": rules + 32})
    base = int(IPv6Address("2001:db8::"))
    program.maps["rules"].update(
        {(32 + 64, 6, 0, IPv6Address(base + (place << 64))): ("REDIRECT", 64, 0) for place in range(rules)}
    )
    with net["client"].enter():
        operation = refused(socket.AF_INET, ("127.0.0.1", WANTED))
        subject = f"IPv4 connect, redirected, {rules:,} rules"
        bench.overhead(operation, attaching(program, group), program=NAME, subject=subject)
    assert redirect.outcomes(program.maps)["REDIRECTED"] > 100


@pytest.mark.parametrize("open_ones", (1, 4_096, 65_536, 1_048_576))
def test_redirects(net, bpf, bench, group, open_ones):
    """ns more for a redirected connect() while so many other redirected connections are open."""
    program = prepared(bpf, max_entries={"redirects": 2 * open_ones + 1024})
    program.maps["redirects"].update({key: {} for key in range(1 << 40, (1 << 40) + open_ones - 1)})
    with net["client"].enter():
        operation = refused(socket.AF_INET, ("127.0.0.1", WANTED))
        subject = f"IPv4 connect, redirected, {open_ones:,} open"
        bench.overhead(operation, attaching(program, group), program=NAME, subject=subject)
    assert redirect.outcomes(program.maps)["REDIRECTED"] > 100


@families
@pytest.mark.parametrize("port", (WANTED, OTHER), ids=("redirected", "direct"))
def test_sendto(net, bpf, bench, group, ip, port):
    """ns more for a datagram of an unconnected socket, to one that has no room for it: the cheapest there is."""
    program = prepared(bpf)
    family, host = FAMILIES[ip]
    with net["client"].enter(), ExitStack() as stack:
        for taken in (port, 15010):
            sink = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sink.bind((host, taken))
        client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        subject = f"IPv{ip} sendto, {'redirected' if port == WANTED else 'direct'}"
        operation = partial(client.sendto, b"1", (host, port))
        bench.overhead(operation, attaching(program, group), program=NAME, subject=subject)
    outcome = "REDIRECTED" if port == WANTED else "DIRECT"
    assert redirect.outcomes(program.maps)[outcome] > 100


def test_getpeername(net, bpf, bench, group):
    """ns more for the name of a peer that was redirected."""
    program = prepared(bpf)
    with net["client"].enter(), ExitStack() as stack:
        for port in (WANTED, 15001):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", port))
            listener.listen()
        client = stack.enter_context(socket.socket())
        with redirect.attached(program, clients=group):
            client.connect(("127.0.0.1", WANTED))
            assert client.getpeername() == ("127.0.0.1", WANTED)
        bench.overhead(client.getpeername, attaching(program, group), program=NAME, subject="getpeername, redirected")
        assert client.getpeername() == ("127.0.0.1", 15001)
