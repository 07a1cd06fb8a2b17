"""reuseport_balance shares one port among servers as told, and refuses nobody when one of them goes."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion
from lab.effort import effort
from lab.errors import LabError
from lab.wait import wait_until

balance = companion("reuseport_balance")

TOPOLOGY = Topology.pair("client", "server")
PORT = 8080
SO_RCVBUFFORCE = 33
"""Beyond net.core.rmem_max: a thousand datagrams wait until somebody reads."""
CLIENTS = 3
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
ONE_IN_A_MILLION = {1: 23.9, 2: 27.6, 3: 30.7}
"""What chi-square exceeds so rarely by chance, by degrees of freedom."""
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
protocols = pytest.mark.parametrize("protocol", ("tcp", "udp"))


def address(net: Any, ip: int) -> tuple[str, int]:
    return str(net.topology.address("server", ip)), PORT


def server(net: Any, protocol: str, ip: int, port: int = PORT) -> socket.socket:
    """One of several on one port; it does not block."""
    made: socket.socket = net["server"].socket(FAMILIES[ip], KINDS[protocol])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
    made.bind((address(net, ip)[0], port))
    if protocol == "tcp":
        made.listen(4096)
    made.setblocking(False)
    return made


@contextmanager
def balanced(
    net: Any, bpf: Any, policy: str, protocol: str, ip: int, weights: tuple[int, ...]
) -> Iterator[tuple[Any, Any, list[socket.socket]]]:
    """The program on so many servers: it, its balancer and the sockets by slot."""
    program = bpf.load("reuseport_balance", program=policy)
    balancer = balance.Balancer(program)
    with ExitStack() as stack:
        servers = [stack.enter_context(server(net, protocol, ip)) for _ in weights]
        for each, weight in zip(servers, weights, strict=True):
            balancer.add(each, weight=weight)
        with program.attach(servers[0]):
            yield program, balancer, servers


def ask(net: Any, protocol: str, ip: int, count: int, *, sport: int = 0) -> list[int]:
    """So many connections or datagrams, each from a port of its own; the ports, in order."""
    ports = []
    for number in range(count):
        with net["client"].socket(FAMILIES[ip], KINDS[protocol]) as client:
            client.settimeout(2)
            if protocol == "tcp":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset: no TIME_WAIT
            client.bind((str(net.topology.address("client", ip)), sport + number if sport else 0))
            client.connect(address(net, ip))
            if protocol == "udp":
                client.send(b"x")
            ports.append(client.getsockname()[1])
    return ports


def received(each: socket.socket, protocol: str) -> list[int]:
    """The ports that a server heard from, in order."""
    ports = []
    try:
        while True:
            if protocol == "tcp":
                connection, peer = each.accept()
                connection.close()
            else:
                _, peer = each.recvfrom(64)
            ports.append(peer[1])
    except BlockingIOError:
        return ports


def all_received(servers: list[socket.socket], protocol: str, count: int) -> list[list[int]]:
    """Of each server the ports that it heard from, when it is `count` in all: the last ones may be on their way."""
    ports: list[list[int]] = [[] for _ in servers]

    def heard() -> bool:
        for own, each in zip(ports, servers, strict=True):
            own += received(each, protocol)
        return sum(map(len, ports)) >= count

    wait_until(heard, what=f"{count} clients heard")
    return ports


def chosen(program: Any, servers: list[socket.socket]) -> list[int]:
    return [program.maps["counts"].total(slot).chosen for slot in range(len(servers))]


# ---- Who gets how much ----


@families
@protocols
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (3, 1), (5, 3, 2)], ids=str)
def test_turns_are_exact(net: Any, bpf: Any, protocol: str, ip: int, weights: tuple[int, ...]) -> None:
    """Ten rounds: each server has ten times its weight, neither more nor less, and each round has its share."""
    whole = sum(weights)
    with balanced(net, bpf, "in_turn", protocol, ip, weights) as (program, _, servers):
        asked = ask(net, protocol, ip, 10 * whole, sport=20_000)
        got = all_received(servers, protocol, 10 * whole)
        assert [len(each) for each in got] == [10 * weight for weight in weights]
        assert chosen(program, servers) == [10 * weight for weight in weights]
    of = {port: slot for slot, ports in enumerate(got) for port in ports}
    first_round = Counter(of[port] for port in asked[:whole])
    assert [first_round[slot] for slot in range(len(weights))] == list(weights)


@families
@protocols
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (6, 3, 1)], ids=str)
def test_the_hash_shares_by_weight(net: Any, bpf: Any, protocol: str, ip: int, weights: tuple[int, ...]) -> None:
    """Of 1,000 flows each server has its share but for chance: chi-square, one in a million to fail by itself."""
    count = 1000
    with balanced(net, bpf, "by_hash", protocol, ip, weights) as (program, _, servers):
        ask(net, protocol, ip, count)
        got = [len(each) for each in all_received(servers, protocol, count)]
        assert got == chosen(program, servers)
    assert sum(got) == count
    assert chi_square(got, weights) < ONE_IN_A_MILLION[len(weights) - 1]
    assert chi_square(got, tuple(range(1, 1 + len(weights)))) > ONE_IN_A_MILLION[len(weights) - 1], "other shares"


def chi_square(got: list[int], weights: tuple[int, ...]) -> float:
    expected = [sum(got) * weight / sum(weights) for weight in weights]
    return sum((seen - due) ** 2 / due for seen, due in zip(got, expected, strict=True))


@families
def test_a_flow_stays_where_its_hash_says(net: Any, bpf: Any, ip: int) -> None:
    """Datagrams of one port come to one server; when another is drained, only the drained one's flows move."""
    with balanced(net, bpf, "by_hash", "udp", ip, (1, 1, 1, 1)) as (_, balancer, servers):
        flows = ask(net, "udp", ip, 200, sport=20_000)
        first = {port: slot for slot, each in enumerate(servers) for port in received(each, "udp")}
        ask(net, "udp", ip, 200, sport=20_000)
        again = {port: slot for slot, each in enumerate(servers) for port in received(each, "udp")}
        assert again == first and sorted(first) == flows
        balancer.drain(2)
        ask(net, "udp", ip, 200, sport=20_000)
        then = {port: slot for slot, each in enumerate(servers) for port in received(each, "udp")}
    moved = {port for port in flows if then[port] != first[port]}
    assert moved == {port for port in flows if first[port] == 2}
    assert len({then[port] for port in moved}) == 3, "to all of the others"


