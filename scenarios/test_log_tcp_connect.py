"""log_tcp_connect tells every connection once: who, where to, how long it took, and why it failed."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lab import Cgroup, Mode, Topology
from lab.bpf.companion import companion
from lab.bpf.loader import Loader
from lab.wait import wait_until

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


@pytest.fixture(scope="module")
def attached() -> Iterator[Any]:
    """The program, attached, for this process alone, on the hooks that the kernel never skips."""
    with Loader() as bpf:
        program = log.load(bpf, pid=os.getpid(), every_call=True)
        with log.attached(program):
            yield program


@pytest.fixture
def tracer(attached) -> Any:
    """The same, with nothing to read: the kernel may give this test's namespaces the numbers of an earlier one's."""
    log.drain(attached)
    return attached


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


def inodes(net: Any) -> dict[int, str]:
    """The namespaces of the network, as they are told."""
    return {os.fstat(net[name].netns_fd).st_ino: name for name in ("client", "router", "server")}


def told(program: Any, net: Any) -> list[Any]:
    """What was told of the network; nothing but the client connects."""
    names = inodes(net)
    every = [each for each in log.drain(program) if each.netns in names]
    assert {names[each.netns] for each in every} <= {"client"}
    return every


def only(program: Any, net: Any) -> Any:
    (one,) = told(program, net)
    return one


@contextmanager
def black_hole(net: Any, bpf: Any) -> Iterator[None]:
    """What goes to the server vanishes without a word."""
    with bpf.load_bcc(DROP, "drop", "xdp").attach(net.interface("server/eth0"), mode=Mode.GENERIC):
        yield


def begun(net: Any, stack: ExitStack, where: dict[int, str], **limits: int) -> dict[tuple[int, int], socket.socket]:
    """A non-blocking connect of each family under way, by version and source port."""
    made = {}
    for ip, address in where.items():
        one = stack.enter_context(open_socket(net, ip, blocking=False))
        for name, value in limits.items():
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        assert one.connect_ex((address, OPEN)) == errno.EINPROGRESS
        made[ip, one.getsockname()[1]] = one
    return made


def waited_for(program: Any, net: Any, count: int) -> list[Any]:
    """So many of the client's, as soon as they were told."""
    came: list[Any] = []

    def enough() -> bool:
        came.extend(told(program, net))
        return len(came) >= count

    wait_until(enough, within_s=5, what=f"{count} connections told")
    return came


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


def test_icmp_makes_it_unreachable(net, tracer):
    """The router has no route to it and says so: the kernel believes it the second time, and tells which error."""
    nowhere = {4: "192.0.2.1", 6: "2001:db8::1"}
    with ExitStack() as stack:
        sockets = begun(net, stack, nowhere)
        ended = waited_for(tracer, net, 2)
        said = {ip: one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for (ip, _), one in sockets.items()}
    assert {(each.dest.version, str(each.dest)) for each in ended} == nowhere.items()
    for one in ended:
        assert (one.ending, one.error) == (Total.UNREACHABLE, errno.errorcode[said[one.dest.version]])
    assert set(said.values()) <= {errno.ENETUNREACH, errno.EHOSTUNREACH}


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


def test_no_free_port_is_refused_here_though_it_had_begun(net, tracer, server):
    """One local port, and it is taken: the kernel goes to SYN_SENT and back, and it is told once, with the error."""
    net["client"].set_sysctl("net.ipv4.ip_local_port_range", "40000 40000")
    with open_socket(net) as first, open_socket(net) as second:
        first.connect((SERVER[4], OPEN))
        assert second.connect_ex((SERVER[4], OPEN)) == errno.EADDRNOTAVAIL
    taken, refused = told(tracer, net)
    assert (taken.ending, taken.source_port) == (Total.CONNECTED, 40_000)
    assert (refused.ending, refused.error, str(refused.dest)) == (Total.REFUSED_HERE, "EADDRNOTAVAIL", SERVER[4])


DENY = "int deny(struct bpf_sock_addr *ctx) { return 0; }"


@pytest.mark.needs("cgroup2")
def test_a_policy_that_denies_is_told(net, bpf, tracer, server):
    """A program at the cgroup's connect4 says no: REFUSED_HERE with EPERM."""
    deny = bpf.load_bcc(DENY, "deny", "cgroup/connect4")
    with Cgroup() as group, deny.attach(group), group.entered():
        assert connect(net, 4, (SERVER[4], OPEN)) == errno.EPERM
    one = only(tracer, net)
    assert (one.ending, one.error, str(one.dest), one.dest_port) == (Total.REFUSED_HERE, "EPERM", SERVER[4], OPEN)


