"""Whether a network that was built carries frames: what the kernel still does on its own after the last request.

- An end whose peer came up later drops what is sent into it, and a bridge port does not forward, until the link watch
  has seen the carrier. RTM_GETLINK makes it look at once (since 6.8, commit facd15dfd691).
- An IPv6 address is not local before addrconf's worker has run, not even without duplicate address detection.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.kernel import netlink
from lab.kernel.netlink import LINK, NLM_F_DUMP, NLM_F_REQUEST, ROUTE, Reply, Request, RouteSocket
from lab.net.layout import InterfaceSpec
from lab.net.numbering import InterfaceAddress
from lab.wait import wait_until

AF_INET6 = 10
IFLA_OPERSTATE, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 16, 29, 8
IF_OPER_UP = 6
LOOKS = 8
RTA_DST, RTA_TABLE, RT_TABLE_LOCAL, RTN_LOCAL = 1, 15, 255, 2

# A dump reads the table; asking for each route by itself would make the kernel build it, for 55 µs each.
_LOCAL_ROUTES = Request(
    netlink.RTM_GETROUTE,
    NLM_F_REQUEST | NLM_F_DUMP,
    ROUTE.pack(AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0) + netlink.u32(RTA_TABLE, RT_TABLE_LOCAL),
    ("read the local routes",),
)


def await_namespace(
    socket: RouteSocket, interfaces: Sequence[InterfaceSpec], loopback: Sequence[InterfaceAddress], within_s: float
) -> None:
    """Returns when the interfaces of a namespace are up and its addresses local; WaitTimeout names what is missing."""
    # Ports come before their bridge, whose carrier they make.
    links = [each for each in sorted(interfaces, key=lambda each: each.kind == "bridge") if each.kind != "vxlan"]
    for each, reply in zip(links, socket.ask_each([_state_of(each) for each in links]), strict=True):
        if not _shows_up(reply):
            _await_up(socket, each, within_s)
    own = [*(each.ipv6 for each in interfaces), *(each for each in loopback if each.version == 6)]
    wanted = {each.ip.packed for each in own if each is not None}
    # Most often the worker is at it right now: a few looks in a row are shorter than the shortest sleep.
    if wanted and not any(wanted <= _local_addresses(socket) for _ in range(LOOKS)):
        wait_until(lambda: wanted <= _local_addresses(socket), within_s=within_s, what="IPv6 addresses to be usable")


def is_up(interface: InterfaceSpec, socket: RouteSocket) -> bool:
    """Whether the interface has a carrier, and the kernel has acted on that."""
    return _shows_up(socket.ask_each([_state_of(interface)])[0])


def _await_up(socket: RouteSocket, interface: InterfaceSpec, within_s: float) -> None:
    wait_until(lambda: is_up(interface, socket), within_s=within_s, what=f"{interface.name} up")


def _state_of(interface: InterfaceSpec) -> Request:
    body = LINK.pack(0, 0, interface.ifindex, 0, 0) + netlink.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Request(netlink.RTM_GETLINK, NLM_F_REQUEST, body, ("see", interface.name, "up"))


def _shows_up(reply: Reply) -> bool:
    if reply.kind != netlink.RTM_NEWLINK:
        return False
    found = netlink.attributes(reply.body[LINK.size :])
    return next(payload[0] for kind, payload in found if kind == IFLA_OPERSTATE) == IF_OPER_UP


def _local_addresses(socket: RouteSocket) -> set[bytes]:
    found = set()
    for reply in socket.ask(_LOCAL_ROUTES):
        if ROUTE.unpack_from(reply.body)[7] == RTN_LOCAL:
            found |= {payload for kind, payload in netlink.attributes(reply.body[ROUTE.size :]) if kind == RTA_DST}
    return found
