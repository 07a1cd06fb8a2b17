"""Blind programs: they give one verdict whatever comes, and see nothing; a scenario must notice.

While LAB_BLIND is set ("pass" or "drop", and perhaps a file behind a blank), every program that is loaded is replaced
at once by one of its type that passes everything, or refuses everything, behind the same descriptor. Its maps are
there and stay empty. The lab's own instruments are left alone.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from lab.bpf.names import PROGRAM_TYPES
from lab.errors import LoadError
from lab.kernel import bpf, libbpf
from lab.kernel.tiny_program import TinyProgram, instruction, returning
from lab.wait import patience

if TYPE_CHECKING:
    from lab.bpf.program import Program

SWITCH = "LAB_BLIND"
VERDICTS = {
    "xdp": (2, 1),  # XDP_PASS, XDP_DROP
    "sched_cls": (0, 2),  # TC_ACT_OK, TC_ACT_SHOT
    "sched_act": (0, 2),
    "socket_filter": (-1, 0),  # how many bytes of the packet are kept
    "cgroup_skb": (1, 0),
    "cgroup_sock": (1, 0),
    "cgroup_sock_addr": (1, 0),
    "cgroup_sockopt": (1, 0),
    "cgroup_sysctl": (1, 0),
    "cgroup_device": (1, 0),
    "sock_ops": (1, 0),
    "sk_lookup": (1, 0),  # SK_PASS, SK_DROP
    "sk_reuseport": (1, 0),
    "sk_msg": (1, 0),
    "sk_skb": (1, 0),
    "netfilter": (1, 0),  # NF_ACCEPT, NF_DROP
    "flow_dissector": (129, 2),  # BPF_FLOW_DISSECTOR_CONTINUE, BPF_DROP
    "lsm": (0, -1),  # 0, -EPERM
}
"""What passes and what refuses, by type of program; a type that is not here has no say, and returns 0."""
SKB_LENGTH = instruction(0x61, dst=0, src=1) + instruction(0x95)  # r0 = skb->len; exit
STREAM_PARSER = 4  # BPF_SK_SKB_STREAM_PARSER: what it returns is the length of a message
ATTACH_BTF_ID = 224
"""Offset in struct bpf_prog_info, since Linux 6.0."""
F_XDP_HAS_FRAGS = 1 << 5


def is_on() -> bool:
    """Whether programs are replaced as they are loaded."""
    return bool(os.environ.get(SWITCH))


def patience_s(within_s: float) -> float:
    """How long to wait for what a program writes; a blind one writes nothing."""
    return min(within_s, 0.1) if is_on() else within_s * patience()


def replace(program: Program) -> None:
    """Puts the blind program behind the descriptor of this one; LoadError when the kernel refuses it.

    What was done is noted in the file that the switch names, one line a program: this may be a child of who asked.
    """
    verdict, _, log = os.environ[SWITCH].partition(" ")
    done = "replaced"
    try:
        _replace(program, verdict)
    except OSError as error:
        done = "kept"
        what = f"replace {program.name} by one that would {verdict} everything"
        raise LoadError(what, kernel=libbpf.sentence(error.errno or 0), mend=f"unset {SWITCH}") from error
    finally:
        if log:
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"{done} {program.name}\n")


def _replace(program: Program, verdict: str) -> None:
    """Some hooks allow but one verdict (cgroup/recvmsg4 cannot refuse): the neutral one stands in for the other."""
    passing, refusing = VERDICTS.get(program.type, (0, 0))
    try:
        blind = _tiny(program, refusing if verdict == "drop" else passing).load()
    except OSError:
        blind = _tiny(program, passing).load()
    os.dup2(blind, program.fd, inheritable=False)
    os.close(blind)


def _tiny(like: Program, number: int) -> TinyProgram:
    parser = like.type == "sk_skb" and like.expected_attach_type == STREAM_PARSER
    return TinyProgram(
        PROGRAM_TYPES.index(like.type),
        SKB_LENGTH if parser else returning(number),
        like.expected_attach_type,
        F_XDP_HAS_FRAGS if like.section.startswith("xdp.frags") else 0,
        like.name,
        _attach_btf_id(like.fd),
    )


def _attach_btf_id(fd: int) -> int:
    info = bpf.object_info(fd)
    return int(struct.unpack_from("=I", info, ATTACH_BTF_ID)[0]) if len(info) >= ATTACH_BTF_ID + 4 else 0
