"""trace_syscall counts every system call once, times it, and tells what the network's were asked for."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lab import Topology
from lab.bpf.companion import companion
from lab.bpf.loader import Loader
from lab.bpf.syscalls import numbers
from lab.errors import LoadError
from lab.wait import wait_until

trace = companion("trace_syscall")
Total = trace.Total

pytestmark = pytest.mark.needs("bcc", "btf", "ringbuf", "tracepoint")

TOPOLOGY = Topology.pair("client", "server")
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
SERVER = {ip: str(TOPOLOGY.address("server", ip)) for ip in (4, 6)}
CLIENT = {ip: str(TOPOLOGY.address("client", ip)) for ip in (4, 6)}
LIBC = ctypes.CDLL(None, use_errno=True)
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@pytest.fixture(scope="module")
def tracer() -> Iterator[Any]:
    """The program, for this process alone, attached to raw tracepoints, which the kernel never skips."""
    with Loader() as bpf:
        program = trace.load(bpf, pid=os.getpid(), own=True)
        with trace.attached(program):
            yield program


@pytest.fixture
def program(tracer) -> Any:
    """The same, with nothing counted and nothing to read."""
    trace.clear(tracer)
    trace.drain(tracer)
    return tracer


def line(program: Any, call: str) -> Any:
    """What this process did of a call; None when nothing."""
    return next((each for each in trace.lines(program) if (each.pid, each.call) == (os.getpid(), call)), None)


def call(name: str, *arguments: int) -> int:
    """The system call itself, without the C library's caches."""
    return int(LIBC.syscall(numbers()[name], *arguments))


# ---- Counts, errors, times ----


def test_each_call_is_counted_once(program):
    """A thousand getppid, and seven getpgid that have no answer: exactly these, with the errors' names."""
    for _ in range(1000):
        call("getppid")
    for _ in range(7):
        assert call("getpgid", -5) == -1
    good, bad = line(program, "getppid"), line(program, "getpgid")
    assert (good.calls, good.errors, dict(good.error_names)) == (1000, 0, {})
    assert (bad.calls, bad.errors, dict(bad.error_names)) == (7, 7, {"ESRCH": 7})
    assert good.comm == Path("/proc/self/comm").read_text().strip()


def test_four_threads_on_all_cpus_are_one_process(program):
    """500 calls of each: 2,000, none is overwritten by another CPU's."""

    def act(_: int) -> None:
        for _ in range(500):
            call("getppid")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(act, range(4)))
    assert line(program, "getppid").calls == 2_000


def test_the_histogram_has_every_call_in_its_slot(program):
    """Calls that take 20 ms or more are beyond slot 24 (16.8 ms); all slots together are all calls, and fit the sum."""
    for _ in range(200):
        call("getppid")
    start = time.monotonic_ns()
    for _ in range(3):
        select.select([], [], [], 0.02)
    passed_ns = time.monotonic_ns() - start
    quick = line(program, "getppid")
    slow = next(filter(None, (line(program, name) for name in ("select", "pselect6"))))
    assert (slow.calls, sum(slow.slots), sum(slow.slots[:24])) == (3, 3, 0)
    assert 60_000_000 <= slow.total_ns <= passed_ns
    assert slow.longest_ns >= slow.total_ns / 3
    assert 20_000_000 <= slow.within_ns(0.5) <= slow.longest_ns
    for each in (quick, slow):
        assert sum(each.slots) == each.calls
        least = sum(count << slot for slot, count in enumerate(each.slots))
        assert least <= each.total_ns < 2 * least + each.calls


def test_lines_add_up_by_process_and_by_call(program):
    """All lines of a process are its line, and so with a call."""
    for _ in range(5):
        call("getppid")
        call("getpgid", -5)
    every = [each for each in trace.lines(program) if each.call in ("getppid", "getpgid")]
    (process,) = trace.by_process(every)
    assert (process.pid, process.calls, process.errors, process.call) == (os.getpid(), 10, 5, "")
    assert {(each.call, each.calls, each.pid) for each in trace.by_call(every)} == {
        ("getppid", 5, 0),
        ("getpgid", 5, 0),
    }


# ---- The network ----


def told(program: Any) -> list[str]:
    """What was told, each call without its name, process and time: "connect(3, 10.0.0.2:80) = 0"."""
    return [str(each).partition(") ")[2].rpartition(",")[0] for each in trace.drain(program)]