@families
@protocols
def test_each_cpu_has_its_server(net: Any, bpf: Any, protocol: str, ip: int) -> None:
    """What a sender on CPU n sends goes to server n: on a veth the sender's CPU takes it in."""
    cpus = sorted(os.sched_getaffinity(0))
    with balanced(net, bpf, "by_cpu", protocol, ip, (1,) * (cpus[-1] + 1)) as (_, _, servers):
        try:
            for cpu in cpus:
                os.sched_setaffinity(0, {cpu})
                ask(net, protocol, ip, 10)
        finally:
            os.sched_setaffinity(0, cpus)
        got = [len(received(each, protocol)) for each in servers]
    assert got == [10 if cpu in cpus else 0 for cpu in range(len(servers))]


# ---- Servers that go, and come ----


@families
@protocols
@pytest.mark.parametrize("policy", ["by_hash", "in_turn", "by_cpu"])
def test_a_dead_server_is_passed_over(net: Any, bpf: Any, policy: str, protocol: str, ip: int) -> None:
    """Its socket is closed and nobody has told the program: all that comes goes to the others, and is counted."""
    with balanced(net, bpf, policy, protocol, ip, (1, 1, 1)) as (program, balancer, servers):
        servers[0].close()
        ask(net, protocol, ip, 60)
        got = [len(received(each, protocol)) for each in servers[1:]]
        assert sum(got) == 60
        assert chosen(program, servers) == [0, *got]
        outcomes = program.maps["outcomes"].total
        assert outcomes("KERNEL_CHOSE") == 0
        if policy == "in_turn":
            assert got == [40, 20], "the dead one's turns are the next one's"
            assert outcomes("SKIPPED") == 20
        assert [each.slot for each in balancer.remove_dead()] == [0]
        skipped = outcomes("SKIPPED")
        ask(net, protocol, ip, 60)
        assert outcomes("SKIPPED") == skipped, "the new wheel does not have it any more"


