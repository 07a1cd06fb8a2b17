"""Programs on cgroups, namespaces, sockets, maps and the kernel itself: what they do, and how they are refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.errors import AttachError, FeatureMissing, LabError, LoadError
from lab.kernel import cgroup, perf_event, tracefs
from lab.kernel.bpf import program_id
from lab.kernel.cgroup import Cgroup
from lab.model.action import Direction, Mode
from lab.net.topology import Topology
from lab.wait import wait_until

TOPOLOGY = Topology.pair("client", "server")


@contextmanager
def tcp_server(net: Any, port: int = 8080) -> Iterator[socket.socket]:
    """A socket in the server that listens on its address."""
    with net["server"].socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(net.interface("server/eth0").ipv4), port))
        listener.listen(8)
        listener.settimeout(2)
        yield listener


def connect(net: Any, port: int = 8080) -> None:
    """From the client to the server's address; the error of connect() is raised."""
    with net["client"].socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.settimeout(2)
        caller.connect((str(net.interface("server/eth0").ipv4), port))


def datagram(net: Any, port: int = 9000) -> None:
    with net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (str(net.interface("server/eth0").ipv4), port))


# ---------------------------------------------------------------- cgroups


def test_connect4_refuses_only_sockets_of_its_cgroup(net: Any, bpf: Any) -> None:
    """A connect from inside gets EPERM, one from outside succeeds, and so does one after the end."""
    program = bpf.load("attach_cgroup", program="refuse_connect")
    with tcp_server(net), Cgroup() as group:
        with program.attach(group) as attachment:
            assert attachment.how == "cgroup connect4"
            assert attachment.facts["program_id"] == program_id(program.fd)
            connect(net)
            with group.entered(), pytest.raises(PermissionError):
                connect(net)
        with group.entered():
            connect(net)
    assert program.globals["seen"] == 1


def test_sendmsg4_and_sock_create_are_hooks_of_their_own(net: Any, bpf: Any) -> None:
    """One refuses the datagram, the other the socket itself."""
    with Cgroup() as group, group.entered():
        with bpf.load("attach_cgroup", program="refuse_send").attach(group), pytest.raises(PermissionError):
            datagram(net)
        with bpf.load("attach_cgroup", program="refuse_sockets").attach(group), pytest.raises(PermissionError):
            datagram(net)
        datagram(net)


@pytest.mark.parametrize(
    ("entry", "direction"),
    [("count_out", None), ("count_either", Direction.EGRESS), ("count_either", Direction.INGRESS)],
)
def test_cgroup_skb_counts_packets_one_way(net: Any, bpf: Any, entry: str, direction: Direction | None) -> None:
    """Three datagrams sent from inside are three at egress and none at ingress."""
    program = bpf.load("attach_cgroup", program=entry)
    with Cgroup() as group, group.entered(), program.attach(group, direction=direction):
        for _ in range(3):
            datagram(net)
    assert program.globals["seen"] == (0 if direction is Direction.INGRESS else 3)


def test_sock_ops_sees_connections_of_its_cgroup(net: Any, bpf: Any) -> None:
    """Two connects inside are two callbacks."""
    program = bpf.load("attach_cgroup", program="count_connects")
    with tcp_server(net), Cgroup() as group, group.entered(), program.attach(group):
        connect(net)
        connect(net)
    assert program.globals["seen"] == 2


def test_a_cgroup_program_is_replaced_in_its_place(net: Any, bpf: Any) -> None:
    """After update() the other program decides."""
    allow, refuse = (bpf.load("attach_cgroup", program=each) for each in ("allow_connect", "refuse_connect"))
    with tcp_server(net), Cgroup() as group, group.entered(), allow.attach(group) as attachment:
        connect(net)
        attachment.update(refuse)
        with pytest.raises(PermissionError):
            connect(net)


def test_what_is_no_cgroup_is_refused(net: Any, bpf: Any, tmp_path: Path) -> None:
    """An interface, a folder of another file system, a missing and a contradictory direction."""
    connecting, out = (bpf.load("attach_cgroup", program=each) for each in ("allow_connect", "count_out"))
    either = bpf.load("attach_cgroup", program="count_either")
    with pytest.raises(AttachError, match="is no cgroup"):
        connecting.attach(net.interface("server/eth0"))

    class Folder:
        name = str(tmp_path)

        def __init__(self) -> None:
            self.cgroup_fd = os.open(tmp_path, os.O_RDONLY)

    folder = Folder()
    try:
        with pytest.raises(AttachError, match="needs cgroup v2"):
            connecting.attach(folder)
        with pytest.raises(AttachError, match="direction means nothing"):
            connecting.attach(folder, direction=Direction.INGRESS)
        with pytest.raises(AttachError, match="says egress, the call ingress"):
            out.attach(folder, direction=Direction.INGRESS)
        with pytest.raises(AttachError, match=r"ingress or egress\?"):
            either.attach(folder)
    finally:
        os.close(folder.cgroup_fd)


