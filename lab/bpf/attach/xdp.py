"""XDP on an interface: in the driver (native) or behind it (generic), by a bpf_link (Linux 5.9).

A veth hands a frame that XDP_TX or XDP_REDIRECT sends into it to its peer only if the peer polls (NAPI): with an XDP
program there, or with GRO on. Without either it vanishes without a word (drivers/net/veth.c, veth_xdp_xmit). So a
native attachment to a veth turns GRO on at the peer, and off again when it ends; `receiver=False` leaves that out.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.interface import check_interface, make_link, refusal
from lab.bpf.attachment import Attachment
from lab.errors import LabError
from lab.kernel import bpf, ethtool, netlink, netns
from lab.kernel.netlink import RouteSocket
from lab.model.action import Mode

if TYPE_CHECKING:
    from lab.bpf.program import Program

OPTIONS = {"mode", "receiver"}
BPF_XDP = 37
FLAGS = {Mode.GENERIC: 1 << 1, Mode.NATIVE: 1 << 2}  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
XDP_FLAGS_UPDATE_IF_NOEXIST = 1
IFLA_XDP, IFLA_XDP_FD, IFLA_XDP_FLAGS = 43, 1, 3

MENDS = {
    errno.EBUSY: "detach the other program first; native and generic exclude each other on one interface",
    errno.EEXIST: "detach the other program first, or use attachment.update(program)",
    errno.ERANGE: "mtu_bytes=1500, or a program in section xdp.frags, or mode=Mode.GENERIC",
    errno.EOPNOTSUPP: "mode=Mode.GENERIC: this driver has no native XDP",
    errno.ENODEV: "the interface is gone, or in another namespace",
}


def attach(program: Program, target: Any, *, mode: Mode = Mode.NATIVE, receiver: bool = True) -> Attachment:
    """Native unless told otherwise; `receiver` sees to it that a veth's peer takes what the program sends."""
    check_interface(program, target)
    how = f"{mode.value} XDP"
    try:
        link, undo = make_link(program, target, BPF_XDP, FLAGS[mode])
    except OSError as error:
        words = _kernel_sentence(program, target, FLAGS[mode])
        raise refusal(program, target, how, error, words, MENDS.get(error.errno or 0, "")) from error
    facts = {"mode": mode.value}
    if receiver and mode is Mode.NATIVE and getattr(target, "kind", "") == "veth":
        facts["receiver"] = _make_peer_poll(target, undo)
    return Attachment(program.name, target.name, how, facts, undo, lambda fd: bpf.link_update(link, fd))


def _make_peer_poll(target: Any, undo: ExitStack) -> str:
    peer = target.peer
    with netns.inside(peer.netns_fd):
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    undo.callback(control.close)
    if ethtool.offload(control, peer.short_name, "gro"):
        return f"{peer.name} has GRO on"
    ethtool.set_offload(control, peer.short_name, "gro", True)
    undo.callback(_quietly_off, control, peer.short_name)
    return f"GRO turned on at {peer.name}"


def _quietly_off(control: socket.socket, name: str) -> None:
    """The interface may have gone before the attachment: then there is nothing to restore."""
    try:
        ethtool.set_offload(control, name, "gro", False)
    except LabError:
        return


def _kernel_sentence(program: Program, target: Any, flags: int) -> str:
    """A bpf_link is refused by a number; netlink refuses the same thing with a sentence (extack). "" if it does not."""

    def request(fd: int) -> netlink.Request:
        nested = netlink.nested(
            IFLA_XDP, struct.pack("=HHi", 8, IFLA_XDP_FD, fd), netlink.u32(IFLA_XDP_FLAGS, flags | noexist)
        )
        body = struct.pack("=BxHiII", 0, 0, target.ifindex, 0, 0) + nested
        return netlink.Request(netlink.RTM_SETLINK, netlink.NLM_F_REQUEST, body, ("attach", program.name))

    noexist = XDP_FLAGS_UPDATE_IF_NOEXIST
    try:
        with netns.inside(target.netns_fd):
            route_socket = RouteSocket()
    except LabError:
        return ""
    try:
        route_socket.batch([request(program.fd)])
        noexist = 0
        route_socket.batch([request(-1)])  # it was taken after all: undone
    except LabError as error:
        return error.kernel
    finally:
        route_socket.close()
    return ""