@families
@protocols
def test_drained_by_mistake_all_at_once(net: Any, bpf: Any, protocol: str, ip: int) -> None:
    """Where no server is left the kernel chooses among those that are open: nobody is refused."""
    with balanced(net, bpf, "in_turn", protocol, ip, (1, 1)) as (program, balancer, servers):
        balancer.drain(0)
        balancer.drain(1)
        ask(net, protocol, ip, 20)
        assert sum(len(received(each, protocol)) for each in servers) == 20
        assert program.maps["outcomes"].total("KERNEL_CHOSE") == 20
        assert chosen(program, servers) == [0, 0]


@protocols
def test_a_server_of_another_port_is_passed_over(net: Any, bpf: Any, protocol: str) -> None:
    """A socket that cannot take the packet is as good as none."""
    with balanced(net, bpf, "in_turn", protocol, 4, (1,)) as (program, balancer, servers):
        with server(net, protocol, 4, port=PORT + 1) as stranger:
            balancer.add(stranger)
            ask(net, protocol, 4, 10)
            assert (len(received(servers[0], protocol)), received(stranger, protocol)) == (10, [])
        assert program.maps["outcomes"].total("SKIPPED") == 5


@families
def test_what_waits_at_a_closed_listener_moves(net: Any, bpf: Any, ip: int) -> None:
    """Connections that nobody has accepted, and what was sent over them, go to the others when the socket closes."""
    with balanced(net, bpf, "in_turn", "tcp", ip, (1, 1, 1)) as (program, _, servers), ExitStack() as stack:
        clients = [stack.enter_context(net["client"].socket(FAMILIES[ip])) for _ in range(12)]
        for number, client in enumerate(clients):
            client.settimeout(2)
            client.connect(address(net, ip))
            client.sendall(bytes([number]))
        servers[0].close()
        connections = [stack.enter_context(each) for server in servers[1:] for each in accepted(server)]
        heard = b"".join(each.recv(1) for each in connections)
        for each in connections:
            each.sendall(b"ok")
        assert sorted(heard) == list(range(12))
        assert [client.recv(2) for client in clients] == [b"ok"] * 12
        counts = [program.maps["counts"].total(slot) for slot in range(3)]
    assert [each.chosen for each in counts] == [4, 4, 4]
    assert [each.migrated for each in counts] == [0, 3, 1], "four turns, of which two are the dead one's"


def accepted(listener: socket.socket) -> list[socket.socket]:
    """All connections that wait."""
    made = []
    with suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(2)
            made.append(connection)
    return made


def test_without_the_program_what_waits_is_reset(net: Any) -> None:
    """What the program is for: the kernel alone resets the connections of a listener that closes."""
    with server(net, "tcp", 4) as one, server(net, "tcp", 4), ExitStack() as stack:
        clients = [stack.enter_context(net["client"].socket(socket.AF_INET)) for _ in range(40)]
        for client in clients:
            client.settimeout(2)
            client.connect(address(net, 4))
        one.close()
        poll = select.poll()
        for client in clients:
            poll.register(client, select.POLLIN)
        wait_until(lambda: poll.poll(0), within_s=2, what="a reset")