@families
def test_a_connection_is_told_on_both_sides(net, program, ip):
    """socket, bind, listen, connect, accept4, close: with the addresses and ports that the sockets themselves name."""
    with net["server"].enter():
        server = socket.socket(FAMILY[ip], socket.SOCK_STREAM)
    server.bind((SERVER[ip], 9000))
    server.listen(5)
    with net["client"].enter():
        client = socket.socket(FAMILY[ip], socket.SOCK_STREAM)
    client.connect((SERVER[ip], 9000))
    peer, named = server.accept()
    s, c, p = server.fileno(), client.fileno(), peer.fileno()
    for each in (server, client, peer):
        each.close()
    shown = trace.Address(FAMILY[ip].name, SERVER[ip], 9000)
    came = trace.Address(FAMILY[ip].name, CLIENT[ip], named[1])
    kind = f"socket({FAMILY[ip].name}, SOCK_STREAM|SOCK_CLOEXEC, 0)"
    assert told(program) == [
        f"{kind} = {s}",
        f"bind({s}, {shown}) = 0",
        f"listen({s}, 5) = 0",
        f"{kind} = {c}",
        f"connect({c}, {shown}) = 0",
        f"accept4({s}, {came}, SOCK_CLOEXEC) = {p}",
        f"close({s}) = 0",
        f"close({c}) = 0",
        f"close({p}) = 0",
    ]


@families
def test_datagrams_are_told_with_lengths_flags_and_addresses(net, program, ip):
    """sendto, sendmsg, recvfrom, recvmsg: to whom, from whom, how much was asked for and how much came."""
    with net["server"].enter():
        server = socket.socket(FAMILY[ip], socket.SOCK_DGRAM)
    with net["client"].enter():
        client = socket.socket(FAMILY[ip], socket.SOCK_DGRAM)
    with server, client:
        server.bind((SERVER[ip], 9000))
        client.bind((CLIENT[ip], 9001))
        trace.drain(program)
        client.sendto(b"hello", socket.MSG_DONTWAIT, (SERVER[ip], 9000))
        client.sendmsg([b"hel", b"lo!"], [], 0, (SERVER[ip], 9000))
        server.recvfrom(100, socket.MSG_PEEK)
        server.recvfrom(100)
        server.recvmsg(100)
        with pytest.raises(BlockingIOError):
            server.recvfrom(100, socket.MSG_DONTWAIT)
        s, c = server.fileno(), client.fileno()
        to = trace.Address(FAMILY[ip].name, SERVER[ip], 9000)
        by = trace.Address(FAMILY[ip].name, CLIENT[ip], 9001)
        assert told(program) == [
            f"sendto({c}, 5 bytes, MSG_DONTWAIT, {to}) = 5",
            f"sendmsg({c}, {to}, 0) = 6",
            f"recvfrom({s}, 100 bytes, MSG_PEEK, {by}) = 5",
            f"recvfrom({s}, 100 bytes, 0, {by}) = 5",
            f"recvmsg({s}, {by}, 0) = 6",
            f"recvfrom({s}, 100 bytes, MSG_DONTWAIT, NULL) = -1 EAGAIN",
        ]


def test_ipv4_in_ipv6_is_told_as_it_was_asked_for(net, program):
    """A socket of IPv6 that sends to a mapped IPv4 address."""
    with net["client"].enter():
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with client:
        client.sendto(b"hello", (f"::ffff:{SERVER[4]}", 9000))
        assert told(program)[1:] == [f"sendto({client.fileno()}, 5 bytes, 0, [::ffff:{SERVER[4]}]:9000) = 5"]


