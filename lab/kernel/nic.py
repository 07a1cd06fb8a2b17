"""An interface of the host: what it is, who uses it, and moving it into a namespace and back (rtnetlink(7)).

Nothing is read from sysfs, which shows the interfaces of another namespace than the calling thread's.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from lab.errors import LabError, NetworkError
from lab.kernel import ethtool, netlink
from lab.kernel.netlink import (
    ADDRESS,
    LINK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    ROUTE,
    Request,
    RouteSocket,
    attribute,
    text,
    u32,
)

RTM_GETADDR = 22
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 5, 10, 18, 28
IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID, IFLA_XDP, IFLA_NEW_IFINDEX = 32, 37, 43, 49
IFLA_INFO_KIND, IFLA_XDP_ATTACHED = 1, 2
IFA_ADDRESS, RTA_DST, RTA_OIF, RTA_TABLE = 1, 1, 4, 15
IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_MULTICAST = 0x1, 0x8, 0x80, 0x1000
KEPT_FLAGS = IFF_UP | IFF_NOARP | IFF_MULTICAST
"""Those that are changed while it is lent."""
RTN_UNICAST = 1
ETHTOOL_GSET, ETHTOOL_GDRVINFO, ETHTOOL_GCHANNELS = 0x01, 0x03, 0x3C
UNKNOWN_SPEEDS = (0, 0xFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Nic:
    """An interface as it is now, in the namespace of the thread that looked."""

    name: str
    ifindex: int
    mac: str
    mtu_bytes: int
    flags: int
    kind: str
    """"" is hardware; else the kind of a virtual one ("veth"), which the kernel ends with its namespace."""
    driver: str
    speed_mbit: int
    """0 where the driver knows none, or there is no carrier."""
    queues: int
    """That receive."""
    offloads: dict[str, bool] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(**data)

    @property
    def sentence(self) -> str:
        """For people: "eth1, ixgbe, 10,000 Mbit/s, 8 queues, offloads rx tx sg tso gso gro"."""
        speed = f"{self.speed_mbit:,} Mbit/s" if self.speed_mbit else "no speed told"
        on = " ".join(name for name, state in self.offloads.items() if state) or "none"
        queues = f"{self.queues} queue{'s' * (self.queues != 1)}"
        return f"{self.name}, {self.driver or self.kind}, {speed}, {queues}, offloads {on}"


def look_at(routes: RouteSocket, control: socket.socket, name: str) -> Nic:
    """The interface, in the namespace that both sockets were opened in; NetworkError where there is none."""
    ask = Request(netlink.RTM_GETLINK, NLM_F_REQUEST, LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name), ("look",))
    try:
        (reply,) = routes.ask(ask)
    except NetworkError as error:
        raise NetworkError(f"there is no interface {name}", kernel=error.kernel, mend="ip link lists them") from error
    _, _, ifindex, flags, _ = LINK.unpack_from(reply.body)
    found = dict(netlink.attributes(reply.body[LINK.size :]))
    return Nic(
        name=name,
        ifindex=ifindex,
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu_bytes=_number(found[IFLA_MTU]),
        flags=flags,
        kind=_kind(found),
        driver=_driver(control, name),
        speed_mbit=speed_mbit(control, name),
        queues=_queues(control, name) or _number(found.get(IFLA_NUM_RX_QUEUES, b"\1\0\0\0")),
        offloads=offloads(control, name),
    )


def in_use(routes: RouteSocket, nic: Nic) -> str:
    """Why it must not be taken from its namespace, as a sentence's part; "" when nobody uses it.

    Link-local addresses are nobody's: the kernel gives them by itself.
    """
    if nic.flags & IFF_LOOPBACK:
        return "it is a loopback"
    links = {struct.unpack_from("=i", each.body, 4)[0]: each.body for each in _dump(routes, netlink.RTM_GETLINK, LINK)}
    own = dict(netlink.attributes(links[nic.ifindex][LINK.size :]))
    if IFLA_MASTER in own:
        return f"it is a port of {_name(links.get(_number(own[IFLA_MASTER]), b''))}"
    if dict(netlink.attributes(own.get(IFLA_XDP, b""))).get(IFLA_XDP_ATTACHED, b"\0") != b"\0":
        return "it has an XDP program"
    for body in links.values():
        each = dict(netlink.attributes(body[LINK.size :]))
        below = _number(each.get(IFLA_LINK, bytes(4)))
        if below == nic.ifindex and IFLA_LINK_NETNSID not in each and _kind(each) != "veth":  # a veth's is its peer
            return f"{_name(body)} sits on it"
    for address in _addresses(routes, nic.ifindex):
        return f"it has the address {address}"
    for route in _routes(routes, nic.ifindex):
        return f"the route to {route} goes out of it"
    return ""


def move(routes: RouteSocket, ifindex: int, netns_fd: int, new_ifindex: int, what: str) -> None:
    """Into another namespace, as number `new_ifindex` there (Linux 5.13; an older kernel keeps the number); it is down
    then, and without addresses."""
    body = LINK.pack(0, 0, ifindex, 0, 0) + u32(IFLA_NET_NS_FD, netns_fd) + u32(IFLA_NEW_IFINDEX, new_ifindex)
    routes.batch([Request(netlink.RTM_SETLINK, NLM_F_REQUEST, body, (what,))])


def settings(now: Nic, what: str, *, name: str, mac: str, mtu_bytes: int) -> list[Request]:
    """What is not so yet of name, MAC and MTU, the name first; each a request of its own, so that a refusal names it.

    The interface must be down.
    """
    parts = {
        f"name it {name}": (now.name != name, text(IFLA_IFNAME, name)),
        f"MAC {mac}": (now.mac != mac, attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))),
        f"MTU {mtu_bytes}": (now.mtu_bytes != mtu_bytes, u32(IFLA_MTU, mtu_bytes)),
    }
    bare = LINK.pack(0, 0, now.ifindex, 0, 0)
    return [
        Request(netlink.RTM_SETLINK, NLM_F_REQUEST, bare + part, (what, words))
        for words, (differs, part) in parts.items()
        if differs
    ]


def set_flags(ifindex: int, flags: int, which: int, what: str) -> Request:
    """Those `which` are meant become as in `flags`."""
    return Request(netlink.RTM_SETLINK, NLM_F_REQUEST, LINK.pack(0, 0, ifindex, flags & which, which), (what,))


def speed_mbit(control: socket.socket, name: str) -> int:
    """What the driver says of the link now; 0 where it says nothing."""
    data = _ethtool(control, name, struct.pack("=I40x", ETHTOOL_GSET))
    if not data:
        return 0
    low, high = struct.unpack_from("=H", data, 12)[0], struct.unpack_from("=H", data, 28)[0]
    speed = int(high << 16 | low)
    return 0 if speed in UNKNOWN_SPEEDS else speed


def offloads(control: socket.socket, name: str) -> dict[str, bool]:
    """Those that the driver tells, by ethtool's short names."""
    found = {}
    for each in ethtool.SHORT_NAMES:
        with suppress(LabError):
            found[each] = ethtool.offload(control, name, each)
    return found


