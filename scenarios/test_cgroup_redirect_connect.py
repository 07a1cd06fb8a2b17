"""cgroup_redirect_connect takes connections to a proxy, and neither client nor proxy is in doubt of who is who."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion
from lab.errors import LabError
from lab.kernel.cgroup import Cgroup
from lab.wait import wait_until

redirect = companion("cgroup_redirect_connect")

TOPOLOGY = Topology.chain("client", "router", "server")
TCP, UDP = 15001, 15010
PORT = 8080
WITHIN_S = 3

FAMILIES = {
    "ipv4": (socket.AF_INET, "{4}"),
    "ipv6": (socket.AF_INET6, "{6}"),
    "mapped": (socket.AF_INET6, "::ffff:{4}"),
}
"""The family of the client's socket, and how it writes the server's address."""
families = pytest.mark.parametrize("family", FAMILIES, ids=FAMILIES.keys())


def address(net: Any, name: str, ip: int = 4) -> str:
    interface = net.interface(f"{name}/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6)


def server_address(net: Any, family: str) -> str:
    return FAMILIES[family][1].replace("{4}", address(net, "server", 4)).replace("{6}", address(net, "server", 6))


def plain(text: str) -> str:
    return text.removeprefix("::ffff:")


@dataclass
class Proxy:
    """The proxy's process, and what it has said."""

    process: Any
    waiting: bytes = b""
    lines: list[dict[str, Any]] = field(default_factory=list)

    def said(self) -> dict[str, Any]:
        """Its next line; an error when it says nothing in time."""

        def line() -> bool:
            with suppress(BlockingIOError):
                self.waiting += os.read(self.process.stdout.fileno(), 65536)
            return b"\n" in self.waiting

        wait_until(line, within_s=WITHIN_S, what="a line of the proxy's")
        first, _, self.waiting = self.waiting.partition(b"\n")
        return json.loads(first)


@dataclass
class Setting:
    """The program on a cgroup with the client inside, and a cgroup for the proxy."""

    net: Any
    program: Any
    rules: Any
    clients: Cgroup
    proxies: Cgroup
    stack: ExitStack

    def attach(self) -> None:
        """All hooks on both cgroups."""
        self.stack.enter_context(redirect.attached(self.program, clients=self.clients))
        self.stack.enter_context(redirect.attached(self.program, clients=self.proxies))

    def proxy(self, *addresses: str, name: str = "client") -> Proxy:
        """Starts the proxy in a namespace; it is ready when this returns."""
        command = redirect.proxy_command(list(addresses) or ["127.0.0.1", "::1"], TCP, UDP)
        with self.proxies.entered():
            process = self.net[name].popen(command, stdout=subprocess.PIPE)
        os.set_blocking(process.stdout.fileno(), False)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        made = Proxy(process)
        assert made.said() == {"ready": True}
        return made

    def open(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, name: str = "client") -> socket.socket:
        """One that is closed in the end."""
        made = self.stack.enter_context(self.net[name].socket(family, kind))
        made.settimeout(WITHIN_S)
        return made

    def server(self, kind: int = socket.SOCK_STREAM, port: int = PORT, name: str = "server") -> socket.socket:
        """Bound for both families, outside of the client's cgroup."""
        made = self.open(socket.AF_INET6, kind, name)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            made.listen(64)
        return made

    def redirect_all(self) -> None:
        """Everything that is not local, to a proxy on loopback, which is exempt."""
        self.rules.send_to("127.0.0.1", "::1", tcp=TCP, udp=UDP)
        self.rules.exempt(self.proxies)
        for protocol in redirect.PROTOCOLS:
            self.rules.redirect("0.0.0.0/0", protocol=protocol)
            self.rules.redirect("::/0", protocol=protocol)

    def counted(self, **expected: int) -> None:
        """Of these outcomes, so many."""
        found = redirect.outcomes(self.program.maps)
        assert {name: found[name] for name in expected} == expected


@pytest.fixture
def place(net: Any, bpf: Any) -> Iterator[Setting]:
    """Nothing is attached yet, and there are no rules but those for local destinations."""
    program = bpf.load("cgroup_redirect_connect")
    with Cgroup() as clients, Cgroup() as proxies, ExitStack() as stack:
        yield Setting(net, program, redirect.Redirector(program), clients, proxies, stack)