def test_silence_is_a_timeout(net, bpf, tracer, server):
    """Nobody answers, and the sockets have a limit of half a second: TIMEOUT behind the second SYN."""
    with black_hole(net, bpf), ExitStack() as stack:
        sockets = begun(net, stack, SERVER, TCP_USER_TIMEOUT=500)
        ended = waited_for(tracer, net, 2)
        assert {each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for each in sockets.values()} == {errno.ETIMEDOUT}
    assert {(each.dest.version, each.source_port) for each in ended} == sockets.keys()
    for one in ended:
        assert (one.ending, one.error, one.syns, one.pid) == (Total.TIMEOUT, "ETIMEDOUT", 2, os.getpid())
        assert one.took_ns >= 9 * 10**8


def test_a_late_answer_is_told_with_its_retries(net, bpf, tracer, server):
    """The first SYN is lost, the second is answered a second later, in no process at all: told as who connected."""
    with ExitStack() as stack:
        with black_hole(net, bpf):
            sockets = begun(net, stack, SERVER)
            assert told(tracer, net) == []
        ended = waited_for(tracer, net, 2)
    assert {(each.dest.version, each.source_port) for each in ended} == sockets.keys()
    for one in ended:
        assert (one.ending, one.syns, one.pid, one.uid) == (Total.CONNECTED, 2, os.getpid(), os.getuid())
        assert one.thread == threading.get_native_id() and one.took_ns >= 9 * 10**8


# ---- Given up ----


@families
def test_a_socket_closed_too_early_is_given_up(net, bpf, tracer, server, ip):
    """Its process closes it before any answer: GIVEN_UP, without an error, as the process it began in."""
    with black_hole(net, bpf):
        assert connect(net, ip, (SERVER[ip], OPEN), blocking=False) == errno.EINPROGRESS
    one = only(tracer, net)
    assert (one.ending, one.error, one.syns, str(one.dest)) == (Total.GIVEN_UP, "", 1, SERVER[ip])


def in_a_child(act: Callable[[], object]) -> int:
    """Runs it in a process of its own, which ends at once behind it; its id."""
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_process_that_ends_gives_up(net, bpf, server):
    """A child connects and ends: what the kernel closes behind it is told under the child's name and user."""

    def act() -> None:
        Path("/proc/self/comm").write_text("short-lived")
        made = open_socket(net, blocking=False)
        os.setresuid(65534, 65534, 65534)
        made.connect_ex((SERVER[4], OPEN))

    program = log.load(bpf)
    with log.attached(program), black_hole(net, bpf):
        child = in_a_child(act)
    one = only(program, net)
    assert (one.ending, one.pid, one.comm, one.uid) == (Total.GIVEN_UP, child, "short-lived", 65534)


# ---- What is one connection, and what is none ----


@pytest.mark.parametrize("port", (OPEN, CLOSED), ids=("open", "closed"))
def test_asking_again_is_no_second_connection(net, tracer, server, port):
    """A non-blocking connect, poll, and connect() once more to learn how it went: one event."""
    with open_socket(net, blocking=False) as made:
        made.connect_ex((SERVER[4], port))
        assert select.select([], [made], [], 2)[1]
        assert made.connect_ex((SERVER[4], port)) in (0, errno.EISCONN, errno.ECONNREFUSED)
        made.connect_ex((SERVER[4], OPEN))
    endings = [each.ending for each in told(tracer, net)]
    assert endings == ([Total.CONNECTED] if port == OPEN else [Total.RESET, Total.CONNECTED])


def test_an_ipv4_address_in_ipv6_clothes_is_ipv4(net, tracer, server):
    """A socket of IPv6 that connects to ::ffff:10.0.1.2 is told with the addresses that are on the wire."""
    assert connect(net, 6, (f"::ffff:{SERVER[4]}", OPEN)) == 0
    one = only(tracer, net)
    assert (str(one.source), str(one.dest)) == (CLIENT[4], SERVER[4])


def test_what_is_no_tcp_connection_is_not_told(net, tracer, server):
    """UDP, in vain too, a Unix socket that is not there, a bad descriptor, and the accepting side."""
    client = net["client"]
    with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((SERVER[4], OPEN))
    with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        assert udp.connect_ex(("255.255.255.255", OPEN)) == errno.EACCES
    with client.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
        assert local.connect_ex("/nowhere") == errno.ENOENT
    closed = open_socket(net)
    closed.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        closed.connect((SERVER[4], OPEN))
    connect(net, 4, (SERVER[4], OPEN))
    server[4].accept()[0].close()
    assert [(each.ending, str(each.source)) for each in told(tracer, net)] == [(Total.CONNECTED, CLIENT[4])]


# ---- Many, and too many ----


