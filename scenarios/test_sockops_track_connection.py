"""sockops_track_connection knows a cgroup's TCP connections, their numbers and ends, and counts what it misses."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from lab import Direction, Topology, instruments
from lab.bpf.companion import companion
from lab.kernel.cgroup import Cgroup
from lab.wait import wait_until

track = companion("sockops_track_connection")

TOPOLOGY = Topology.chain("client", "router", "server")
PORT = 8080
CLOSED_PORT = 81
WITHIN_S = 3

families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup with this process inside."""
    with Cgroup() as made, made.entered():
        yield made


def address(net: Any, name: str, ip: int = 4) -> str:
    interface = net.interface(f"{name}/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6)


def listening(stack: ExitStack, net: Any, port: int = PORT) -> socket.socket:
    """For both families."""
    listener = stack.enter_context(net["server"].socket(socket.AF_INET6))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(128)
    return listener


def new_client(stack: ExitStack, net: Any, ip: int = 4) -> socket.socket:
    client = stack.enter_context(net["client"].socket(socket.AF_INET if ip == 4 else socket.AF_INET6))
    client.settimeout(WITHIN_S)
    return client


@contextmanager
def connected(net: Any, ip: int = 4) -> Iterator[SimpleNamespace]:
    """A connection from client to server, and its listener."""
    with ExitStack() as stack:
        listener = listening(stack, net)
        client = new_client(stack, net, ip)
        client.connect((address(net, "server", ip), PORT))
        served = stack.enter_context(listener.accept()[0])
        served.settimeout(WITHIN_S)
        yield SimpleNamespace(client=client, served=served, listener=listener)


def transfer(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    """So many bytes, read while they are sent: neither side's buffer need hold them."""
    left, missing = memoryview(bytes(count)), count
    while missing:
        readable, writable, _ = select.select([receiver], [sender] if left else [], [], WITHIN_S)
        assert readable or writable, f"{missing} of {count} bytes do not come"
        if writable:
            left = left[sender.send(left) :]
        if readable:
            missing -= len(receiver.recv(65536))


def living(program: Any) -> dict[str, Any]:
    """The sockets in the table, by role; one of each at most."""
    found = list(track.connections(program.maps))
    assert len({each.role for each in found}) == len(found)
    return {each.role: each for each in found}


def ends(program: Any, count: int) -> dict[str, Any]:
    """The next `count` sockets that end, by role."""
    events = program.maps["events"].events(count=count, within_s=WITHIN_S)
    return {each.role: each for each in (track.connection_of(event.cookie, event.connection) for event in events)}


def happened(program: Any, **expected: int) -> None:
    """Each of these, and nothing else, has happened so often."""
    found = {name: times for name, times in track.happened(program.maps).items() if times}
    assert found == expected


# ---- A connection's life ----


@families
def test_both_ends_of_a_connection(net, bpf, group, ip):
    """Two sockets with mirrored ends and bytes; after an orderly close two events CLOSED, and no entry."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), connected(net, ip) as made:
        transfer(made.client, made.served, 100_000)
        transfer(made.served, made.client, 5_000)
        for name in ("client", "server"):
            net[name].run(track.look, program, group)
        here = living(program)
        active, passive, listener = here["ACTIVE"], here["PASSIVE"], here["LISTENER"]
        host, port = made.client.getsockname()[:2]
        assert active.local == (f"{host}:{port}" if ip == 4 else f"[{host}]:{port}")
        assert (active.local, active.remote) == (passive.remote, passive.local)
        assert (listener.local, listener.state) == (f"[::]:{PORT}", "LISTEN")
        for each, end in ((active, made.client), (passive, made.served)):
            assert each.state == "ESTABLISHED" and each.srtt_us > 0 and each.retransmits == retransmits_of(end)
            assert each.cgroup_id == group.path.stat().st_ino
        assert (active.bytes_sent, active.bytes_received) == (100_000, 5_000)
        assert (passive.bytes_sent, passive.bytes_received) == (5_000, 100_000)
        made.client.close()
        assert made.served.recv(1) == b""
        made.served.close()
        last = ends(program, 2)
    assert {each.ending for each in last.values()} == {"CLOSED"}
    assert (last["ACTIVE"].bytes_sent, last["ACTIVE"].bytes_received) == (100_000, 5_000)
    assert (last["PASSIVE"].bytes_sent, last["PASSIVE"].bytes_received) == (5_000, 100_000)
    in_order = sorted(last["ACTIVE"].entered_ns, key=last["ACTIVE"].entered_ns.get)
    assert in_order == ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSE"]
    in_order = sorted(last["PASSIVE"].entered_ns, key=last["PASSIVE"].entered_ns.get)
    assert in_order == ["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSE"]
    assert 0 < last["ACTIVE"].handshake_ms < 1000
    happened(program, OPENED_ACTIVE=1, OPENED_PASSIVE=1, OPENED_LISTENER=1, ENDED=3)


@families
def test_numbers_are_the_kernels(net, bpf, group, ip):
    """After look(), srtt, retransmits, window and segments are those of the socket's own TCP_INFO."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), connected(net, ip) as made:
        transfer(made.client, made.served, 300_000)
        net["client"].run(track.look, program, group)
        info = made.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        ((cookie, entry),) = [each for each in program.maps["connections"].items() if each[1].role.name == "ACTIVE"]
        rtt_us, total_retransmits = struct.unpack_from("=I", info, 68)[0], struct.unpack_from("=I", info, 100)[0]
        segments_out, segments_in = struct.unpack_from("=II", info, 136)
        assert (entry.srtt_us, entry.retransmits) == (rtt_us, total_retransmits)
        assert entry.window == struct.unpack_from("=I", info, 80)[0]
        assert entry.netns == os.fstat(net["client"].netns_fd).st_ino
        assert (entry.segments_out, entry.segments_in) == (segments_out, segments_in)
        assert cookie == struct.unpack("=Q", made.client.getsockopt(socket.SOL_SOCKET, 57, 8))[0]  # SO_COOKIE
        assert 0 < entry.rtt_min_us <= entry.rtt_max_us
        assert entry.rtt_samples > 0


def retransmits_of(end: socket.socket) -> int:
    """All in the life of the socket: one may come without a loss, where the answer is late."""
    return struct.unpack_from("=I", end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


def test_lost_segments_are_retransmits(net, bpf, group):
    """The line loses 3 data segments: the sender has retransmitted at least those, the receiver nothing."""
    program = bpf.load("sockops_track_connection")
    with losing(net, bpf) as lose, program.attach(group), connected(net) as made:
        lose.globals["payload"] = 1000
        lose.globals["left"] = 3
        transfer(made.client, made.served, 200_000)
        wait_until(lambda: not lose.globals["left"], within_s=WITHIN_S, what="3 segments lost")
        here = living(program)
    assert here["ACTIVE"].retransmits >= 1 and here["PASSIVE"].retransmits == 0
    assert lose.globals["lost"] == 3


@contextmanager
def losing(net: Any, bpf: Any, *places: str) -> Iterator[Any]:
    """A line that loses what its globals say, of what comes in at these interfaces."""
    program = bpf.load(instruments.path("lose"))
    with ExitStack() as stack:
        for place in places or ("server/eth0",):
            stack.enter_context(program.attach(net.interface(place), direction=Direction.INGRESS))
        yield program


EVERY = 0xFFFFFFFF

# ---- How connections end ----


def linger(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_client_first(made: Any) -> None:
    made.client.close()
    made.served.recv(1)
    made.served.close()


def close_server_first(made: Any) -> None:
    made.served.close()
    made.client.recv(1)
    made.client.close()


def half_close(made: Any) -> None:
    """The client ends its half; the server still sends 1,000 bytes before it ends its own."""
    made.client.shutdown(socket.SHUT_WR)
    made.served.recv(1)
    transfer(made.served, made.client, 1_000)
    made.served.close()
    made.client.recv(1)
    made.client.close()


def reset_by_client(made: Any) -> None:
    linger(made.client)
    made.client.close()


def reset_by_server(made: Any) -> None:
    linger(made.served)
    made.served.close()


def close_with_unread_data(made: Any) -> None:
    made.client.sendall(b"unread")
    made.served.close()


def reset_half_closed(made: Any) -> None:
    """The server has the client's FIN (CLOSE_WAIT) when the reset comes: the kernel calls that EPIPE."""
    made.client.shutdown(socket.SHUT_WR)
    made.served.recv(1)
    linger(made.client)
    made.client.close()


def reset_in_fin_wait2(made: Any) -> None:
    """The client's FIN is acknowledged, the server's has not come, and the client resets."""
    made.client.shutdown(socket.SHUT_WR)
    made.served.recv(1)
    transfer(made.served, made.client, 1)
    linger(made.client)
    made.client.close()


ENDINGS = {
    close_client_first: ("CLOSED", "CLOSED"),
    close_server_first: ("CLOSED", "CLOSED"),
    half_close: ("CLOSED", "CLOSED"),
    reset_by_client: ("ABORTED", "RESET"),
    reset_by_server: ("RESET", "ABORTED"),
    close_with_unread_data: ("RESET", "ABORTED"),
    reset_half_closed: ("ABORTED", "RESET"),
    reset_in_fin_wait2: ("ABORTED", "RESET"),
}


@families
@pytest.mark.parametrize("act", ENDINGS, ids=lambda act: act.__name__)
def test_each_end_says_how_it_ended(net, bpf, group, act, ip):
    """Either side's event has the ending that fits what that side did or met, and the sums of the cgroup agree."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), connected(net, ip) as made:
        act(made)
        last = ends(program, 2)
        assert (last["ACTIVE"].ending, last["PASSIVE"].ending) == ENDINGS[act]
        assert list(living(program)) == ["LISTENER"]
        counted = program.maps["endings"]
        assert Counter(ENDINGS[act]) == {end: counted.total(end) for end in {*ENDINGS[act]}}
        ((number, sums),) = program.maps["cgroups"].items()
        assert number == group.path.stat().st_ino
        assert (sums.opened, sum(sums.ended)) == ([1, 1, 1, 0], 2)
        assert sums.bytes_sent == sum(each.bytes_sent for each in last.values())


def test_a_process_that_does_not_wait(net, bpf, group):
    """The client is closed and its FIN acknowledged: its socket ends as CLOSED, before the server's FIN has come."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), connected(net) as made:
        made.client.close()
        active = ends(program, 1)["ACTIVE"]
        assert (active.ending, "FIN_WAIT2" in active.entered_ns) == ("CLOSED", True)
        made.served.close()
        assert ends(program, 1)["PASSIVE"].ending == "CLOSED"


def test_both_close_at_once(net, bpf, group):
    """Two FINs that cross: CLOSING is seen, and both ends are CLOSED."""
    program = bpf.load("sockops_track_connection")
    with losing(net, bpf, "client/eth0", "server/eth0") as lose, program.attach(group), connected(net) as made:
        lose.globals["flags"] = 0x01  # FIN
        lose.globals["left"] = 2
        made.client.shutdown(socket.SHUT_WR)
        made.served.shutdown(socket.SHUT_WR)
        made.client.close()
        made.served.close()
        last = ends(program, 2)
    assert {each.ending for each in last.values()} == {"CLOSED"}
    assert track.changes(program.maps)["FIN_WAIT1", "CLOSING"] >= 1


@families
def test_a_refused_connection(net, bpf, group, ip):
    """No listener: REFUSED with its errno, never established; the same socket may connect again."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), ExitStack() as stack:
        client = new_client(stack, net, ip)
        client.settimeout(None)  # otherwise the kernel wants to be asked once more for the error
        with pytest.raises(ConnectionRefusedError):
            client.connect((address(net, "server", ip), CLOSED_PORT))
        refused = ends(program, 1)["ACTIVE"]
        assert (refused.ending, refused.error, refused.established_ns) == ("REFUSED", errno.ECONNREFUSED, 0)
        assert (refused.bytes_sent, refused.bytes_received) == (0, 0)
        listening(stack, net)
        client.connect((address(net, "server", ip), PORT))
        assert living(program)["ACTIVE"].cookie == refused.cookie


def test_a_peer_that_falls_silent(net, bpf, group):
    """What is sent is lost until TCP_USER_TIMEOUT: TIMED_OUT."""
    program = bpf.load("sockops_track_connection")
    with losing(net, bpf) as lose, program.attach(group), connected(net) as made:
        made.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 50)
        lose.globals["left"] = EVERY
        made.client.sendall(b"into the void")
        last = ends(program, 1)["ACTIVE"]
    assert (last.ending, last.error, last.bytes_sent) == ("TIMED_OUT", errno.ETIMEDOUT, 0)


def test_a_connection_given_up(net, bpf, group):
    """Closed before anybody answered: GIVEN_UP."""
    program = bpf.load("sockops_track_connection")
    with losing(net, bpf) as lose, program.attach(group), ExitStack() as stack:
        lose.globals["left"] = EVERY
        client = new_client(stack, net)
        client.setblocking(False)
        assert client.connect_ex((address(net, "server"), PORT)) == errno.EINPROGRESS
        assert living(program)["ACTIVE"].state == "SYN_SENT"
        client.close()
        assert ends(program, 1)["ACTIVE"].ending == "GIVEN_UP"


def test_an_unreachable_server(net, bpf, group):
    """The router says that there is no way: FAILED, with the errno."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), ExitStack() as stack:
        route = ["ip", "route", "add", "prohibit", "203.0.113.1"]
        assert net["router"].popen(route).wait(WITHIN_S) == 0
        assert net["client"].popen(["ip", "route", "add", "203.0.113.1", "via", hop(net)]).wait(WITHIN_S) == 0
        with pytest.raises(OSError) as caught:
            new_client(stack, net).connect(("203.0.113.1", PORT))
        last = ends(program, 1)["ACTIVE"]
    assert (last.ending, last.error) == ("FAILED", caught.value.errno)


def hop(net: Any) -> str:
    return address(net, "router")


# ---- Listeners, and what was there before ----


def test_a_listener(net, bpf, group):
    """listen() twice is one LISTENER; closing it is STOPPED."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), ExitStack() as stack:
        listener = listening(stack, net)
        listener.listen(5)
        assert living(program)["LISTENER"].state == "LISTEN"
        listener.close()
        assert ends(program, 1)["LISTENER"].ending == "STOPPED"
    happened(program, OPENED_LISTENER=1, ENDED=1)


def test_a_listener_that_cannot_have_its_port(net, bpf, group):
    """listen() fails, its entry goes when the socket does."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), ExitStack() as stack:
        listening(stack, net)
        second = stack.enter_context(net["server"].socket(socket.AF_INET6))
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            second.bind(("::", PORT))
            second.listen()
        second.close()
        assert len(list(track.connections(program.maps))) == 1


@pytest.mark.needs("late_callbacks")
@families
def test_what_was_there_before(net, bpf, group, ip):
    """look() adopts a connection and its listener; from then on they are tracked, and their end is told."""
    program = bpf.load("sockops_track_connection")
    with connected(net, ip) as made, program.attach(group):
        transfer(made.client, made.served, 1_000)
        assert living(program) == {}
        net["server"].run(track.look, program, group)
        here = living(program)
        assert (here["ADOPTED"].bytes_received, here["ADOPTED"].state) == (1_000, "ESTABLISHED")
        assert here["LISTENER"].local == f"[::]:{PORT}"
        net["server"].run(track.look, program, group)
        happened(program, OPENED_ADOPTED=1, OPENED_LISTENER=1)
        transfer(made.client, made.served, 500)
        close_client_first(made)
        last = ends(program, 1)["ADOPTED"]
    assert (last.ending, last.bytes_received) == ("CLOSED", 1_500)


def test_other_cgroups_are_not_seen(net, bpf, group):
    """A socket made outside is in no entry, look() does not take it, and its peer inside is tracked alone."""
    program = bpf.load("sockops_track_connection")
    with ExitStack() as stack, Cgroup() as other:
        stack.enter_context(program.attach(group))
        with other.entered():
            listener = listening(stack, net)
        client = new_client(stack, net)
        client.connect((address(net, "server"), PORT))
        for name in ("client", "server"):
            net[name].run(track.look, program, group)
        assert list(living(program)) == ["ACTIVE"]
        listener.close()
        client.close()
    happened(program, OPENED_ACTIVE=1, ENDED=1)


def test_two_cgroups_have_sums_of_their_own(net, bpf, group):
    """One program on two cgroups: the client's sums and the server's are apart."""
    program = bpf.load("sockops_track_connection")
    with ExitStack() as stack, Cgroup() as other:
        stack.enter_context(program.attach(group))
        stack.enter_context(program.attach(other))
        with other.entered():
            listener = listening(stack, net)
        client = new_client(stack, net)
        client.connect((address(net, "server"), PORT))
        served = stack.enter_context(listener.accept()[0])
        transfer(client, served, 700)
        close_client_first(SimpleNamespace(client=client, served=served))
        sums = dict(program.maps["cgroups"].items())
        mine, its = (sums[each.path.stat().st_ino] for each in (group, other))
        assert (mine.opened, mine.bytes_sent, mine.bytes_received) == ([1, 0, 0, 0], 700, 0)
        assert (its.opened, its.bytes_sent, its.bytes_received) == ([0, 1, 1, 0], 0, 700)
        rows = {row[0]: row for row in track.by_cgroup(program.maps).rows}
        assert rows[f"/{group.path.name}"][5:7] == (700, 0)


# ---- Pressure ----


def test_a_full_table(net, bpf, group):
    """The third socket is not tracked, counted, and works; when one ends there is room again."""
    program = bpf.load("sockops_track_connection", max_entries={"connections": 2})
    with ExitStack() as stack, Cgroup() as other:
        with other.entered():
            listening(stack, net)
        stack.enter_context(program.attach(group))
        clients = [new_client(stack, net) for _ in range(4)]
        for client in clients[:3]:
            client.connect((address(net, "server"), PORT))
        happened(program, OPENED_ACTIVE=2, NOT_TRACKED=1)
        clients[2].sendall(b"works")
        clients[2].close()
        clients[0].close()
        wait_until(lambda: track.happened(program.maps)["ENDED"] or None, within_s=WITHIN_S, what="an entry gone")
        clients[3].connect((address(net, "server"), PORT))
        happened(program, OPENED_ACTIVE=3, NOT_TRACKED=1, ENDED=1)


def test_lost_events_are_counted(net, bpf, group):
    """200 sockets end while nobody reads a ring buffer of one page: each is in it or in EVENT_LOST."""
    program = bpf.load("sockops_track_connection", max_entries={"events": 4096})
    with program.attach(group), ExitStack() as stack:
        for _ in range(200):
            with new_client(stack, net) as client:
                client.connect_ex((address(net, "server"), CLOSED_PORT))
    lost = track.happened(program.maps)["EVENT_LOST"]
    assert lost > 0
    assert len(list(track.ended(program.maps))) + lost == 200
    assert program.maps["endings"].total("REFUSED") == 200


def test_two_copies_do_not_disturb_each_other(net, bpf, group):
    """A copy with room for one socket misses the others; the copy beside it has every number and every end."""
    small = bpf.load("sockops_track_connection", max_entries={"connections": 1})
    whole = bpf.load("sockops_track_connection")
    with whole.attach(group), small.attach(group), connected(net) as made:
        transfer(made.client, made.served, 10_000)
        close_client_first(made)
        assert {each.ending for each in ends(whole, 2).values()} == {"CLOSED"}
        assert track.happened(small.maps)["NOT_TRACKED"] == 2
        assert track.happened(small.maps)["STRANGER"] == 2


def test_changes_are_told_where_asked_for(net, bpf, group):
    """tell_changes=1: an event for each change of state, with both states."""
    program = bpf.load("sockops_track_connection", tell_changes=1)
    with program.attach(group), connected(net) as made:
        port = made.client.getsockname()[1]
        close_client_first(made)
        events = [each for each in program.maps["events"].drain() if each.connection.local_port == port]
    told = [(each.before.name, each.connection.state.name) for each in events]
    assert told == [
        ("SYN_SENT", "ESTABLISHED"),
        ("ESTABLISHED", "FIN_WAIT1"),
        ("FIN_WAIT1", "FIN_WAIT2"),
        ("FIN_WAIT2", "CLOSE"),
    ]


def test_what_a_person_sees(net, bpf, group):
    """The view has a row for each end with its bytes, a row for the cgroup, and the summary counts both."""
    program = bpf.load("sockops_track_connection")
    with program.attach(group), connected(net) as made:
        transfer(made.client, made.served, 700)
        track.look(program, group)
        for name in ("client", "server"):
            net[name].run(track.look, program)
        sockets, cgroups = track.view(program, top=5, by="bytes")
        rows = {row["role"]: row for row in sockets.records()}
        assert set(rows) == {"active", "passive"}
        assert (rows["active"]["bytes out"], rows["passive"]["bytes in"]) == (700, 700)
        assert rows["active"]["local"] == rows["passive"]["remote"]
        (mine,) = cgroups.records()
        assert (mine["cgroup"], mine["open"], mine["bytes out"]) == (f"/{group.path.name}", 2, 700)
        assert len(track.view(program, top=1)[0].rows) == 1
        assert track.summary(program) == "2 connections, 0 ended"


CLIENT = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
held = []
for _ in range(int(sys.argv[3])):
    one = socket.socket(socket.AF_INET6)
    one.connect((sys.argv[1], int(sys.argv[2])))
    held.append(one)
print(len(held), flush=True)
sys.stdin.read()
"""
EACH, PROCESSES = 17_000, 6
"""A process may have 20,000 descriptors, on many machines at most."""


@pytest.mark.needs("room")
@pytest.mark.topology(
    Topology.pair(
        "client", "server", sysctls={"net.ipv4.ip_local_port_range": "1024 65000", "net.core.somaxconn": 1 << 20}
    )
)
def test_a_hundred_thousand_connections(net, bpf, group):
    """102,000 connections at once, both ends tracked, none missed; then all end, and each end is an event or lost."""
    everything = 2 * EACH * PROCESSES
    program = bpf.load("sockops_track_connection", max_entries={"connections": everything + PROCESSES})
    with program.attach(group), ExitStack() as stack:
        listeners, clients = [], []
        for port in range(PORT, PORT + PROCESSES):
            listeners.append(listening(stack, net, port))
            listeners[-1].listen(1 << 17)  # nobody accepts: the queue holds them, without descriptors
            argv = [sys.executable, "-S", "-E", "-c", CLIENT, address(net, "server", 6), str(port), str(EACH)]
            clients.append(net["client"].popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert [client.stdout.readline() for client in clients] == [f"{EACH}\n"] * PROCESSES
        assert len(program.maps["connections"]) == everything + PROCESSES
        for client in clients:
            client.communicate()
        for listener in listeners:
            listener.close()
        wait_until(lambda: not len(program.maps["connections"]), within_s=10, what="no entry left")
    times = track.happened(program.maps)
    assert times["NOT_TRACKED"] == times["STRANGER"] == 0
    assert (times["OPENED_ACTIVE"], times["OPENED_PASSIVE"]) == (everything // 2, everything // 2)
    assert times["ENDED"] == everything + PROCESSES
    assert len(program.maps["events"].drain()) + times["EVENT_LOST"] == times["ENDED"]