def test_a_new_server_gets_its_share(net: Any, bpf: Any) -> None:
    """Added while the program runs it has its turn from then on; a slot that was freed is used again, counted anew."""
    with balanced(net, bpf, "in_turn", "tcp", 4, (1, 1)) as (program, balancer, servers):
        ask(net, "tcp", 4, 10)
        servers[1].close()
        balancer.remove_dead()
        with server(net, "tcp", 4) as third:
            assert balancer.add(third) == 1
            ask(net, "tcp", 4, 10)
            assert len(received(third, "tcp")) == 5
            assert program.maps["counts"].total(1).chosen == 5


@pytest.mark.blind("the balancer refuses them: the program is not asked")
@pytest.mark.parametrize(
    ("weights", "said"), [((0,), "weight 0"), ((5000,), "weight 5000"), ((4095, 2), "round of 4097")], ids=str
)
def test_weights_that_cannot_be_are_refused(net: Any, bpf: Any, weights: tuple[int, ...], said: str) -> None:
    """ValueError says which, and the wheel stays as it was."""
    with pytest.raises(ValueError, match=said), balanced(net, bpf, "in_turn", "tcp", 4, weights):
        pass


# ---- Processes under fire ----

SERVER = """
import select, signal, socket, sys
from contextlib import suppress
family, host, port, number = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
listener = socket.socket(family, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind((host, port))
listener.listen(1024)
listener.setblocking(False)
told, tell = socket.socketpair()
tell.setblocking(False)
signal.set_wakeup_fd(tell.fileno())
signal.signal(signal.SIGTERM, lambda *_: None)
print("ready", flush=True)
while told not in select.select([listener, told], [], [])[0]:
    with suppress(OSError):  # somebody else's turn, or the client has gone
        connection, _ = listener.accept()
        with connection:
            connection.sendall(number.encode())
listener.close()  # what is in hand was served, what waits is the kernel's to move
"""


