"""XDP and tc programs on interfaces: what runs, what is refused and in which words, and what is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.bpf.attach import cls_bpf, receivers, tc, xdp
from lab.bpf.attach.interface import route_socket
from lab.errors import AttachError, LabError, NetworkError
from lab.kernel import ethtool, netns
from lab.kernel.bpf import program_id
from lab.model.action import Direction, Mode
from lab.model.journal import journal
from lab.net.network import Network
from lab.net.topology import Topology
from lab.wait import wait_until

TOPOLOGY = Topology.pair("client", "server")
PROTOCOL = 0x88B5  # IEEE 802: local experiments
MODES = pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
VIAS = pytest.mark.parametrize("via", ["tcx", "cls_bpf"])


def send(source: Any, count: int = 5) -> None:
    """Frames of the test protocol out of an interface, to its peer's address."""
    frame = bytes.fromhex(source.peer.mac.replace(":", "")) + bytes.fromhex(source.mac.replace(":", ""))
    with source.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender, netns.inside(source.netns_fd):
        for _ in range(count):
            sender.sendto(frame + PROTOCOL.to_bytes(2, "big") + bytes(46), (source.short_name, PROTOCOL))


@contextmanager
def listening(interface: Any) -> Iterator[socket.socket]:
    """A socket that has what the interface receives, and not what it sends."""
    with interface.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as listener:
        with netns.inside(interface.netns_fd):
            listener.bind((interface.short_name, PROTOCOL))
        listener.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
        yield listener


def arrived(listener: socket.socket, expected: int) -> int:
    """How many frames are there, as soon as there are as many as expected; 0.3 s are given to one more or less."""
    listener.settimeout(0.3)
    found = 0
    try:
        while found <= expected:
            listener.recv(2048)
            found += 1
            listener.settimeout(2.0 if found < expected else 0.05)
    except TimeoutError:
        pass
    return found


def saw(program: Any, count: int) -> None:
    """Waits until the program has counted this many, and not more."""
    wait_until(lambda: program.globals["seen"] >= count, what=f"{count} frames seen by {program.name}")
    assert program.globals["seen"] == count


def ids_at(interface: Any) -> dict[Mode, int]:
    return xdp.programs_at(interface)


# ---------------------------------------------------------------- XDP


@MODES
def test_xdp_runs_where_it_is_attached_until_it_is_detached(net: Any, bpf: Any, mode: Mode) -> None:
    """Five frames are seen while it is attached, none after; the interface says which program it has, and where."""
    server = net.interface("server/eth0")
    program = bpf.load("attach_xdp", program="counting_pass")
    with program.attach(server, mode=mode) as attachment:
        assert ids_at(server) == {mode: program_id(program.fd)} == {mode: attachment.facts["program_id"]}
        send(net.interface("client/eth0"))
        saw(program, 5)
    assert ids_at(server) == {}
    with listening(server) as listener:
        send(net.interface("client/eth0"), 3)
        assert arrived(listener, 3) == 3
    assert program.globals["seen"] == 5


@MODES
def test_what_xdp_reflects_arrives(net: Any, bpf: Any, mode: Mode) -> None:
    """XDP_TX sends five frames back, and five arrive, though the client has no program of its own."""
    program = bpf.load("attach_xdp", program="reflect")
    with program.attach(net.interface("server/eth0"), mode=mode), listening(net.interface("client/eth0")) as listener:
        send(net.interface("client/eth0"))
        assert arrived(listener, 5) == 5


def test_without_a_receiver_reflected_frames_vanish(net: Any, bpf: Any) -> None:
    """receiver=False leaves the client as it was: the program reflects five frames, and none arrives."""
    program = bpf.load("attach_xdp", program="reflect")
    target = net.interface("server/eth0")
    with program.attach(target, mode=Mode.NATIVE, receiver=False) as attachment:
        assert "receivers" not in attachment.facts
        assert ids_at(net.interface("client/eth0")) == {}
        with listening(net.interface("client/eth0")) as listener:
            send(net.interface("client/eth0"))
            saw(program, 5)
            assert arrived(listener, 0) == 0