def test_a_cgroup_of_a_dead_lab_is_swept_and_others_stay(pytestconfig: pytest.Config) -> None:
    """A killed process leaves its folder; the next Cgroup() removes it, and nothing that belongs to the living."""
    source = "from lab.kernel.cgroup import Cgroup; import signal; print(Cgroup().path, flush=True); signal.pause()"
    child = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, cwd=pytestconfig.rootpath
    )
    try:
        assert child.stdout is not None
        left = Path(child.stdout.readline().strip())
        with Cgroup() as mine:
            assert left.is_dir()
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=10)
            child.stdout.close()
            assert left.is_dir()
            with Cgroup():
                assert not left.exists()
            assert mine.path.is_dir()
        assert not mine.path.exists()
    finally:
        child.kill()
        child.wait(timeout=10)


def test_a_cgroup_with_a_process_says_which(net: Any) -> None:
    """close() waits, then names who is inside; the process is moved by add()."""
    group = Cgroup()
    sleeper = net["client"].popen(["sleep", "60"])
    group.add(sleeper.pid)
    with pytest.raises(LabError, match=f"processes {sleeper.pid} are inside"):
        group.close()
    sleeper.kill()
    sleeper.wait(timeout=10)
    wait_until(lambda: cgroup._remove(group.path), what="the folder removed")
    group.close()


def test_entering_restores_the_process_upon_an_exception() -> None:
    """After group.entered() the process is in the cgroup it was in before."""
    before = cgroup._own_path()
    with Cgroup() as group:
        with pytest.raises(ZeroDivisionError), group.entered():
            assert cgroup._own_path().endswith(group.path.name)
            raise ZeroDivisionError
        assert cgroup._own_path() == before


# ---------------------------------------------------------------- namespaces


def test_sk_lookup_answers_for_any_port(net: Any, bpf: Any) -> None:
    """One listener on 8080 is reached on 7777 too, while it is attached to the namespace."""
    program = bpf.load("attach_socket", program="any_port")
    with tcp_server(net) as listener:
        program.maps["sockets"][0] = listener
        with program.attach(net["server"]) as attachment:
            assert (attachment.target, attachment.how) == ("server", "sk_lookup")
            connect(net, 7777)
            listener.accept()[0].close()
        with pytest.raises(ConnectionRefusedError):
            connect(net, 7777)
    assert program.globals["seen"] >= 1


def test_a_namespace_is_neither_an_interface_nor_a_name(net: Any, bpf: Any) -> None:
    """sk_lookup goes on net["server"]; the error says so."""
    program = bpf.load("attach_socket", program="any_port")
    for wrong in (net.interface("server/eth0"), "server", None):
        with pytest.raises(AttachError, match="is no namespace") as refused:
            program.attach(wrong)
        assert refused.value.mend == 'program.attach(net["server"])'


def test_netfilter_counts_what_comes_in(net: Any, bpf: Any) -> None:
    """Three datagrams meet the program at input; without a hook it is refused."""
    program = bpf.load("attach_trace", program="by_netfilter")
    with pytest.raises(AttachError, match="at which hook"):
        program.attach(net["server"])
    with program.attach(net["server"], hook="input"):
        for _ in range(3):
            datagram(net)
        wait_until(lambda: program.globals["seen"] == 3, what="three datagrams at input")


def test_a_namespace_has_one_flow_dissector(net: Any, bpf: Any) -> None:
    """It is attached to the namespace; a second one is refused, and the first may be replaced by its like."""
    program, other = (bpf.load("attach_socket", program="dissect_nothing") for _ in range(2))
    with program.attach(net["server"]) as attachment:
        with pytest.raises(AttachError) as refused:
            other.attach(net["server"])
        assert "one flow dissector" in refused.value.mend
        attachment.update(other)
    other.attach(net["server"]).detach()


