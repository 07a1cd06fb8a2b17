"""BPF_PROG_RUN on every type of program that has it; the programs are in tests/bpf/runs.bpf.c."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab.errors import LoadError, RunError
from lab.model.action import Action, Mode
from lab.net.network import Network
from lab.net.topology import Topology

FRAME = bytes(range(64))


def test_a_run_gives_verdict_frame_and_time(bpf):
    """One round on 64 bytes: the first becomes a 1, the rest stays."""
    result = bpf.load("runs", program="scribble").run(FRAME)
    assert (result.action, result.number) == (Action.XDP_TX, 1 + 2)
    assert result.frame == b"\1" + FRAME[1:]
    assert result.duration_ns > 0
    assert repr(result).startswith("<RunResult XDP_TX, 64 bytes, ")


def test_a_frame_may_be_a_scapy_packet(bpf):
    """Whatever bytes() makes bytes of."""
    packet = Ether() / IP(dst="10.0.0.1") / UDP() / b"payload"
    assert bpf.load("runs", program="grow").run(packet).frame[14:] == bytes(packet)


@pytest.mark.parametrize("repeat", [1, 2, 7, 1000])
def test_each_round_sees_the_original_frame(bpf, repeat):
    """The program ran so often, each time on a first byte of 9, though it writes over it."""
    program = bpf.load("runs", program="scribble")
    result = program.run(b"\x09" + FRAME, repeat=repeat)
    assert program.globals["rounds"] == repeat
    assert program.globals["argument"] == 9 * repeat
    assert result.frame[0] == repeat % 256
    assert result.action == (Action.XDP_TX if repeat % 2 else Action.XDP_DROP)


def test_a_frame_may_grow(bpf):
    """14 bytes more, in front."""
    result = bpf.load("runs", program="grow").run(FRAME)
    assert len(result.frame) == 64 + 14
    assert result.frame[14:] == FRAME


def test_many_frames_are_run_in_their_order(bpf):
    """Different lengths, one result each."""
    program = bpf.load("runs", program="scribble")
    results = program.run_many([bytes(14 + n) for n in range(100)])
    assert [len(result.frame) for result in results] == [14 + n for n in range(100)]
    assert [result.frame[0] for result in results] == [n + 1 for n in range(100)]
    assert program.globals["rounds"] == 100


def test_a_number_without_a_meaning_is_no_action(bpf):
    """77 is no XDP verdict: the number is there, the name is an error."""
    result = bpf.load("runs", program="where_from").run(FRAME)
    assert result.number == 77
    with pytest.raises(RunError, match="no meaning"):
        _ = result.action


def test_tc_programs_have_a_context_both_ways(bpf):
    """mark and cb go in; mark, cb and a negative verdict come out."""
    program = bpf.load("runs", program="classify")
    result = program.run(FRAME, context={"mark": 5, "cb": (0, 41, 0, 0, 0)})
    assert program.globals["argument"] == 5
    assert result.action is Action.TC_ACT_UNSPEC
    assert (result.context["mark"], result.context["cb"]) == (7, (42, 41, 0, 0, 0))
    assert program.run(bytes(101)).action is Action.TC_ACT_SHOT


def test_a_frame_may_come_from_an_interface(bpf):
    """The context names it, whatever namespace the caller is in; some kernels ask for native XDP on it."""
    programs = bpf.load("runs").programs
    with Network(Topology.pair("left", "right")) as net:
        eth0 = net.interface("left/eth0")
        result = programs["classify"].run(FRAME, ingress=eth0)
        assert (result.context["ifindex"], result.context["priority"]) == (eth0.ifindex, eth0.ifindex)

        with programs["scribble"].attach(eth0, mode=Mode.NATIVE):
            programs["where_from"].run(FRAME, ingress=eth0)
        assert programs["where_from"].globals["argument"] == eth0.ifindex

        programs["where_from"].run(FRAME, ingress=net["left"])
        assert programs["where_from"].globals["argument"] == 1  # the namespace's loopback


def test_cgroup_programs_pass_or_drop(bpf):
    """1 is SK_PASS, 0 is SK_DROP; they see the packet from its network header on."""
    program = bpf.load("runs", program="allow_long")
    assert program.run(bytes(14 + 101)).action is Action.SK_PASS
    assert program.run(bytes(14 + 100)).action is Action.SK_DROP


def test_socket_filters_keep_a_length(bpf):
    """Their number is a count of bytes and no verdict."""
    assert bpf.load("runs", program="keep").run(FRAME).number == 64 - 14


def test_a_flow_dissector_gives_its_keys(bpf):
    """As the context, in host order and with addresses."""
    result = bpf.load("runs", program="dissect").run(FRAME)
    keys = result.context
    assert (keys["nhoff"], keys["ip_proto"], keys["n_proto"], keys["dport"]) == (14, 6, 0x0800, 443)
    assert keys["ipv4_src"] == ip_address("10.0.0.1")


def test_sk_lookup_programs_take_a_context_and_no_frame(bpf):
    """The verdict depends on the remote address."""
    program = bpf.load("runs", program="pick")
    asked = {"family": 2, "protocol": 6, "remote_ip4": "10.0.0.1", "local_ip4": "10.0.0.2", "local_port": 80}
    assert program.run(context=asked).action is Action.SK_PASS
    assert program.globals["argument"] == 80
    assert program.run(context={**asked, "remote_ip4": "10.0.0.3"}).action is Action.SK_DROP
    with pytest.raises(RunError, match="take none"):
        program.run(FRAME, context=asked)


def test_raw_tracepoints_take_arguments(bpf):
    """The second argument arrives."""
    program = bpf.load("runs", program="traced")
    assert program.run(context=(1, 0xFFFF_FFFF_FFFF)).number == 5
    assert program.globals["argument"] == 0xFFFF_FFFF_FFFF


def test_syscall_programs_take_bytes_and_give_them_back(bpf):
    """3 + 4, in the context."""
    program = bpf.load("runs", program="add")
    given = b"".join(number.to_bytes(4, "little") for number in (3, 4, 0))
    assert program.run(context=given).context.raw[8:] == (7).to_bytes(4, "little")


def test_what_the_kernel_cannot_run_is_said_in_its_words(bpf):
    """A sk_msg program waits for a socket."""
    with pytest.raises(RunError, match="524") as caught:
        bpf.load("runs", program="judge").run(FRAME)
    assert "type sk_msg" in caught.value.mend


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        ("scribble", {"frame": bytes(13)}, "13 bytes: BPF_PROG_RUN takes 14 or more"),
        ("scribble", {"frame": bytes(1 << 20)}, "type xdp"),
        ("scribble", {"frame": FRAME, "repeat": 0}, "0 times"),
        ("scribble", {"frame": FRAME, "context": {"mark": 1}}, "mark=1: no such field"),
        ("classify", {"frame": FRAME, "context": {"mark": "x"}}, "mark='x'"),
        ("classify", {"frame": FRAME, "context": {"tc_index": 1}}, "must be left out"),
        ("classify", {"frame": FRAME, "context": {"ifindex": 99999}}, "no such interface"),
        ("pick", {"context": {"remote_ip4": "fd00::1"}}, "other family"),
    ],
)
def test_a_run_that_cannot_be_says_why(bpf, program, arguments, words):
    """Before the system call where possible, else in the kernel's words with the mend."""
    with pytest.raises(RunError) as caught:
        bpf.load("runs", program=program).run(**arguments)
    assert words in str(caught.value)


def test_a_closed_program_does_not_run(bpf):
    """Its descriptor may be another file's by now."""
    program = bpf.load("runs", program="scribble")
    program.close()
    with pytest.raises(LoadError, match="scribble: it is closed"):
        program.run(FRAME)