@contextmanager
def processes(net: Any, ip: int, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """So many servers of one port, each of which says its number to who connects."""
    arguments = (str(int(FAMILIES[ip])), *map(str, address(net, ip)))
    made = [
        net["server"].popen(
            [sys.executable, "-I", "-S", "-c", SERVER, *arguments, str(number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]
    try:
        for each in made:
            assert each.stdout.readline() == "ready\n"
        yield made
    finally:
        for each in made:
            each.kill()
            each.wait()
            each.stdout.close()


class Hammer:
    """Clients that connect as fast as they can and write down who answered, or how it failed."""

    def __init__(self, net: Any, ip: int, clients: int = CLIENTS) -> None:
        self.answers: Counter[str] = Counter()
        self._stop = Event()
        self._threads = [Thread(target=self._run, args=(net, ip)) for _ in range(clients)]

    def __enter__(self) -> Hammer:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def meets(self, number: int) -> None:
        """Waits until that server has answered 300 times more ($LAB_EFFORT of them)."""
        more = effort(300)
        goal = self.answers[str(number)] + more
        wait_until(lambda: self.answers[str(number)] >= goal, within_s=10, what=f"{more} answers of server {number}")

    def _run(self, net: Any, ip: int) -> None:
        while not self._stop.is_set():
            self.answers[self._once(net, ip)] += 1

    def _once(self, net: Any, ip: int) -> str:
        with net["client"].socket(FAMILIES[ip]) as client:
            client.settimeout(5)
            try:
                client.connect(address(net, ip))
                return client.recv(16).decode() or "closed without a word"
            except OSError as error:
                return f"{type(error).__name__}: {error}"


@families
@pytest.mark.parametrize("policy", ["by_hash", "in_turn"])
def test_a_server_is_drained_and_ends_and_nobody_notices(net: Any, bpf: Any, policy: str, ip: int) -> None:
    """While clients hammer the port one of three processes is drained, ends, and another takes its place."""
    program = bpf.load("reuseport_balance", program=policy)
    with processes(net, ip, 3) as servers, net["server"].enter(), grouped(program) as group:
        slots = {each.pid: each.slot for each in group.balancer.servers}
        assert sorted(slots) == sorted(each.pid for each in servers)
        with Hammer(net, ip) as hammer:
            for number in range(3):
                hammer.meets(number)
            group.balancer.drain(slots[servers[1].pid])
            drained_at = program.maps["counts"].total(slots[servers[1].pid]).chosen
            assert drained_at > 0
            hammer.meets(0)
            assert program.maps["counts"].total(slots[servers[1].pid]).chosen == drained_at
            servers[1].send_signal(signal.SIGTERM)
            assert servers[1].wait(timeout=5) == 0
            hammer.meets(2)
            group.refresh()
            assert len(group.balancer.servers) == 2
    assert set(hammer.answers) == {"0", "1", "2"}, "answers, and nothing else"


@families
def test_a_server_ends_undrained_and_nobody_is_refused(net: Any, bpf: Any, ip: int) -> None:
    """It closes its listener while clients wait to be accepted (one may be in hand): the others serve them."""
    program = bpf.load("reuseport_balance", program="in_turn")
    with (
        processes(net, ip, 3) as servers,
        net["server"].enter(),
        grouped(program) as group,
        Hammer(net, ip) as hammer,
    ):
        for number in range(3):
            hammer.meets(number)
        (slot,) = (each.slot for each in group.balancer.servers if each.pid == servers[0].pid)
        servers[0].send_signal(signal.SIGSTOP)  # so that something waits for it
        wait_until(lambda: waiting(group, slot) >= CLIENTS - 1, within_s=5, what="clients to wait for server 0")
        servers[0].send_signal(signal.SIGTERM)
        servers[0].send_signal(signal.SIGCONT)
        assert servers[0].wait(timeout=5) == 0
        hammer.meets(1)
        hammer.meets(2)
        assert program.maps["counts"].total(1).migrated + program.maps["counts"].total(2).migrated >= CLIENTS - 1
    assert set(hammer.answers) == {"0", "1", "2"}, "answers, and nothing else"


def waiting(group: Any, slot: int) -> int:
    """Connections in a server's accept queue."""
    group.refresh()
    return int(group.waiting[slot])


@contextmanager
def grouped(program: Any) -> Iterator[Any]:
    """The servers of other processes, as `lab reuseport_balance` finds them."""
    from lab.host import open_place

    with open_place(sockets=["tcp/8080"]) as place:
        (attachment,) = balance.attach(program, place)
        try:
            yield balance.GROUPS[program.fd]
        finally:
            attachment.detach()


def test_the_view_shows_who_serves(net: Any, bpf: Any) -> None:
    """A row a server with what it got; one that starts later comes in, one that ends goes."""
    program = bpf.load("reuseport_balance", program="in_turn")
    with processes(net, 4, 2) as servers, net["server"].enter(), grouped(program):
        rows = {row["pid"]: row for row in balance.view(program).records()}
        assert {row["state"] for row in rows.values()} == {"serving"}
        with processes(net, 4, 1) as more:
            assert more[0].pid in {row["pid"] for row in balance.view(program).records()}
            ask(net, "tcp", 4, 30)
            counts = {row["pid"]: row["chosen"] for row in balance.view(program).records()}
            assert counts == {each.pid: 10 for each in (*servers, *more)}
        states = {row["pid"]: row["state"] for row in balance.view(program).records()}
        assert states[more[0].pid] == "gone"
        assert more[0].pid not in {row["pid"] for row in balance.view(program).records()}
        assert balance.summary(program) == "30 given to 3 servers, 0 moved"


def test_a_weight_that_is_none_is_refused() -> None:
    """The sentence shows how one looks."""
    with pytest.raises(LabError, match="1234=3"):
        balance._weights(("nginx=3",))