@pytest.mark.topology(Topology.chain("client", "dut", "server"))
def test_what_xdp_redirects_arrives(net: Any, bpf: Any) -> None:
    """A redirect out of the other interface of its namespace arrives, and without receivers it does not."""
    near, far = net["dut"].interfaces
    program = bpf.load("attach_xdp", program="onward", out_ifindex=far.ifindex)
    with program.attach(near, mode=Mode.NATIVE, receiver=False), listening(far.peer) as listener:
        send(near.peer)
        saw(program, 5)
        assert arrived(listener, 0) == 0
    with (
        program.attach(near, mode=Mode.NATIVE) as attachment,
        listening(far.peer) as listener,
    ):
        assert attachment.facts["receivers"] == [f"{near.peer.name}: XDP_PASS program", f"{far.peer.name}: GRO"]
        send(near.peer)
        assert arrived(listener, 5) == 5


@pytest.mark.topology(Topology.chain("client", "dut", "server"))
def test_receivers_go_with_the_last_attachment_that_wants_them(net: Any, bpf: Any) -> None:
    """Two attachments share them; after both have ended there is no pass program, and GRO is as it was."""
    near, far = net["dut"].interfaces
    program = bpf.load("attach_xdp", program="counting_pass")
    first, second = (program.attach(each, mode=Mode.NATIVE) for each in (near, far))
    first.detach()
    assert Mode.NATIVE in ids_at(far.peer)
    second.detach()
    assert ids_at(near.peer) == ids_at(far.peer) == {}
    for each in (near.peer, far.peer):
        with each.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            assert not ethtool.offload(control, each.short_name, "gro")
    assert receivers._receivers == receivers._polling == {}


def test_a_receiver_gives_way_to_a_program_and_comes_back(net: Any, bpf: Any) -> None:
    """The client takes a program of the user's, in either order, and reflected frames arrive before and after."""
    client, server = net.interface("client/eth0"), net.interface("server/eth0")
    reflect = bpf.load("attach_xdp", program="reflect")
    counting = bpf.load("attach_xdp", program="counting_pass")
    with reflect.attach(server, mode=Mode.NATIVE), listening(client) as listener:
        with counting.attach(client, mode=Mode.NATIVE):
            send(client)
            assert arrived(listener, 5) == 5
            saw(counting, 5)
        send(client)
        assert arrived(listener, 5) == 5
    assert ids_at(client) == {}
    with counting.attach(client, mode=Mode.NATIVE):
        with reflect.attach(server, mode=Mode.NATIVE) as attachment:
            assert attachment.facts["receivers"] == ["client/eth0: has native XDP of its own"]
        assert ids_at(client) == {Mode.NATIVE: program_id(counting.fd)}


def test_a_peer_with_generic_xdp_cannot_receive_and_that_is_told(net: Any, bpf: Any) -> None:
    """Native and generic exclude each other: the facts say that XDP_TX is lost, and GRO is on for redirects."""
    client, server = net.interface("client/eth0"), net.interface("server/eth0")
    with (
        bpf.load("attach_xdp", program="counting_pass").attach(client, mode=Mode.GENERIC),
        bpf.load("attach_xdp", program="reflect").attach(server, mode=Mode.NATIVE) as attachment,
    ):
        (told,) = attachment.facts["receivers"]
        assert told.startswith("client/eth0: GRO, and XDP_TX is lost")
        with client.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            assert ethtool.offload(control, "eth0", "gro")


def test_update_replaces_the_program_in_its_place(net: Any, bpf: Any) -> None:
    """After update() frames meet the other program; an update across types is refused."""
    server, client = net.interface("server/eth0"), net.interface("client/eth0")
    first = bpf.load("attach_xdp", program="counting_pass")
    second = bpf.load("attach_xdp", program="counting_drop")
    with first.attach(server, mode=Mode.NATIVE) as attachment:
        send(client, 2)
        saw(first, 2)
        attachment.update(second)
        send(client, 3)
        saw(second, 3)
        assert first.globals["seen"] == 2
        with pytest.raises(AttachError, match="both must be of one type"):
            attachment.update(bpf.load("attach_tc", program="counting"))
    with pytest.raises(AttachError, match="or it was detached"):
        attachment.update(first)


def test_detach_twice_is_nothing(net: Any, bpf: Any) -> None:
    """A second detach() does not raise, nor end what was attached meanwhile."""
    server = net.interface("server/eth0")
    program = bpf.load("attach_xdp", program="counting_pass")
    first = program.attach(server, mode=Mode.NATIVE)
    first.detach()
    with program.attach(server, mode=Mode.NATIVE):
        first.detach()
        assert Mode.NATIVE in ids_at(server)