# ---- TCP ----

FETCH = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=3).read())"
SERVE = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.path} for {self.client_address[0]} at {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
server = Server(("::", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
def test_a_web_page_by_way_of_the_proxy(place, net, ip):
    """urllib gets its page from a real HTTP server; the proxy, which is on loopback, knows where it came from."""
    web = net["server"].popen([sys.executable, "-E", "-c", SERVE, str(PORT)], stdout=subprocess.PIPE)
    place.redirect_all()
    proxy = place.proxy()
    place.attach()
    assert web.stdout.readline() == b"ready\n"
    host = address(net, "server", ip)
    where = f"{host}:{PORT}" if ip == 4 else f"[{host}]:{PORT}"
    with place.clients.entered():
        client = net["client"].popen(
            [sys.executable, "-E", "-c", FETCH, f"http://{where}/page"], stdout=subprocess.PIPE
        )
    page, _ = client.communicate(timeout=10)
    seen = f"::ffff:{address(net, 'client')}" if ip == 4 else address(net, "client", 6)
    assert page.decode() == f"/page for {seen} at {where}"
    told = proxy.said()
    assert (told["protocol"], told["original"], told["error"]) == ("tcp", [host, PORT], "")
    place.counted(REDIRECTED=1, TOLD=1, NOT_KNOWN=0, DIRECT_EXEMPT=1)


@families
def test_names_are_those_that_were_asked_for(place, net, family):
    """getpeername() is the server although the socket is connected to the proxy; when it closes its entry goes."""
    listener = place.server(name="client", port=TCP)
    place.redirect_all()
    place.attach()
    wanted = server_address(net, family)
    with place.clients.entered():
        client = place.open(FAMILIES[family][0])
    client.connect((wanted, PORT))
    assert client.getpeername()[:2] == (wanted, PORT)
    assert plain(client.getsockname()[0]) == ("::1" if family == "ipv6" else "127.0.0.1")
    served = place.stack.enter_context(listener.accept()[0])
    assert served.getpeername()[:2][1] == client.getsockname()[1]
    (entry,) = redirect.redirects(place.program.maps)
    assert (entry.protocol, entry.peers, entry.pid) == ("tcp", ((plain(wanted), PORT),), os.getpid())
    client.close()
    assert not list(redirect.redirects(place.program.maps))


@families
def test_the_proxy_is_told_by_the_socket(place, net, family):
    """getsockopt(SO_ORIGINAL_DST) of the accepted socket is what the client asked for, though that is closed by now."""
    place.redirect_all()
    place.attach()
    with place.proxies.entered():
        listener = place.server(name="client", port=TCP)
    wanted = server_address(net, family)
    with place.clients.entered(), place.open(FAMILIES[family][0]) as client:
        client.connect((wanted, PORT))
    accepted = place.stack.enter_context(listener.accept()[0])
    assert redirect.original(accepted) == (plain(wanted), PORT)
    place.counted(TOLD=1)


def test_a_connection_to_the_proxy_itself(place, net):
    """It goes there, nobody knows a destination, and the proxy resets it: also with the port of an earlier one."""
    place.redirect_all()
    place.attach()
    proxy = place.proxy()
    listener = place.server()
    with place.clients.entered():
        first, second = place.open(), place.open()
    first.connect((address(net, "server"), PORT))
    assert proxy.said()["original"] == [address(net, "server"), PORT]
    listener.accept()[0].close()
    port = first.getsockname()[1]
    reset_on_close(first)
    first.close()
    second.bind(("127.0.0.1", port))
    with pytest.raises(ConnectionResetError):
        second.connect(("127.0.0.1", TCP))
        second.recv(1)
    assert proxy.said()["original"] is None
    place.counted(REDIRECTED=1, TOLD=1, NOT_KNOWN=2)  # asked once a family


def reset_on_close(end: socket.socket) -> None:
    """Closing it resets: the port is free at once."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_the_proxy_says_when_it_cannot(place, net):
    """Nobody listens where the client wanted to go: the proxy resets the client, and says why."""
    place.redirect_all()
    place.attach()
    proxy = place.proxy()
    with place.clients.entered():
        client = place.open()
    with pytest.raises(ConnectionResetError):
        client.connect((address(net, "server"), 81))
        client.recv(1)
    assert str(errno.ECONNREFUSED) in proxy.said()["error"]


def test_a_proxy_in_another_namespace(place, net):
    """The proxy is on the router, by its own address: told all the same."""
    there = address(net, "router"), address(net, "router", 6)
    place.redirect_all()
    place.rules.send_to(*there, tcp=TCP, udp=UDP)
    place.attach()
    proxy = place.proxy(*there, name="router")
    listener = place.server()
    with place.clients.entered():
        client = place.open()
    client.connect((address(net, "server"), PORT))
    client.sendall(b"question")
    served = place.stack.enter_context(listener.accept()[0])
    served.settimeout(WITHIN_S)
    assert served.recv(100) == b"question"
    assert plain(served.getpeername()[0]) == str(net.interface("router/eth1").ipv4)
    assert proxy.said()["original"] == [address(net, "server"), PORT]
    with place.clients.entered():
        other = place.open()
    other.connect_ex((there[0], TCP))  # which may hear of the reset already
    assert proxy.said()["original"] is None
    place.counted(REDIRECTED=1, DIRECT_PROXY=1)


def test_equal_addresses_of_two_namespaces(place, net):
    """127.0.0.1 with one port connects to one server here and to another there: each proxy hears of its own."""
    place.redirect_all()
    place.attach()
    wanted = {"client": "198.51.100.1", "server": "198.51.100.2"}
    accepted = {}
    for name, host in wanted.items():
        with place.proxies.entered():
            listener = place.server(name=name, port=TCP)
        with place.clients.entered():
            client = place.open(name=name)
        client.bind(("127.0.0.1", 40_000))
        client.connect((host, PORT))
        accepted[name] = place.stack.enter_context(listener.accept()[0])
    for name, host in wanted.items():
        assert redirect.original(accepted[name]) == (host, PORT)


# ---- UDP ----


@families
@pytest.mark.parametrize("connects", (False, True), ids=("sendto", "connected"))
def test_a_datagram_and_its_answer(place, net, family, connects):
    """The answer comes from the address that was asked, the server was reached by the proxy, which knew of whom."""
    place.redirect_all()
    place.attach()
    proxy = place.proxy()
    server = place.server(socket.SOCK_DGRAM)
    wanted = server_address(net, family)
    with place.clients.entered():
        client = place.open(FAMILIES[family][0], socket.SOCK_DGRAM)
    if connects:
        client.connect((wanted, PORT))
        assert client.getpeername()[:2] == (wanted, PORT)
        client.send(b"question")
    else:
        client.sendto(b"question", (wanted, PORT))
    data, source = server.recvfrom(100)
    assert data == b"question" and source[1] != client.getsockname()[1]
    server.sendto(b"answer", source)
    assert client.recvfrom(100)[0:1] == (b"answer",)
    server.sendto(b"another", source)
    data, shown = client.recvfrom(100)
    assert (data, shown[:2]) == (b"another", (wanted, PORT))
    assert proxy.said()["original"] == [plain(wanted), PORT]
    place.counted(REDIRECTED=1, TOLD=1, NOT_KNOWN=0, DIRECT_EXEMPT=1)


def test_one_socket_and_three_servers(place, net):
    """Three peers of one socket answer in another order than they were asked: each answer is from its own."""
    place.redirect_all()
    place.attach()
    proxy = place.proxy()
    servers = {port: place.server(socket.SOCK_DGRAM, port) for port in (5301, 5302, 5303)}
    with place.clients.entered():
        client = place.open(kind=socket.SOCK_DGRAM)
    sources = {}
    for port, server in servers.items():
        client.sendto(b"question", (address(net, "server"), port))
        _, sources[port] = server.recvfrom(100)
        assert proxy.said()["original"] == [address(net, "server"), port]
    for port in (5302, 5303, 5301):
        servers[port].sendto(b"%d" % port, sources[port])
        assert client.recvfrom(100) == (b"%d" % port, (address(net, "server"), port))
    (entry,) = redirect.redirects(place.program.maps)
    assert [port for _, port in entry.peers] == [5301, 5302, 5303]


def test_a_ninth_peer_takes_the_place_of_the_first(place, net):
    """Eight peers of one socket have a place each; the ninth is counted, and the other seven stay."""
    place.redirect_all()
    place.attach()
    with place.clients.entered():
        client = place.open(kind=socket.SOCK_DGRAM)
    for port in (*range(1, 9), 3, 8):
        client.sendto(b"", ("198.51.100.1", port))
    place.counted(SLOT_REUSED=0)
    client.sendto(b"", ("198.51.100.1", 9))
    place.counted(SLOT_REUSED=1, REDIRECTED=11)
    (entry,) = redirect.redirects(place.program.maps)
    assert [port for _, port in entry.peers] == [9, 2, 3, 4, 5, 6, 7, 8]


def test_a_socket_that_connects_elsewhere(place, net):
    """A UDP socket connects to what is redirected, then to what is not, then to the proxy: the last is its peer."""
    place.redirect_all()
    place.rules.direct("198.51.100.2", protocol="udp")
    place.attach()
    route(net)
    with place.clients.entered():
        client = place.open(kind=socket.SOCK_DGRAM)
    client.connect(("198.51.100.1", 53))
    assert client.getpeername() == ("198.51.100.1", 53)
    disconnect(client)
    client.connect(("198.51.100.2", 53))
    assert client.getpeername() == ("198.51.100.2", 53)
    disconnect(client)
    client.connect(("127.0.0.1", UDP))
    assert client.getpeername() == ("127.0.0.1", UDP)
    place.counted(REDIRECTED=1, DIRECT=2)


def disconnect(client: socket.socket) -> None:
    """connect() with AF_UNSPEC, which Python has no word for."""
    assert ctypes.CDLL(None).connect(client.fileno(), bytes(16), 16) == 0


def route(net: Any) -> None:
    """The client has a way to everywhere: by the router."""
    argv = ["ip", "route", "replace", "default", "via", address(net, "router")]
    assert net["client"].popen(argv).wait(WITHIN_S) == 0


# ---- Which destinations ----

RULES: dict[str, tuple[list[tuple[Any, ...]], str, tuple[str, int], bool]] = {
    "a prefix": ([("198.51.100.0/24",)], "tcp", ("198.51.100.77", 80), True),
    "beside the prefix": ([("198.51.100.0/24",)], "tcp", ("198.51.101.77", 80), False),
    "another protocol": ([("198.51.100.0/24",)], "udp", ("198.51.100.77", 80), False),
    "a port": ([("198.51.100.0/24", 80)], "tcp", ("198.51.100.77", 80), True),
    "beside the port": ([("198.51.100.0/24", 80)], "tcp", ("198.51.100.77", 81), False),
    "port 443, whose bytes differ": ([("0.0.0.0/0", 443)], "tcp", ("198.51.100.77", 443), True),
    "its bytes swapped": ([("0.0.0.0/0", 443)], "tcp", ("198.51.100.77", 47873), False),
    "an exception": ([("0.0.0.0/0",), ("!198.51.100.0/24",)], "tcp", ("198.51.100.77", 80), False),
    "beside the exception": ([("0.0.0.0/0",), ("!198.51.100.0/24",)], "tcp", ("198.51.101.77", 80), True),
    "a port before any port": ([("!198.51.100.0/24",), ("198.51.100.0/24", 80)], "tcp", ("198.51.100.77", 80), True),
    "a longer prefix before a port": (
        [("0.0.0.0/0", 80), ("!198.51.100.0/24",)],
        "tcp",
        ("198.51.100.77", 80),
        False,
    ),
    "IPv6": ([("2001:db8::/32",)], "tcp", ("2001:db8::7", 80), True),
    "beside the IPv6 prefix": ([("2001:db8::/33",)], "tcp", ("2001:db8:8000::7", 80), False),
    "all of IPv6 is not IPv4": ([("2000::/3",)], "tcp", ("198.51.100.77", 80), False),
    "a mapped address meets the rules of IPv4": ([("198.51.100.0/24",)], "tcp", ("::ffff:198.51.100.7", 80), True),
    "loopback is not in 0.0.0.0/0": ([("0.0.0.0/0",)], "tcp", ("127.0.0.1", 80), False),
    "nor is 0.0.0.0": ([("0.0.0.0/0",)], "tcp", ("0.0.0.0", 80), False),
    "nor is ::1 in ::/0": ([("::/0",)], "tcp", ("::1", 80), False),
    "mapped loopback": ([("0.0.0.0/0",)], "tcp", ("::ffff:127.0.0.1", 80), False),
    "loopback, where it is named": ([("127.0.0.1", 80)], "tcp", ("127.0.0.1", 80), True),
    "UDP by its own rule": ([("198.51.100.0/24", 53, "udp")], "udp", ("198.51.100.77", 53), True),
}


@pytest.mark.parametrize(("rules", "protocol", "wanted", "redirected"), RULES.values(), ids=RULES.keys())
def test_which_destinations_are_redirected(place, rules, protocol, wanted, redirected):
    """REDIRECTED counts one more, or none does."""
    place.rules.send_to("127.0.0.1", "::1", tcp=TCP, udp=UDP)
    for prefix, *rest in rules:
        act = place.rules.direct if prefix.startswith("!") else place.rules.redirect
        act(prefix.lstrip("!"), **dict(zip(("port", "protocol"), rest, strict=False)))
    place.attach()
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with place.clients.entered():
        client = place.open(socket.AF_INET6 if ":" in wanted[0] else socket.AF_INET, kind)
    client.setblocking(False)
    client.connect_ex(wanted)
    place.counted(REDIRECTED=int(redirected), DIRECT=int(not redirected))


def test_rules_change_while_it_runs(place, net):
    """A rule that is written is met by the next connection, one that is removed by none; those made stay."""
    listener, proxy = place.server(), place.server(name="client", port=TCP)
    place.rules.send_to("127.0.0.1", "::1", tcp=TCP)
    place.attach()
    with place.clients.entered():
        clients = [place.open() for _ in range(3)]
    server = (address(net, "server"), PORT)
    clients[0].connect(server)
    place.rules.redirect("10.0.0.0/8")
    clients[1].connect(server)
    place.rules.remove("10.0.0.0/8")
    clients[2].connect(server)
    place.counted(DIRECT=2, REDIRECTED=1)
    assert {each.getpeername() for each in clients} == {server}
    assert {listener.accept()[1][1] for _ in range(2)} == {clients[n].getsockname()[1] for n in (0, 2)}
    assert proxy.accept()[1][1] == clients[1].getsockname()[1]


def test_other_cgroups_are_left_alone(place, net):
    """A process outside connects as it asked; one in an exempt cgroup, with all hooks on it, too."""
    listener = place.server()
    place.redirect_all()
    place.attach()
    for group in (None, place.proxies):
        with ExitStack() as inside:
            if group:
                inside.enter_context(group.entered())
            client = place.open()
            client.connect((address(net, "server"), PORT))
        assert listener.accept()[1][1] == client.getsockname()[1]
    place.counted(REDIRECTED=0, DIRECT_EXEMPT=1)


# ---- What cannot be redirected ----


@pytest.mark.parametrize("fail_open", (0, 1), ids=("refused", "goes out"))
@pytest.mark.parametrize("kind", (socket.SOCK_STREAM, socket.SOCK_DGRAM), ids=("tcp", "udp"))
def test_a_full_table(net, bpf, place, kind, fail_open):
    """The second socket finds no room: EPERM, or with fail_open=1 it goes where it wanted; both are counted."""
    place.program = bpf.load("cgroup_redirect_connect", max_entries={"redirects": 1}, fail_open=fail_open)
    place.rules = redirect.Redirector(place.program)
    place.server(kind)
    place.server(kind, name="client", port=TCP if kind == socket.SOCK_STREAM else UDP)
    place.redirect_all()
    place.attach()
    with place.clients.entered():
        first, second = place.open(kind=kind), place.open(kind=kind)
    first.connect((address(net, "server"), PORT))
    assert second.connect_ex((address(net, "server"), PORT)) == (0 if fail_open else errno.EPERM)
    place.counted(REDIRECTED=1, NO_ROOM=1)


def test_a_proxy_of_the_other_family(place, net):
    """The proxy has no IPv6 address: connections and datagrams of IPv6 are refused, those of IPv4 are not."""
    place.redirect_all()
    place.rules.send_to("127.0.0.1", tcp=TCP, udp=UDP)
    place.server(name="client", port=TCP)
    place.attach()
    with place.clients.entered():
        four, six = place.open(), place.open(socket.AF_INET6)
        datagrams = place.open(socket.AF_INET6, socket.SOCK_DGRAM)
    four.connect(("198.51.100.1", 80))
    assert six.connect_ex(("2001:db8::1", 80)) == errno.EPERM
    with pytest.raises(PermissionError):
        datagrams.sendto(b"", ("2001:db8::1", 80))
    place.counted(REDIRECTED=1, NO_PROXY=2)


@pytest.mark.blind("it forbids an EFAULT, which only a program that sets the answer's length could bring about")
def test_a_long_answer_of_getsockopt_stays_whole(place, net):
    """With the hook attached, TCP_INFO asked for with a buffer of 64 KiB is as it was: no EFAULT."""
    place.attach()
    with place.clients.entered():
        client = place.open()
    libc, buffer, size = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(65536), ctypes.c_uint32(65536)
    done = libc.getsockopt(client.fileno(), socket.IPPROTO_TCP, socket.TCP_INFO, buffer, ctypes.byref(size))
    assert (done, size.value > 200) == (0, True)


def test_the_proxy_that_comes_with_it(net, bpf, place):
    """lab cgroup_redirect_connect --to ... --serve: proxy and hooks, and what the view says of a connection."""
    program = redirect.load(bpf, to=("10.0.0.0/8",))
    here = SimpleNamespace(netns=net["client"], attach=lambda each: [each.attach(place.clients)])
    listener = place.server()
    for each in redirect.attach(program, here, serve=True):
        place.stack.callback(each.detach)
    with place.clients.entered():
        client = place.open()
    client.connect((address(net, "server"), PORT))
    client.sendall(b"question")
    served = place.stack.enter_context(listener.accept()[0])
    served.settimeout(WITHIN_S)
    assert served.recv(100) == b"question"
    assert served.getpeername()[1] != client.getsockname()[1]
    sockets, rules, decided = (table.records() for table in redirect.view(program))
    assert [(each["protocol"], each["to"], each["port"]) for each in sockets] == [("tcp", address(net, "server"), PORT)]
    assert rules[0] == {"protocol": "tcp", "prefix": "10.0.0.0/8", "port": "any", "action": "REDIRECT", "hits": 1}
    assert {"outcome": "redirected", "times": 1} in decided
    assert redirect.summary(program).startswith("1 redirected, ")


TEXTS: dict[str, list[tuple[str, str, int]]] = {
    "198.51.100.0/24": [("tcp", "198.51.100.0/24", 0), ("udp", "198.51.100.0/24", 0)],
    "tcp/198.51.100.7:80": [("tcp", "198.51.100.7/32", 80)],
    "udp/[2001:db8::/32]:53": [("udp", "2001:db8::/32", 53)],
    "[::1]": [("tcp", "::1/128", 0), ("udp", "::1/128", 0)],
}


@pytest.mark.parametrize(("text", "meant"), TEXTS.items(), ids=TEXTS.keys())
def test_a_destination_as_a_person_writes_it(text, meant):
    """Protocol, prefix and port; without a protocol both, without a port any."""
    assert redirect.destinations(text) == meant


@pytest.mark.parametrize("text", ("example.com", "198.51.100.7/24", "2001:db8::1:80:", "sctp/198.51.100.7", ""))
def test_what_is_no_destination_is_refused(text):
    """With a sentence that shows how to write one."""
    with pytest.raises(LabError, match=r"198\.51\.100\.0/24"):
        redirect.destinations(text)