# ---------------------------------------------------------------- sockets


def udp_socket(net: Any, *, reuse: bool) -> socket.socket:
    made = net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM)
    if reuse:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((str(net.interface("server/eth0").ipv4), 9000))
    made.settimeout(2)
    return made


def test_sk_reuseport_chooses_the_socket(net: Any, bpf: Any) -> None:
    """Of two sockets on one port the second gets all ten datagrams, from ten ports."""
    program = bpf.load("attach_socket", program="the_second")
    with ExitStack() as stack:
        first, second = (stack.enter_context(udp_socket(net, reuse=True)) for _ in range(2))
        for key, each in enumerate((first, second)):
            program.maps["group"][key] = each
        with program.attach(first) as attachment:
            assert attachment.how == "sk_reuseport"
            for _ in range(10):
                datagram(net)
            for _ in range(10):
                second.recv(8)
        first.setblocking(False)
        with pytest.raises(BlockingIOError):
            first.recv(8)
    assert program.globals["seen"] == 10


def test_a_socket_filter_hides_what_arrives(net: Any, bpf: Any) -> None:
    """While it is attached a datagram is dropped; after its end the next one comes through."""
    program = bpf.load("attach_socket", program="nothing_passes")
    with udp_socket(net, reuse=False) as receiver:
        with program.attach(receiver):
            datagram(net)
            wait_until(lambda: program.globals["seen"] == 1, what="one datagram dropped")
        datagram(net)
        assert receiver.recv(8) == b"x"
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(8)


def test_an_attachment_may_outlive_its_socket(net: Any, bpf: Any) -> None:
    """detach() after the socket was closed is nothing."""
    program = bpf.load("attach_socket", program="nothing_passes")
    with udp_socket(net, reuse=False) as receiver:
        attachment = program.attach(receiver)
    attachment.detach()
    with pytest.raises(AttachError, match="the socket is closed"):
        program.attach(receiver)
    with pytest.raises(AttachError, match="is no socket"):
        program.attach(net.interface("server/eth0"))


def test_a_program_on_a_sockmap_sees_what_is_sent(net: Any, bpf: Any) -> None:
    """sk_msg drops what a socket of the map sends; a second program is refused, not put in its place."""
    program = bpf.load("attach_socket", program="no_message")
    with tcp_server(net) as listener, net["client"].socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.connect(listener.getsockname())
        accepted = listener.accept()[0]
        with accepted, program.attach(program.maps["sockets"]) as attachment:
            assert (attachment.target, attachment.how) == ("map sockets", "sk_msg")
            with pytest.raises(AttachError, match="a program is at sk_msg already"):
                program.attach(program.maps["sockets"])
            program.maps["sockets"][0] = caller
            with pytest.raises(OSError, match="Permission denied"):
                caller.send(b"dropped")
            assert program.globals["seen"] == 1
            del program.maps["sockets"][0]
    program.attach(program.maps["sockets"]).detach()
    for entry, how in (("no_stream", "sk_skb stream_verdict"), ("no_packet", "sk_skb verdict")):
        receiving = bpf.load("attach_socket", program=entry)
        with receiving.attach(receiving.maps["sockets"]) as attachment:
            assert attachment.how == how
    with pytest.raises(AttachError, match="is no sockmap"):
        program.attach(net.interface("server/eth0"))


# ---------------------------------------------------------------- tracing


@pytest.mark.parametrize("entry", ["by_tracepoint", "by_raw_tracepoint", "by_btf"])
def test_tracing_programs_see_this_process_send(net: Any, bpf: Any, entry: str) -> None:
    """Three datagrams are three events; after the end there are no more."""
    program = bpf.load("attach_trace", program=entry, watched_pid=os.getpid())
    with udp_socket(net, reuse=False):  # to a closed port this process would answer by ICMP, which is sent too
        with program.attach() as attachment:
            assert attachment.target == "the kernel"
            assert attachment.facts["program_id"] == program_id(program.fd)
            for _ in range(3):
                datagram(net)
            assert program.globals["seen"] == 3
        datagram(net)
    assert program.globals["seen"] == 3


@pytest.mark.parametrize("entry", ["by_misspelt_tracepoint", "by_misspelt_raw_tracepoint"])
def test_a_tracepoint_that_is_not_there_brings_those_that_look_alike(bpf: Any, entry: str) -> None:
    """net_dev_qeue: the error offers net_dev_queue."""
    with pytest.raises(AttachError) as refused:
        bpf.load("attach_trace", program=entry).attach()
    assert "net_dev_qeue" in refused.value.what
    assert "net_dev_queue" in refused.value.mend


