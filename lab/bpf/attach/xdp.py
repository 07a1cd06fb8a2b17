"""XDP on an interface: in the driver (native) or behind it (generic), by a bpf_link (Linux 5.9)."""

from __future__ import annotations

import errno
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.bpf.attach import receivers
from lab.bpf.attach.interface import (
    GONE,
    check_interface,
    is_gone,
    link_attributes,
    make_interface_link,
    route_socket,
)
from lab.bpf.attach.link import refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError, LabError
from lab.kernel import netlink
from lab.model.action import Mode

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS = frozenset({"mode", "receiver"})
BPF_XDP = 37
ELSEWHERE = {
    33: "a devmap: program.maps[...][key] = (ifindex, program)",
    35: "a cpumap: program.maps[...][key] = (size, program)",
}
FLAGS = {Mode.GENERIC: 1 << 1, Mode.NATIVE: 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
XDP_FLAGS_UPDATE_IF_NOEXIST = 1
IFLA_XDP, IFLA_XDP_FD, IFLA_XDP_FLAGS = 43, 1, 3
IFLA_XDP_PROGRAM_ID = {Mode.NATIVE: 5, Mode.GENERIC: 6}  # IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID

TAKEN = "detach the program that is there; native and generic exclude each other on one interface"
MENDS = {
    errno.EBUSY: TAKEN,
    errno.EEXIST: TAKEN,
    errno.ERANGE: "mtu_bytes=1500, or a program in section xdp.frags, or mode=Mode.GENERIC",
    errno.EOPNOTSUPP: "mode=Mode.GENERIC: this kind of interface has no native XDP, or not with this program",
}


def attach(program: Attachable, target: Any, *, mode: Mode | None = None, receiver: bool = True) -> Attachment:
    """`mode` must be said; `receiver` sees to it that what the program sends into a veth arrives (see `receivers`)."""
    check_interface(program, target)
    if program.expected_attach_type in ELSEWHERE:
        raise AttachError(
            f"attach {program.name}: a program of section {program.section} runs behind a map, not on an interface",
            mend=f"put it into {ELSEWHERE[program.expected_attach_type]}",
        )
    if not isinstance(mode, Mode):
        raise AttachError(
            f"attach {program.name} to {target.name}: native or generic XDP? mode is {mode!r}",
            mend="mode=Mode.NATIVE (in the driver) or mode=Mode.GENERIC (behind it, slower)",
        )
    with ExitStack() as stack:
        receivers.give_way(target)
        stack.callback(receivers.come_back, target)  # when this program has gone
        try:
            link = make_interface_link(program, target, BPF_XDP, flags=FLAGS[mode])
        except OSError as error:
            raise _refusal(program, target, mode, error) from error
        stack.push(link.undo.pop_all())
        _check_mode(program, target, mode, link.facts)
        link.facts.update(mode=mode.value, ifindex=target.ifindex)
        if receiver and mode is Mode.NATIVE:
            link.facts["receivers"] = receivers.provide(target, stack)
        return Attachment(program.name, target.name, f"{mode.value} XDP", link.facts, stack.pop_all(), link.replace)


def _check_mode(program: Attachable, target: Any, mode: Mode, facts: dict[str, Any]) -> None:
    """The link says which program it has and not where: the interface says that."""
    found = programs_at(target).get(mode)
    if found != facts["program_id"]:
        raise AttachError(
            f"attach {program.name} to {target.name}: the kernel took it, but runs program {found} as {mode.value} XDP"
        )


def programs_at(target: Any) -> dict[Mode, int]:
    """The ids of the XDP programs that the interface has now."""
    nested = dict(netlink.attributes(link_attributes(target).get(IFLA_XDP, b"")))
    return {mode: struct.unpack("=I", nested[kind])[0] for mode, kind in IFLA_XDP_PROGRAM_ID.items() if kind in nested}


# ---------------------------------------------------------------- refusals


def _refusal(program: Attachable, target: Any, mode: Mode, error: OSError) -> LabError:
    how = f"{mode.value} XDP"
    if is_gone(target):
        return refusal(program, target.name, how, error, mend=GONE)
    words = _sentence(program, target, FLAGS[mode])
    mend = MENDS.get(error.errno or 0, "")
    if error.errno in (errno.EBUSY, errno.EEXIST):
        there = ", ".join(f"program {number} as {each.value} XDP" for each, number in programs_at(target).items())
        how, mend = f"{how} where there is {there or 'another program'}:", mend
    return refusal(program, target.name, how, error, words=words, mend=mend)


def _sentence(program: Attachable, target: Any, flags: int) -> str:
    """A bpf_link is refused by a number; netlink refuses the same thing with a sentence (extack). "" if it does not."""
    control = route_socket(target)
    try:
        control.batch([_request(program, target, program.fd, flags | XDP_FLAGS_UPDATE_IF_NOEXIST)])
        control.batch([_request(program, target, -1, flags)])  # it was taken after all: undone
    except LabError as error:
        return error.kernel
    finally:
        control.close()
    return ""


def _request(program: Attachable, target: Any, fd: int, flags: int) -> netlink.Request:
    attributes = struct.pack("=HHi", 8, IFLA_XDP_FD, fd) + netlink.u32(IFLA_XDP_FLAGS, flags)
    body = netlink.LINK.pack(0, 0, target.ifindex, 0, 0) + netlink.nested(IFLA_XDP, attributes)
    return netlink.Request(netlink.RTM_SETLINK, netlink.NLM_F_REQUEST, body, ("attach", program.name))