def test_an_attachment_outlives_its_object(net: Any, bpf: Any) -> None:
    """The kernel keeps an attached program, so closing the object does not detach it."""
    server = net.interface("server/eth0")
    program = bpf.load("attach_xdp", program="counting_pass")
    with program.attach(server, mode=Mode.GENERIC):
        program.close()
        assert Mode.GENERIC in ids_at(server)


def test_an_attachment_is_noted(net: Any, bpf: Any) -> None:
    """The journal has program, target and how."""
    program = bpf.load("attach_xdp", program="counting_pass")
    with journal() as kept, program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        pass
    (noted,) = kept.of("attachment")
    assert (noted["program"], noted["target"], noted["how"]) == ("counting_pass", "server/eth0", "native XDP")
    assert noted["facts"]["mode"] == "native"


def test_an_attachment_that_outlives_its_network_ends_quietly(bpf: Any) -> None:
    """detach() after the network is down raises nothing and changes nothing."""
    program = bpf.load("attach_xdp", program="counting_pass")
    filtering = bpf.load("attach_tc", program="counting")
    with Network(TOPOLOGY) as net:
        server = net.interface("server/eth0")
        held = [
            program.attach(server, mode=Mode.NATIVE),
            filtering.attach(server, direction=Direction.INGRESS),
            filtering.attach(server, direction=Direction.INGRESS, via="cls_bpf"),
        ]
    for each in held:
        each.detach()


@pytest.mark.topology(Topology.pair("client", "server", mtu_bytes=9000))
def test_a_peer_with_a_large_mtu_is_named_in_the_kernels_words(net: Any, bpf: Any) -> None:
    """Native XDP at MTU 9000: the sentence of the veth driver, and three ways to mend it; frags are one of them."""
    server = net.interface("server/eth0")
    with pytest.raises(AttachError) as refused:
        bpf.load("attach_xdp", program="counting_pass").attach(server, mode=Mode.NATIVE)
    assert "attach counting_pass to server/eth0: native XDP refused" in refused.value.what
    assert "MTU" in refused.value.kernel
    assert "xdp.frags" in refused.value.mend
    assert ids_at(server) == ids_at(server.peer) == {}
    with bpf.load("attach_xdp", program="with_frags").attach(server, mode=Mode.NATIVE):
        assert Mode.NATIVE in ids_at(server)


@MODES
def test_a_second_program_is_refused_and_the_first_named(net: Any, bpf: Any, mode: Mode) -> None:
    """Whichever mode the second asks for, the error says who is there, in the kernel's sentence too."""
    server = net.interface("server/eth0")
    first = bpf.load("attach_xdp", program="counting_pass")
    with first.attach(server, mode=Mode.GENERIC) as attachment:
        with pytest.raises(AttachError) as refused:
            bpf.load("attach_xdp", program="counting_drop").attach(server, mode=mode)
        assert f"program {attachment.facts['program_id']} as generic XDP" in refused.value.what
        assert "active" in refused.value.kernel
        assert ids_at(server) == {Mode.GENERIC: program_id(first.fd)}


def test_an_interface_that_is_gone_is_said_to_be_gone(net: Any, bpf: Any) -> None:
    """A deleted interface, and one of a network that is down: never the number of an errno alone."""
    server = net.interface("server/eth0")
    program, filtering = bpf.load("attach_xdp", program="reflect"), bpf.load("attach_tc", program="counting")
    subprocess.run(
        ["nsenter", f"--net=/proc/{os.getpid()}/fd/{server.netns_fd}", "ip", "link", "del", "eth0"], check=True
    )
    for attach in (
        lambda: program.attach(server, mode=Mode.NATIVE),
        lambda: filtering.attach(server, direction=Direction.INGRESS),
    ):
        with pytest.raises(AttachError) as refused:
            attach()
        assert "the interface is gone" in refused.value.mend
    net.close()
    with pytest.raises(NetworkError, match="its network is down"):
        program.attach(server, mode=Mode.NATIVE)


# ---------------------------------------------------------------- refused before any system call


class NoSystemCall:
    """An interface that must not be touched: its descriptor cannot be read."""

    name = "server/eth0"
    ifindex = 2

    def __init__(self) -> None:
        self.asked = 0

    @property
    def netns_fd(self) -> int:
        """Counts who wants it."""
        self.asked += 1
        return -1


