"""tc programs by a cls_bpf filter on a clsact qdisc: how it is done where TCX is missing (before Linux 6.6).

No bpf_link holds these: the filter lives until it is deleted or its interface goes.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.interface import route_socket
from lab.bpf.attachment import Attachment
from lab.errors import AttachError, LabError
from lab.kernel import bpf, netlink, netns
from lab.kernel.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Request, RouteSocket
from lab.model.action import Direction

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID = 6, 7, 8, 11
TCA_BPF_FLAG_ACT_DIRECT = 1
CLSACT_HANDLE, CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
PARENT = {Direction.INGRESS: 0xFFFFFFF2, Direction.EGRESS: 0xFFFFFFF3}
TC_INFO = struct.Struct("=BxxxiIII")  # struct tcmsg
EVERY_PROTOCOL = socket.htons(0x0003)  # ETH_P_ALL
HANDLE = 1

MEND = "a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS"

_our_clsacts: dict[tuple[int, int, int], int] = {}
"""How many of our filters sit on each clsact that we made, by namespace and ifindex."""


@dataclass(frozen=True)
class _Filter:
    """A filter's place: the highest priority number below those in use, so that it runs first, as the newest does."""

    ifindex: int
    direction: Direction
    priority: int

    def message(self, handle: int = HANDLE) -> bytes:
        """struct tcmsg."""
        info = self.priority << 16 | EVERY_PROTOCOL
        return TC_INFO.pack(0, self.ifindex, handle, PARENT[self.direction], info)


def attach(program: Attachable, target: Any, direction: Direction) -> Attachment:
    """A direct-action filter, behind those that are there already, as a program attached by TCX is."""
    how = f"cls_bpf {direction.value}"
    undo = ExitStack()
    control = route_socket(target)
    undo.callback(control.close)
    try:
        _hold_clsact(control, target, undo)
        place = _Filter(target.ifindex, direction, _next_priority(control, target, direction))
        control.batch([_new_filter(program, place, NLM_F_CREATE | NLM_F_EXCL)])
        undo.callback(_delete_filter, control, place)
        facts = _read_back(control, program, place)
    except LabError as error:
        undo.close()
        mend = error.mend or MEND
        raise AttachError(
            f"attach {program.name} to {target.name}: {how} refused", kernel=error.kernel, mend=mend
        ) from error

    def replace(fd: int) -> None:
        try:
            control.batch([_new_filter(program, place, NLM_F_REPLACE, fd)])
        except LabError as error:
            raise OSError(errno.EINVAL, error.kernel) from error

    about = {"via": "cls_bpf", "direction": direction.value, "ifindex": target.ifindex, **facts}
    return Attachment(program.name, target.name, how, about, undo, replace)


def _hold_clsact(control: RouteSocket, target: Any, undo: ExitStack) -> None:
    place = (*netns.identity(target.netns_fd), target.ifindex)
    body = TC_INFO.pack(0, target.ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0) + netlink.text(TCA_KIND, "clsact")
    if not _has_clsact(control, target):
        what = ("add clsact to", target.name)
        control.batch([Request(RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, body, what)])
        _our_clsacts[place] = 0
    if place in _our_clsacts:
        _our_clsacts[place] += 1
        undo.callback(_let_clsact_go, control, place, body)


def _has_clsact(control: RouteSocket, target: Any) -> bool:
    body = TC_INFO.pack(0, target.ifindex, 0, 0, 0)
    answers = control.ask(Request(RTM_GETQDISC, NLM_F_REQUEST | NLM_F_DUMP, body, ("list qdiscs of", target.name)))
    for each in answers:
        _, ifindex, handle, _, _ = TC_INFO.unpack_from(each.body)
        if (ifindex, handle) == (target.ifindex, CLSACT_HANDLE):
            return True
    return False


def _let_clsact_go(control: RouteSocket, place: tuple[int, int, int], body: bytes) -> None:
    _our_clsacts[place] -= 1
    if not _our_clsacts[place]:
        del _our_clsacts[place]
        with suppress(LabError):  # gone with its interface
            control.batch([Request(RTM_DELQDISC, NLM_F_REQUEST, body, ("delete clsact",))])


def _next_priority(control: RouteSocket, target: Any, direction: Direction) -> int:
    """One behind the last that is in use."""
    found = [priority for priority, _, _ in _filters(control, target.ifindex, direction)]
    return max(found, default=0) + 1


def _filters(control: RouteSocket, ifindex: int, direction: Direction) -> list[tuple[int, int, dict[int, bytes]]]:
    """(priority, handle, options) of each filter."""
    body = TC_INFO.pack(0, ifindex, 0, PARENT[direction], 0)
    answers = control.ask(Request(RTM_GETTFILTER, NLM_F_REQUEST | NLM_F_DUMP, body, ("list filters",)))
    found = []
    for each in answers:
        _, _, handle, _, info = TC_INFO.unpack_from(each.body)
        options = dict(netlink.attributes(each.body[TC_INFO.size :])).get(TCA_OPTIONS, b"")
        found.append((info >> 16, handle, dict(netlink.attributes(options))))
    return found


def _new_filter(program: Attachable, place: _Filter, flags: int, fd: int | None = None) -> Request:
    options = netlink.nested(
        TCA_OPTIONS,
        netlink.u32(TCA_BPF_FD, program.fd if fd is None else fd),
        netlink.text(TCA_BPF_NAME, program.name),
        netlink.u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
    )
    body = place.message() + netlink.text(TCA_KIND, "bpf") + options
    return Request(RTM_NEWTFILTER, NLM_F_REQUEST | flags, body, ("add filter", program.name))


def _delete_filter(control: RouteSocket, place: _Filter) -> None:
    with suppress(LabError):  # gone with its interface
        control.batch([Request(RTM_DELTFILTER, NLM_F_REQUEST, place.message(), ("delete filter",))])


def _read_back(control: RouteSocket, program: Attachable, place: _Filter) -> dict[str, int]:
    wanted = bpf.program_id(program.fd)
    for priority, handle, options in _filters(control, place.ifindex, place.direction):
        if (priority, handle) == (place.priority, HANDLE) and TCA_BPF_ID in options:
            found = struct.unpack("=I", options[TCA_BPF_ID])[0]
            if found == wanted:
                return {"program_id": found, "priority": priority}
    raise AttachError(f"attach {program.name}: the filter was taken, but it is not there")
