"""The verifier's log, read for the lines that tell; logs as kernels 6.18 and 6.1 wrote them."""

from __future__ import annotations

import pickle

from lab.bpf.verifier import facts, read_log, rejection

NEW = """\
0: R1=ctx() R10=fp0
; struct ethhdr *eth = (void *)(long)ctx->data; @ reject_bounds.bpf.c:11
0: (61) r1 = *(u32 *)(r1 +0)          ; R1=pkt(r=0)
; return eth->h_proto ? XDP_PASS : XDP_DROP; @ reject_bounds.bpf.c:13
1: (71) r2 = *(u8 *)(r1 +12)
invalid access to packet, off=12 size=1, R1(id=0,off=12,r=0)
R1 offset is outside of the packet
verification time 33 usec
stack depth 8+16
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""
OLD = """\
reg type unsupported for arg#0 function reject_loop#7
0: R1=ctx(off=0,imm=0) R10=fp0
; while (forever)
2: (61) r2 = *(u32 *)(r1 +0)
3: (56) if w2 != 0x0 goto pc-2 2: R1=map_value(off=0,ks=4,vs=4,imm=0) R10=fp0
infinite loop detected at insn 2
processed 14 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0
"""


def test_the_sentence_the_c_line_and_the_last_instructions_are_found():
    """Of a log with states and statistics, what tells remains."""
    found = read_log(NEW)
    assert found.place == "reject_bounds.bpf.c:13"
    assert found.source == "return eth->h_proto ? XDP_PASS : XDP_DROP;"
    assert found.instructions == ("0: r1 = *(u32 *)(r1 +0)", "1: r2 = *(u8 *)(r1 +12)")
    assert found.sentence == (
        "invalid access to packet, off=12 size=1, R1(id=0,off=12,r=0); R1 offset is outside of the packet"
    )
    assert "data_end" in found.mend


def test_a_log_without_line_numbers_still_gives_the_c_line():
    """Kernels before 6.10 print the text of the line and not its number."""
    found = read_log(OLD)
    assert (found.place, found.source) == ("", "while (forever)")
    assert found.sentence == "infinite loop detected at insn 2"
    assert found.instructions[-1] == "3: if w2 != 0x0 goto pc-2"


def test_a_refusal_without_instructions_is_read_too():
    """The stack limit is checked before any instruction is walked."""
    found = read_log("combined stack size of 2 calls is 608. Too large\nprocessed 113 insns (limit 1000000)\n")
    assert found.sentence == "combined stack size of 2 calls is 608. Too large"
    assert (found.source, found.instructions) == ("", ())
    assert "512 bytes" in found.mend


def test_an_unknown_sentence_points_to_the_whole_log():
    """A rejection that no hint fits names the attribute that holds the log."""
    assert "`log`" in read_log("1: (95) exit\nsomething new").mend


def test_a_log_cut_off_in_the_middle_shows_its_last_instruction():
    """Where the sentence is missing, the last instruction stands in for it."""
    assert read_log("0: (b7) r0 = 0\n1: (95) exit").sentence == "1: exit"


def test_the_error_shows_what_tells_and_keeps_the_whole_log():
    """The message is short, `log` is whole, and both survive the way between two processes of pytest-xdist."""
    error = rejection("xdp_filter", NEW)
    assert str(error) == (
        "load xdp_filter: the verifier rejected it at reject_bounds.bpf.c:13\n"
        "    return eth->h_proto ? XDP_PASS : XDP_DROP;\n"
        "    0: r1 = *(u32 *)(r1 +0)\n"
        "    1: r2 = *(u8 *)(r1 +12)\n"
        '  kernel: "invalid access to packet, off=12 size=1, R1(id=0,off=12,r=0); R1 offset is outside of the packet"\n'
        "  mend:   compare the end of what is read with data_end before this line, in this function"
    )
    assert error.log == NEW
    assert pickle.loads(pickle.dumps(error)).log == NEW


def test_an_empty_log_leaves_the_word_to_the_errno():
    """EPERM comes without a log."""
    assert rejection("x", "", words="Operation not permitted").kernel == "Operation not permitted"


def test_the_stack_of_all_functions_is_added_up():
    """Log level 4 gives one depth a function; level 1 gives none."""
    assert facts(NEW) == {"verified_instructions": 2, "stack_bytes": 24}
    assert facts(OLD) == {"verified_instructions": 14}
    assert facts("") == {}