@pytest.mark.parametrize(
    ("source", "entry", "options", "words"),
    [
        ("attach_xdp", "reflect", {}, "native or generic XDP?"),
        ("attach_xdp", "reflect", {"mode": "native"}, "mode is 'native'"),
        ("attach_xdp", "reflect", {"mode": Mode.NATIVE, "direction": Direction.INGRESS}, "direction means nothing"),
        ("attach_xdp", "reflect", {"mode": Mode.NATIVE, "reciever": False}, "receiver?"),
        ("attach_xdp", "behind_a_devmap", {"mode": Mode.NATIVE}, "runs behind a map"),
        ("attach_tc", "counting", {}, "ingress or egress?"),
        ("attach_tc", "counting", {"direction": Direction.INGRESS, "mode": Mode.NATIVE}, "mode means nothing"),
        ("attach_tc", "counting", {"direction": Direction.INGRESS, "via": "clsact"}, "via='clsact' is unknown"),
        ("attach_tc", "counting_in", {"direction": Direction.EGRESS}, "says ingress, the call egress"),
    ],
)
def test_what_cannot_be_is_refused_before_the_kernel_is_asked(
    bpf: Any, source: str, entry: str, options: dict[str, Any], words: str
) -> None:
    """A missing, unknown or contradictory option is named, with what to write instead."""
    target = NoSystemCall()
    with pytest.raises(AttachError) as refused:
        bpf.load(source, program=entry).attach(target, **options)
    assert words in str(refused.value)
    assert refused.value.mend
    assert target.asked <= 1  # whether it has the attribute at all


@pytest.mark.parametrize("target", [None, "server/eth0", 3])
def test_what_is_no_interface_is_refused(bpf: Any, target: object) -> None:
    """A name or an index is no interface, and the error shows how to get one."""
    for source, entry in (("attach_xdp", "reflect"), ("attach_tc", "counting")):
        with pytest.raises(AttachError, match="is no interface") as refused:
            bpf.load(source, program=entry).attach(target)
        assert "net.interface(" in refused.value.mend


# ---------------------------------------------------------------- tc


@VIAS
@pytest.mark.parametrize("direction", list(Direction), ids=lambda direction: direction.value)
def test_tc_runs_where_it_is_attached_until_it_is_detached(net: Any, bpf: Any, via: str, direction: Direction) -> None:
    """Ingress sees what comes, egress what goes, each five frames, and nothing after its end."""
    server = net.interface("server/eth0")
    source = server.peer if direction is Direction.INGRESS else server
    program = bpf.load("attach_tc", program="counting")
    with program.attach(server, direction=direction, via=via) as attachment:
        assert attachment.how == f"{via} {direction.value}"
        assert attachment.facts["program_id"] == program_id(program.fd)
        send(source)
        saw(program, 5)
        send(source.peer)
    with listening(source.peer) as listener:
        send(source, 3)
        assert arrived(listener, 3) == 3
    assert program.globals["seen"] == 5


def test_the_section_says_the_direction(net: Any, bpf: Any) -> None:
    """tc/ingress and tcx/egress need no direction=."""
    server = net.interface("server/eth0")
    for entry, direction in (("counting_in", "ingress"), ("counting_out", "egress")):
        with bpf.load("attach_tc", program=entry).attach(server) as attachment:
            assert attachment.how == f"tcx {direction}"


@VIAS
def test_programs_at_one_hook_run_in_the_order_of_their_coming(net: Any, bpf: Any, via: str) -> None:
    """What the first drops, the second never sees; what the first lets go on, it does."""
    server, direction = net.interface("server/eth0"), Direction.INGRESS
    counting, shooting = (bpf.load("attach_tc", program=each) for each in ("counting", "shooting"))
    with shooting.attach(server, direction=direction, via=via), counting.attach(server, direction=direction, via=via):
        send(server.peer)
        saw(shooting, 5)
        assert counting.globals["seen"] == 0
    with counting.attach(server, direction=direction, via=via), shooting.attach(server, direction=direction, via=via):
        send(server.peer)
        saw(shooting, 10)
        saw(counting, 5)