def test_what_fails_has_its_error_and_its_address(program):
    """A path that is not there, an abstract name, a family of no sense, a descriptor that is none."""
    with socket.socket(socket.AF_UNIX) as local:
        descriptor = local.fileno()
        for path in ("/nowhere", "\0hidden"):
            with suppress(OSError):
                local.connect(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local, suppress(OSError):
        local.sendmsg([b"hello"], [], 0, "\0hidden")
    call("socket", 99, 1, 0)
    call("listen", -1, 7)
    assert told(program) == [
        f"socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0) = {descriptor}",
        f"connect({descriptor}, AF_UNIX /nowhere) = -1 ENOENT",
        f"connect({descriptor}, AF_UNIX @hidden) = -1 ECONNREFUSED",
        f"close({descriptor}) = 0",
        f"socket(AF_UNIX, SOCK_DGRAM|SOCK_CLOEXEC, 0) = {descriptor}",
        f"sendmsg({descriptor}, AF_UNIX @hidden, 0) = -1 ECONNREFUSED",
        f"close({descriptor}) = 0",
        "socket(99, SOCK_STREAM, 0) = -1 EAFNOSUPPORT",
        "listen(-1, 7) = -1 EBADF",
    ]


def test_a_closed_file_is_no_event(program):
    """Closing a file is counted, and told only of sockets."""
    os.close(os.open("/dev/null", os.O_RDONLY))
    call("close", 1 << 20)
    assert line(program, "close").calls >= 2
    assert told(program) == []


def test_an_event_says_who_and_how_long(program):
    """A recvfrom that waits for 20 ms for a datagram that never comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 20_000))
        with pytest.raises(BlockingIOError):
            alone.recvfrom(1)
    (waited,) = [each for each in trace.drain(program) if each.call == "recvfrom"]
    assert (waited.pid, waited.thread, waited.error) == (os.getpid(), os.getpid(), "EAGAIN")
    assert 19_000_000 <= waited.took_ns < 10**9


# ---- Processes ----


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


def renamed(name: str, act: Callable[[], object]) -> Callable[[], None]:
    def both() -> None:
        Path("/proc/self/comm").write_text(name)
        act()

    return both


def ask(times: int) -> Callable[[], None]:
    def act() -> None:
        for _ in range(times):
            call("getppid")

    return act


def test_only_processes_of_a_name_are_counted(bpf):
    """Three children make the same calls: the one of that name is there, of the others nothing."""
    program = trace.load(bpf, comm="the-chosen-one", own=True)
    with trace.attached(program):
        chosen = in_a_child(renamed("the-chosen-one", ask(30)))
        in_a_child(renamed("the-chosen-two", ask(40)))
        in_a_child(renamed("the-other-one", ask(40)))
        ask(50)()
    (counted,) = [each for each in trace.lines(program) if each.call == "getppid"]
    assert (counted.pid, counted.comm, counted.calls) == (chosen, "the-chosen-one", 30)


SHELL = ["sh", "-c", "exec /bin/true"]


def test_a_program_started_anew_has_its_new_name(bpf):
    """A child makes a call, becomes a shell, and then another program: its lines have the name of the last."""
    program = trace.load(bpf, call=("execve", "getppid"))
    with trace.attached(program):
        pid = in_a_child(renamed("before", lambda: (ask(1)(), os.execv("/bin/sh", SHELL))))
    found = {each.call: each for each in trace.lines(program) if each.pid == pid}
    assert {each.comm for each in found.values()} == {"true"}
    assert found["execve"].calls == 2 and found.keys() == {"execve", "getppid"}


def test_the_tracer_itself_is_left_out(bpf):
    """Unless it is told otherwise: its own calls are not counted, a child's are."""
    program = trace.load(bpf, call=("getppid",))
    with trace.attached(program):
        ask(10)()
        child = in_a_child(ask(20))
    counted = {each.pid: each.calls for each in trace.lines(program) if each.call == "getppid"}
    assert counted[child] == 20 and os.getpid() not in counted


def test_a_thread_that_ended_leaves_nothing(bpf):
    """Children come and go: what is kept for each thread goes with it."""
    program = trace.load(bpf, comm="short-lived")
    with trace.attached(program):
        children = {in_a_child(renamed("short-lived", ask(1))) for _ in range(20)}
        counted = {each.pid for each in trace.lines(program) if each.call == "getppid"}
        kept = set(program.maps["threads"].keys())
    assert counted == children and not kept & children


# ---- Narrowed down, and too much ----


def test_only_chosen_calls_are_counted(bpf):
    """By name or by number: of two out of three."""
    program = trace.load(bpf, pid=os.getpid(), own=True, call=("getppid", str(numbers()["getuid"])))
    with trace.attached(program):
        for name in ("getppid", "getuid", "getgid"):
            call(name)
    assert {each.call: each.calls for each in trace.lines(program)} == {"getppid": 1, "getuid": 1}


SIX = ("getppid", "getuid", "getgid", "geteuid", "getegid", "gettid")


def test_a_full_table_of_counts_is_counted(bpf):
    """Six calls, and room for four: ten of each, and what the others lack is in NO_ROOM_STATS."""
    program = trace.load(bpf, pid=os.getpid(), own=True, call=SIX, entries=4)
    with trace.attached(program):
        for name in SIX * 10:
            call(name)
    assert [each.calls for each in trace.lines(program)] == [10] * 4
    assert trace.totals(program)[Total.NO_ROOM_STATS] == trace.lost(program) == 20
    assert "20 LOST" in trace.summary(program)


def test_a_full_ring_buffer_is_counted(bpf):
    """A hundred calls of socket that nobody reads: each is counted, told or lost."""
    program = trace.load(bpf, pid=os.getpid(), own=True, call=("socket",), ring_pages=1)
    with trace.attached(program):
        for _ in range(100):
            call("socket", 99, 1, 0)
    came = trace.drain(program)
    assert 5 < len(came) < 100
    assert trace.totals(program)[Total.EVENT_LOST] == trace.lost(program) == 100 - len(came)
    assert line(program, "socket").calls == 100


def test_without_network_events_calls_are_counted_alone(bpf):
    """network=False: the same counts, and nothing in the ring buffer."""
    program = trace.load(bpf, pid=os.getpid(), own=True, call=("socket",), network=False)
    with trace.attached(program):
        call("socket", 99, 1, 0)
    assert (line(program, "socket").calls, trace.drain(program)) == (1, [])


def test_what_cannot_be_meant_is_refused(bpf):
    """A call that there is not, and kprobes on nothing."""
    with pytest.raises(LoadError, match="conect"):
        trace.load(bpf, call=("conect",))
    with pytest.raises(LoadError, match="every call by kprobes"):
        trace.load(bpf, hooks="kprobe")


def test_plain_tracepoints_tell_the_same(bpf):
    """The same lines and events as raw ones, as soon as the kernel skipped none: it does at times, and says so."""
    chosen = ("getppid", "getpgid", "socket", "bind", "close")
    both = [trace.load(bpf, pid=os.getpid(), own=True, call=chosen, hooks=each) for each in ("raw", "tracepoint")]

    def agree() -> bool:
        skipped = trace.lost(both[1])
        for program in both:
            trace.clear(program)
            trace.drain(program)
        ask(20)()
        call("getpgid", -5)
        with socket.socket(socket.AF_INET6) as made:
            made.bind(("::1", 0))
        raw, plain = ((counts(program), told(program)) for program in both)
        assert raw[1][1].endswith("[::1]:0) = 0")
        assert trace.lost(both[1]) > skipped or raw == plain
        return raw == plain

    with trace.attached(both[0]), trace.attached(both[1]):
        wait_until(agree, within_s=2, what="a run without a skipped hook")


def counts(program: Any) -> dict[str, tuple[int, int]]:
    """By call: how many, and how many failed."""
    return {each.call: (each.calls, each.errors) for each in trace.lines(program)}


@pytest.mark.blind("it is loaded and not attached: the verifier is asked, not the program")
def test_the_verifier_takes_the_kprobes_on_any_kernel(bpf):
    """Loaded, not attached: what could only be refused there is seen here."""
    program = trace.load(bpf, call=("connect",), hooks="kprobe")
    assert program.programs["kretprobe__call"].facts.verified_instructions > 100


# ---- For a person ----


def test_a_person_sees_processes_calls_and_a_histogram(program):
    """Two tables and the histogram that was asked for; the rate is that since the view before."""
    views = trace.view(program, by="calls", histogram="getpgid")
    next(views)
    for _ in range(20):
        call("getpgid", -5)
    processes, calls, histogram = next(views)
    mine = next(row for row in processes.records() if row["pid"] == os.getpid())
    (asked,) = [row for row in calls.records() if row["call"] == "getpgid"]
    assert mine["calls"] >= 20 and asked["calls"] == asked["errors"] == 20
    assert asked["calls/s"] > 0 and asked["most errors"] == "ESRCH:20"
    assert sum(row["calls"] for row in histogram.records()) == 20