def _driver(control: socket.socket, name: str) -> str:
    data = _ethtool(control, name, struct.pack("=I192x", ETHTOOL_GDRVINFO))
    return data[4:36].rstrip(b"\0").decode(errors="replace") if data else ""


def _queues(control: socket.socket, name: str) -> int:
    data = _ethtool(control, name, struct.pack("=I32x", ETHTOOL_GCHANNELS))
    if not data:
        return 0
    receive, combined = struct.unpack_from("=I", data, 20)[0], struct.unpack_from("=I", data, 32)[0]
    return int(receive + combined)


def _ethtool(control: socket.socket, name: str, question: bytes) -> bytes:
    """The answer; b"" from a driver that does not know the question."""
    try:
        return ethtool.ask(control, name, question)
    except OSError:
        return b""


def _addresses(routes: RouteSocket, ifindex: int) -> Iterator[str]:
    for family in (socket.AF_INET, socket.AF_INET6):
        body = ADDRESS.pack(family, 0, 0, 0, ifindex)
        for reply in routes.ask(Request(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, body, ("list addresses",))):
            _, length, _, _, index = ADDRESS.unpack_from(reply.body)
            packed = dict(netlink.attributes(reply.body[ADDRESS.size :]))[IFA_ADDRESS]
            address = ipaddress.ip_address(packed)
            if index == ifindex and not address.is_link_local:
                yield f"{address}/{length}"


def _routes(routes: RouteSocket, ifindex: int) -> Iterator[str]:
    for family, everything in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        body = ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + u32(RTA_OIF, ifindex)
        for reply in routes.ask(Request(netlink.RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, body, ("list routes",))):
            _, length, *_, kind, _ = ROUTE.unpack_from(reply.body)
            found = dict(netlink.attributes(reply.body[ROUTE.size :]))
            packed = found.get(RTA_DST)
            to = ipaddress.ip_address(packed) if packed else ipaddress.ip_address(everything)
            own = _number(found.get(RTA_OIF, bytes(4))) == ifindex or RTA_OIF not in found
            if own and kind == RTN_UNICAST and not (packed and (to.is_link_local or to.is_multicast)):
                yield f"{to}/{length}"


def _dump(routes: RouteSocket, kind: int, header: struct.Struct) -> list[netlink.Reply]:
    return routes.ask(Request(kind, NLM_F_REQUEST | NLM_F_DUMP, header.pack(0, 0, 0, 0, 0), ("list the interfaces",)))


def _kind(link: Mapping[int, bytes]) -> str:
    info = dict(netlink.attributes(link.get(IFLA_LINKINFO, b"")))
    return info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()


def _name(body: bytes) -> str:
    found: Callable[[int], bytes | None] = dict(netlink.attributes(body[LINK.size :])).get
    return (found(IFLA_IFNAME) or b"another\0").rstrip(b"\0").decode()


def _number(payload: bytes) -> int:
    return int(struct.unpack_from("=I", payload)[0])