@VIAS
def test_a_tc_program_is_replaced_in_its_place(net: Any, bpf: Any, via: str) -> None:
    """After update() frames meet the other program and not the first."""
    server = net.interface("server/eth0")
    first, second = (bpf.load("attach_tc", program=each) for each in ("counting", "shooting"))
    with first.attach(server, direction=Direction.INGRESS, via=via) as attachment:
        send(server.peer, 2)
        saw(first, 2)
        attachment.update(second)
        send(server.peer, 3)
        saw(second, 3)
        assert first.globals["seen"] == 2


def test_cls_bpf_takes_its_clsact_along(net: Any, bpf: Any) -> None:
    """The qdisc that was made for the first filter goes with the last; one that was there before stays."""
    server = net.interface("server/eth0")
    program = bpf.load("attach_tc", program="counting")

    def has_clsact() -> bool:
        control = route_socket(server)
        try:
            return cls_bpf._has_clsact(control, server)
        finally:
            control.close()

    first = program.attach(server, direction=Direction.INGRESS, via="cls_bpf")
    second = program.attach(server, direction=Direction.EGRESS, via="cls_bpf")
    first.detach()
    assert has_clsact()
    second.detach()
    assert not has_clsact()
    inside = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{server.netns_fd}"]
    subprocess.run([*inside, "tc", "qdisc", "add", "dev", "eth0", "clsact"], check=True)
    program.attach(server, direction=Direction.INGRESS, via="cls_bpf").detach()
    assert has_clsact()


def test_tcx_is_asked_for_and_not_guessed() -> None:
    """The probe answers as the kernel's version does: TCX came with 6.6."""
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    assert tc.has_tcx() == ((major, minor) >= (6, 6))


# ---------------------------------------------------------------- what is left


KILLED = """
import signal, sys
from lab import Direction, Mode, Topology, bpf
from lab.net.network import Network
net = Network(Topology.pair("client", "server")); net.up()
server = net.interface("server/eth0")
one = bpf.load("tests/bpf/attach_xdp.bpf.c", program="reflect")
two = bpf.load("tests/bpf/attach_tc.bpf.c", program="counting")
held = [one.attach(server, mode=Mode.NATIVE), two.attach(server, direction=Direction.INGRESS),
        two.attach(server, direction=Direction.EGRESS, via="cls_bpf")]
from lab.kernel import bpf as kernel
print(kernel.program_id(one.fd), kernel.program_id(two.fd), flush=True)
signal.pause()
"""


def test_a_killed_process_leaves_no_program(pytestconfig: pytest.Config) -> None:
    """SIGKILL with XDP, TCX, cls_bpf and a receiver attached: both programs are gone from the kernel within 5 s."""
    from lab.kernel import bpf as kernel

    command = [sys.executable, "-c", KILLED]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=pytestconfig.rootpath)
    try:
        assert child.stdout is not None
        ids = [int(word) for word in child.stdout.readline().split()]
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=10)
        child.stdout.close()
    assert len(ids) == 2

    def gone() -> bool:
        for number in ids:
            try:
                os.close(kernel.fd_of_program(number))
            except FileNotFoundError:
                continue
            return False
        return True

    wait_until(gone, within_s=5, what="the programs of a killed process gone")


def test_a_refused_attachment_leaves_nothing(net: Any, bpf: Any) -> None:
    """When the peer cannot be made to receive, the attachment is undone and the error is the cause."""
    server = net.interface("server/eth0")

    class Broken:
        name, kind, short_name = server.name, "veth", "eth0"
        ifindex, netns_fd = server.ifindex, server.netns_fd

        @property
        def peer(self) -> Any:
            raise LabError("no peer today")

    with pytest.raises(LabError, match="no peer today"):
        bpf.load("attach_xdp", program="reflect").attach(Broken(), mode=Mode.NATIVE)
    assert ids_at(server) == {}


def test_every_receiver_is_one_program(net: Any, bpf: Any) -> None:
    """It is loaded once for the process, so that only the first one costs the kernel's 10 ms for a new program."""
    client, server = net.interface("client/eth0"), net.interface("server/eth0")
    program = bpf.load("attach_xdp", program="reflect")
    found = []
    for target in (server, client, server):
        with program.attach(target, mode=Mode.NATIVE):
            found.append(ids_at(target.peer)[Mode.NATIVE])
    assert len(set(found)) == 1
    assert program_id(program.fd) not in found
