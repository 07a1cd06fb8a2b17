"""Whether a network that was built carries frames: what the kernel still does on its own after the last request.

- An end whose peer came up later drops what is sent into it, and a bridge port does not forward, until the link watch
  has seen the carrier. RTM_GETLINK makes it look at once (since 6.8, commit facd15dfd691).
- An IPv6 address is not local before addrconf's worker has run, not even without duplicate address detection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lab.kernel import netlink
from lab.kernel.netlink import NLM_F_REQUEST, Reply, Request, RouteSocket
from lab.net.layout import InterfaceSpec
from lab.net.numbering import InterfaceAddress
from lab.wait import wait_until

AF_INET6 = 10
IFLA_OPERSTATE, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 16, 29, 8
IF_OPER_UP = 6
RTA_DST, RTN_LOCAL = 1, 2

_LINK = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=BBBBBBBBI")


class Question(NamedTuple):
    """A request, and what its answer must show."""

    request: Request
    holds: Callable[[Reply], bool]


def questions(interfaces: Iterable[InterfaceSpec], loopback: Iterable[InterfaceAddress]) -> list[Question]:
    """What to ask about the interfaces of one namespace; ports come before their bridge, whose carrier they make."""
    ordered = sorted(interfaces, key=lambda each: each.kind == "bridge")
    links = [_is_up(each) for each in ordered if each.kind in ("veth", "bridge", "vlan")]
    addresses = [address for each in ordered for address in each.addresses] + list(loopback)
    return links + [_is_local(address) for address in addresses if address.version == 6]


def await_all(socket: RouteSocket, asked: Sequence[Question], within_s: float) -> None:
    """Returns when every answer is as it must be; WaitTimeout names the first that is not."""
    replies = socket.ask_each([each.request for each in asked])
    for question, reply in zip(asked, replies, strict=True):
        if not question.holds(reply):
            _await(socket, question, within_s)


def _await(socket: RouteSocket, question: Question, within_s: float) -> None:
    what = " ".join(map(str, question.request.what))
    wait_until(lambda: question.holds(socket.ask_each([question.request])[0]), within_s=within_s, what=what)


def is_up(interface: InterfaceSpec, socket: RouteSocket) -> bool:
    """Whether the interface has a carrier, and the kernel has acted on that."""
    question = _is_up(interface)
    return question.holds(socket.ask_each([question.request])[0])


def _is_up(interface: InterfaceSpec) -> Question:
    body = _LINK.pack(0, 0, interface.ifindex, 0, 0) + netlink.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    request = Request(netlink.RTM_GETLINK, NLM_F_REQUEST, body, ("see", interface.name, "up"))
    return Question(request, _shows_up)


def _shows_up(reply: Reply) -> bool:
    if reply.kind != netlink.RTM_NEWLINK:
        return False
    found = netlink.attributes(reply.body[_LINK.size :])
    return next(payload[0] for kind, payload in found if kind == IFLA_OPERSTATE) == IF_OPER_UP


def _is_local(address: InterfaceAddress) -> Question:
    body = _ROUTE.pack(AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0) + netlink.attribute(RTA_DST, address.ip.packed)
    request = Request(netlink.RTM_GETROUTE, NLM_F_REQUEST, body, ("wait until", address, "is local"))
    return Question(request, _shows_local)


def _shows_local(reply: Reply) -> bool:
    return reply.kind == netlink.RTM_NEWROUTE and _ROUTE.unpack_from(reply.body)[7] == RTN_LOCAL