def test_event_overrides_the_section(net: Any, bpf: Any) -> None:
    """A misspelt section is mended by event=."""
    program = bpf.load("attach_trace", program="by_misspelt_tracepoint", watched_pid=os.getpid())
    with udp_socket(net, reuse=False), program.attach(event="net/net_dev_queue"):
        datagram(net)
    assert program.globals["seen"] == 1


def test_tracing_takes_no_target(net: Any, bpf: Any) -> None:
    """It sees the whole machine: a target, or an option of perf events, is refused."""
    program = bpf.load("attach_trace", program="by_tracepoint")
    with pytest.raises(AttachError, match="sees the whole machine"):
        program.attach(net.interface("server/eth0"))
    with pytest.raises(AttachError, match="rate_hz means nothing"):
        program.attach(rate_hz=99)


def test_a_clock_runs_a_program_on_every_cpu(bpf: Any) -> None:
    """Samples arrive while this process works, and perf_event programs ask for a rate."""
    program = bpf.load("attach_trace", program="by_clock")
    with pytest.raises(AttachError, match="how often"):
        program.attach()
    with program.attach(rate_hz=1000):
        wait_until(lambda: program.globals["seen"] > 3, what="samples of the clock")


def test_what_this_kernel_cannot_probe_is_refused_with_the_way_out(bpf: Any) -> None:
    """kprobe, kprobe.multi and fentry either work here, or the error names the kernel's option or its own words."""
    for entry in ("by_kprobe", "by_many_kprobes", "by_fentry"):
        try:
            bpf.load("attach_trace", program=entry).attach().detach()
        except LabError as error:
            assert isinstance(error, FeatureMissing | AttachError | LoadError)
            assert error.kernel
            assert "tp_btf, raw_tp" in error.mend


def test_tracefs_is_read_though_it_is_mounted_nowhere() -> None:
    """The id of a tracepoint comes from a mount that nobody sees; a wrong name is FileNotFoundError."""
    mounts = Path("/proc/self/mountinfo").read_text()
    assert tracefs.event_id("net", "net_dev_queue") > 0
    assert "net/net_dev_queue" in tracefs.events()
    with pytest.raises(FileNotFoundError):
        tracefs.event_id("net", "no_such_event")
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_a_refused_perf_event_is_an_os_error() -> None:
    """An event of a type that no kernel has."""
    with pytest.raises(OSError, match=r"No such file|Invalid"):
        perf_event.Event(99_999, 0).open()


def test_types_that_the_lab_does_not_attach_are_named() -> None:
    """The error lists those that it does."""
    from lab.bpf.attachment import attach

    class Lirc:
        name, section, type, expected_attach_type, fd = "ir", "lirc_mode2", "lirc_mode2", 16, 3

    with pytest.raises(AttachError, match="lirc_mode2 cannot be attached") as refused:
        attach(Lirc())
    assert "xdp" in refused.value.mend


def test_no_descriptor_is_left_open(net: Any, bpf: Any) -> None:
    """Attaching and detaching everything, and being refused, leaves as many files open as before."""
    server = net.interface("server/eth0")
    reflect, counting = bpf.load("attach_xdp", program="reflect"), bpf.load("attach_tc", program="counting")
    trace, lookup = bpf.load("attach_trace", program="by_tracepoint"), bpf.load("attach_socket", program="any_port")
    message, misspelt = (
        bpf.load("attach_socket", program="no_message"),
        bpf.load("attach_trace", program="by_misspelt_tracepoint"),
    )

    def round_trip() -> None:
        for attachment in (
            reflect.attach(server, mode=Mode.NATIVE),
            counting.attach(server, direction=Direction.INGRESS),
            counting.attach(server, direction=Direction.EGRESS, via="cls_bpf"),
            trace.attach(),
            lookup.attach(net["server"]),
            message.attach(message.maps["sockets"]),
        ):
            attachment.detach()
        with pytest.raises(AttachError):
            misspelt.attach()
        with reflect.attach(server, mode=Mode.GENERIC), pytest.raises(AttachError):
            reflect.attach(server, mode=Mode.NATIVE)

    round_trip()
    before = sorted(Path("/proc/self/fd").iterdir())
    round_trip()
    round_trip()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