def test_five_hundred_from_four_threads_are_each_told_once(net, bpf, server):
    """Every third finds a closed port: the very threads, ports and endings that the threads saw themselves."""
    program = log.load(bpf, pid=os.getpid())

    def hammer(ip: int) -> list[tuple[int, int, int, Any]]:
        seen = []
        for place in range(125):
            with open_socket(net, ip) as made:
                failed = made.connect_ex((SERVER[ip], OPEN if place % 3 else CLOSED))
                port = made.getsockname()[1]
            seen.append((threading.get_native_id(), ip, port, Total.RESET if failed else Total.CONNECTED))
        return seen

    with log.attached(program), ThreadPoolExecutor(4) as pool:
        seen = [each for share in pool.map(hammer, (4, 6, 4, 6)) for each in share]
    every = told(program, net)
    assert Counter((each.thread, each.dest.version, each.source_port, each.ending) for each in every) == Counter(seen)
    counted = log.totals(program)
    assert (counted[Total.STARTED], counted[Total.CONNECTED], counted[Total.RESET]) == (500, 332, 168)
    assert (counted[Total.EVENT_LOST], counted[Total.NO_ROOM]) == (0, 0)


def test_a_full_ring_buffer_is_counted(net, bpf, server):
    """100 connections that nobody reads, into a buffer of one page: those that are missing are in EVENT_LOST."""
    program = log.load(bpf, pid=os.getpid(), ring_pages=1, refusals=False)
    with log.attached(program):
        for _ in range(100):
            connect(net, 4, (SERVER[4], OPEN))
    came = told(program, net)
    assert 10 < len(came) < 100
    assert log.totals(program)[Total.EVENT_LOST] == 100 - len(came) <= log.lost(program)
    assert log.totals(program)[Total.CONNECTED] == 100
    assert log.summary(program).endswith(" LOST")


def test_a_full_table_is_counted(net, bpf, server):
    """Five under way, and room for two: three are NO_ROOM, and two are told in the end."""
    program = log.load(bpf, pid=os.getpid(), connections=2, refusals=False)
    with log.attached(program), black_hole(net, bpf), ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(open_socket(net, blocking=False)).connect_ex((SERVER[4], OPEN))
        assert log.totals(program)[Total.NO_ROOM] == 3
        stack.close()
        assert [each.ending for each in told(program, net)] == [Total.GIVEN_UP] * 2
    assert log.totals(program)[Total.STARTED] == 5 and log.lost(program) >= 3


# ---- Narrowed down, and other hooks ----


FILTERS: tuple[dict[str, int], ...] = ({"port": CLOSED}, {"pid": 1}, {"uid": 65534})


def test_filters_are_in_the_kernel(net, bpf, server):
    """By port, by process, by user: what is not asked for is not even counted."""
    port, process, user = (log.load(bpf, every_call=True, **only) for only in FILTERS)
    with ExitStack() as stack:
        for program in (port, process, user):
            stack.enter_context(log.attached(program))
        connect(net, 4, (SERVER[4], OPEN))
        connect(net, 4, (SERVER[4], CLOSED))
        connect(net, 4, ("255.255.255.255", OPEN))
    assert [each.dest_port for each in told(port, net)] == [CLOSED]
    assert (told(process, net), told(user, net)) == ([], [])
    assert log.totals(user)[Total.STARTED] == 0


def test_hooks_on_connect_alone_tell_the_same(net, bpf, server):
    """The cheaper hooks, which the kernel skips while a BPF map is changed on that CPU: as soon as it skipped none."""
    program = log.load(bpf, pid=os.getpid())

    def three() -> bool:
        before = log.lost(program)
        for where in ((SERVER[4], OPEN), (SERVER[4], CLOSED), ("255.255.255.255", OPEN)):
            connect(net, 4, where)
        endings = [each.ending for each in told(program, net)]
        assert log.lost(program) > before or endings == [Total.CONNECTED, Total.RESET, Total.REFUSED_HERE]
        return log.lost(program) == before

    with log.attached(program):
        wait_until(three, within_s=2, what="three connections without a skipped hook")


def test_without_hooks_on_calls_the_rest_is_told(net, bpf, server):
    """refusals=False: nothing hooks system calls, and what failed before a SYN is not told."""
    program = log.load(bpf, pid=os.getpid(), refusals=False)
    assert {each.type for each in program.programs.values()} == {"raw_tracepoint"}
    with log.attached(program):
        for where in ((SERVER[4], OPEN), (SERVER[4], CLOSED), ("255.255.255.255", OPEN)):
            connect(net, 4, where)
    assert [each.ending for each in told(program, net)] == [Total.CONNECTED, Total.RESET]


def test_a_person_sees_what_failed(net, tracer, server):
    """The lines of `lab log_tcp_connect --failed`: who, where to, and why."""
    connect(net, 4, (SERVER[4], OPEN))
    connect(net, 6, (SERVER[6], CLOSED))
    line = str(next(each for each in log.watch(tracer, failed=True) if each and each.netns in inodes(net)))
    assert f"({os.getpid()})" in line and f"-> [{SERVER[6]}]:{CLOSED} reset after " in line
    assert line.endswith("ms (ECONNREFUSED)")
