"""Who takes the frames that native XDP sends into a veth: docs/decisions/0002-veth-receivers.md.

A veth hands a frame of XDP_TX or XDP_REDIRECT to its peer only if the peer polls; else the frame is gone without a
word (drivers/net/veth.c: veth_xdp_xmit, veth_xdp_flush). For XDP_TX the peer must have an XDP program, for a redirect
GRO is enough. So the peer of the interface gets a program that passes everything, and the peers of the other veths in
the namespace, into which it could redirect, get GRO. Both end with the attachment.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from lab.errors import LabError
from lab.kernel import belongings, bpf, ethtool, netns
from lab.kernel.tiny_program import TinyProgram, returning
from lab.model.target import VethTarget

PROG_TYPE_XDP, BPF_XDP = 6, 37
XDP_PASS = 2
F_XDP_HAS_FRAGS = 1 << 5
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 1 << 1, 1 << 2

Place = tuple[int, int, int]


@dataclass
class _Receiver:
    """The pass program at one interface, for as many attachments as want it; `link` is -1 while it gives way."""

    wanted: int = 0
    link: int = -1


@dataclass
class _Polling:
    """GRO at one interface, turned on by the first attachment that wants it."""

    wanted: int = 0
    undo: ExitStack = field(default_factory=ExitStack)


_receivers: dict[Place, _Receiver] = {}
_polling: dict[Place, _Polling] = {}


def provide(target: Any, undo: ExitStack) -> list[str]:
    """Makes the peers take frames, as far as they don't already; what was done, in words, for the facts.

    Targets that don't say that they are a veth (`kind`, `peer`) get nothing.
    """
    kind = getattr(target, "kind", "")
    if kind == "physical":  # the peer's own host knows whether it needs that
        return [each for each in (target.peer.receive(undo),) if each]
    if kind != "veth":
        return []
    told = [pass_at(target.peer, undo)]
    siblings = getattr(getattr(target, "namespace", None), "interfaces", ())
    others = [each.peer for each in siblings if each.kind == "veth" and each.ifindex != target.ifindex]
    told += [make_poll(each, undo) for each in others if _place(each) != _place(target)]
    return [each for each in told if each]


def give_way(target: Any) -> None:
    """A program of the user's comes to where the pass program sits: that one leaves first."""
    receiver = _receivers.get(_place(target))
    if receiver is not None and receiver.link >= 0:
        os.close(receiver.link)
        receiver.link = -1


def come_back(target: Any) -> None:
    """The user's program has gone; whoever wanted a receiver there has it again, unless the interface is gone too."""
    receiver = _receivers.get(_place(target))
    if receiver is not None and receiver.link < 0:
        with suppress(OSError, LabError):
            receiver.link = _link_at(target)


def pass_at(peer: VethTarget, undo: ExitStack) -> str:
    """A program that passes everything sits there until the end, unless there is one; in words what was done."""
    place = _place(peer)
    receiver = _receivers.setdefault(place, _Receiver())
    if receiver.link >= 0 and bpf.link_ifindex(receiver.link) != peer.ifindex:
        os.close(receiver.link)  # of a network that went before its attachment: the kernel gives its numbers again
        receiver.link = -1
    receiver.wanted += 1
    undo.callback(_release, place)
    if receiver.link < 0:
        try:
            receiver.link = _link_at(peer)
        except OSError as error:
            if error.errno == errno.EBUSY:
                return f"{peer.name}: has native XDP of its own"
            return f"{make_poll(peer, undo)}, and XDP_TX is lost: no native XDP there ({error.strerror})"
    return f"{peer.name}: XDP_PASS program"


def _release(place: Place) -> None:
    receiver = _receivers[place]
    receiver.wanted -= 1
    if not receiver.wanted:
        del _receivers[place]
        if receiver.link >= 0:
            os.close(receiver.link)


def _link_at(peer: VethTarget) -> int:
    """The pass program's link; OSError where it is refused: EBUSY for another native program, EEXIST for generic."""
    program = _pass_program()
    with netns.inside(peer.netns_fd):
        return bpf.link_create(program, peer.ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE)


@cache
@belongings.for_life()
def _pass_program() -> int:
    """One for the process, of two instructions, and kept attached to a loopback of its own.

    The first and the last attachment of a program make the kernel rewrite its XDP dispatcher, 10 ms each; those in
    between cost 0.1 ms.
    """
    passing = TinyProgram(PROG_TYPE_XDP, returning(XDP_PASS), BPF_XDP, F_XDP_HAS_FRAGS, "lab_pass")
    try:
        program = passing.load()
    except OSError:  # before Linux 5.18 there are no frags
        program = replace(passing, flags=0).load()
    loopback = 1
    with netns.restored():
        netns.unshare()
        netns.open_current()  # held by this descriptor until the process ends
        bpf.link_create(program, loopback, BPF_XDP, XDP_FLAGS_SKB_MODE)
    return program


def make_poll(peer: VethTarget, undo: ExitStack) -> str:
    """Turns GRO on at a veth's end, which has it take redirected frames; off again with the last who wanted it."""
    place = _place(peer)
    polling = _polling.setdefault(place, _Polling())
    polling.wanted += 1
    undo.callback(_stop_polling, place)
    if polling.wanted > 1:
        return f"{peer.name}: GRO"
    with netns.inside(peer.netns_fd):
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    polling.undo.callback(control.close)
    if not ethtool.offload(control, peer.short_name, "gro"):
        ethtool.set_offload(control, peer.short_name, "gro", True)
        polling.undo.callback(_turn_off, control, peer.short_name)
    return f"{peer.name}: GRO"


def _stop_polling(place: Place) -> None:
    polling = _polling[place]
    polling.wanted -= 1
    if not polling.wanted:
        del _polling[place]
        polling.undo.close()


def _turn_off(control: socket.socket, name: str) -> None:
    """The interface may have gone before the attachment: then there is nothing to restore."""
    try:
        ethtool.set_offload(control, name, "gro", False)
    except LabError:
        return


def _place(target: Any) -> Place:
    try:
        return (*netns.identity(target.netns_fd), target.ifindex)
    except (OSError, LabError):  # its network is down
        return (0, 0, target.ifindex)
