"""Does this kernel have it: devices, queueing disciplines, and the places on an interface where programs sit.

A probe does the thing itself in a scratch namespace. It returns where the kernel did it, raises Absent where the
kernel answered that it has no such thing, and lets every other error through: that is no answer.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from lab.kernel import bpf
from lab.kernel.netlink import attribute, nested, text, u32
from lab.kernel.scratch import Scratch
from lab.kernel.tiny_program import TinyProgram, returning

RTM_NEWQDISC, RTM_NEWTFILTER = 36, 44
TCA_KIND, TCA_OPTIONS, TCA_HTB_INIT = 1, 2, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, DIRECT_ACTION = 6, 7, 8, 1
TC = struct.Struct("=BxxxiIII")  # struct tcmsg
ROOT, CLSACT, CLSACT_HANDLE, CLSACT_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
IFLA_VLAN_ID, IFLA_VXLAN_ID = 1, 1
SCHED_CLS, XDP = 3, 6
BPF_XDP, BPF_TCX_INGRESS = 37, 46
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 2, 4
F_XDP_HAS_FRAGS = 1 << 5
XDP_DROP, XDP_PASS = 1, 2

NETEM_OPTIONS = struct.pack("=6I", 0, 1000, 0, 0, 0, 0)  # struct tc_netem_qopt: limit 1000
HTB_OPTIONS = nested(TCA_HTB_INIT, struct.pack("=5I", 3, 10, 0, 0, 0))  # struct tc_htb_glob: version 3


class Absent(Exception):
    """The kernel's answer that it has no such thing, in its own words; `mend` where there is a way for just this."""

    def __init__(self, detail: str, *, mend: str = "") -> None:
        super().__init__(detail)
        self.mend = mend


@contextmanager
def absent_on(*numbers: int) -> Iterator[None]:
    """These errnos are the kernel's way to say that it has no such thing; so is, of bpf(2), ENOSYS."""
    try:
        yield
    except OSError as error:
        if error.errno in (*numbers, errno.ENOSYS):
            raise Absent(error.strerror or os.strerror(error.errno or 0)) from error
        raise


@contextmanager
def loaded(program: TinyProgram) -> Iterator[int]:
    """The program's descriptor, for the length of the block."""
    descriptor = program.load()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


KINDS = ("netkit", "vlan", "vxlan", "bridge")
"""Each has two interface numbers of its own: netkit comes as a pair, and all may be there at once."""


def interface(scratch: Scratch, kind: str) -> None:
    """A device of this kind: EOPNOTSUPP ("Unknown device type") where there is none."""
    data = {"vlan": struct.pack("=HHHH", 6, IFLA_VLAN_ID, 7, 0), "vxlan": u32(IFLA_VXLAN_ID, 7)}
    lower = scratch.veth if kind == "vlan" else 0
    place = 110 + 2 * KINDS.index(kind)
    with absent_on(errno.EOPNOTSUPP):
        scratch.add_interface(kind, place, data.get(kind, b""), lower=lower)


def queueing(scratch: Scratch, kind: str) -> None:
    """A queueing discipline: ENOENT ("Specified qdisc kind is unknown") where there is none."""
    own = {"netem": NETEM_OPTIONS, "htb": HTB_OPTIONS}.get(kind, b"")
    options = attribute(TCA_OPTIONS, own) if own else b""
    place = 200 + len(kind) * 2
    scratch.add_interface("veth", place)
    with absent_on(errno.ENOENT):
        scratch.ask(RTM_NEWQDISC, TC.pack(0, place, 1 << 16, ROOT, 0) + text(TCA_KIND, kind) + options)


def xdp_on_veth(scratch: Scratch, flags: int) -> None:
    """A bpf_link for XDP on a veth (5.9), in the driver or behind it."""
    end = scratch.veth
    with loaded(TinyProgram(XDP, returning(XDP_PASS))) as program, scratch.inside():
        _link(program, end, BPF_XDP, flags)


def xdp_frags(_scratch: Scratch) -> None:
    """XDP programs that take frames of more than one page."""
    with absent_on(errno.EINVAL), loaded(TinyProgram(XDP, returning(XDP_PASS), flags=F_XDP_HAS_FRAGS)):
        pass


def live_frames(_scratch: Scratch) -> None:
    """BPF_PROG_RUN that sends frames: here one that the program drops."""
    with loaded(TinyProgram(XDP, returning(XDP_DROP))) as program, absent_on(errno.EINVAL):
        bpf.prog_test_run(program, bytes(64), flags=bpf.F_TEST_XDP_LIVE_FRAMES, batch=1)


def tcx(scratch: Scratch) -> None:
    """A bpf_link for tc."""
    end = scratch.veth
    with loaded(TinyProgram(SCHED_CLS)) as program, scratch.inside():
        _link(program, end, BPF_TCX_INGRESS)


def _link(program: int, ifindex: int, hook: int, flags: int = 0) -> None:
    with absent_on(errno.EINVAL, errno.EOPNOTSUPP):
        os.close(bpf.link_create(program, ifindex, hook, flags))


def cls_bpf(scratch: Scratch) -> None:
    """The qdisc clsact, and a filter of kind bpf on it: ENOENT where one of them is unknown."""
    with loaded(TinyProgram(SCHED_CLS)) as program, absent_on(errno.ENOENT):
        scratch.ask(RTM_NEWQDISC, TC.pack(0, scratch.veth, CLSACT_HANDLE, CLSACT, 0) + text(TCA_KIND, "clsact"))
        options = (u32(TCA_BPF_FD, program), text(TCA_BPF_NAME, "probe"), u32(TCA_BPF_FLAGS, DIRECT_ACTION))
        info = 1 << 16 | socket.htons(3)  # priority, ETH_P_ALL
        place = TC.pack(0, scratch.veth, 1, CLSACT_INGRESS, info)
        scratch.ask(RTM_NEWTFILTER, place + text(TCA_KIND, "bpf") + nested(TCA_OPTIONS, *options))
