"""A layout as rtnetlink requests: which socket sends what. Pure but for the namespace descriptors it is given.

The order makes bring-up fast and silent: an end is made in its own namespace (moving one there costs 16 ms), its peer
beside it by the peer's namespace descriptor, and everything else of a namespace is one batch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from lab.kernel import netlink
from lab.kernel.netlink import (
    ADDRESS,
    LINK,
    NEW,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    ROUTE,
    Request,
    attribute,
    nested,
    text,
    u32,
)
from lab.net.layout import LOOPBACK_IFINDEX, InterfaceSpec, Layout, Neighbour
from lab.net.numbering import Address, InterfaceAddress
from lab.net.routing import Hop
from lab.net.spec import Vlan, Vxlan

AF_INET, AF_INET6 = 2, 10
IFF_UP, IFF_NOARP, IFF_MULTICAST = 0x1, 0x80, 0x1000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_NET_NS_FD, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 28, 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_BR_MCAST_SNOOPING, IFLA_VLAN_ID = 23, 1
IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT = 1, 2, 4, 7, 15
IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6 = 16, 17
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 254, 4, 1

_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_VXLAN_ENDS = {4: (IFLA_VXLAN_GROUP, IFLA_VXLAN_LOCAL), 6: (IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6)}
_FAMILY = {4: AF_INET, 6: AF_INET6}


class Wire:
    """The requests that build `layout`, namespace by namespace."""

    def __init__(self, layout: Layout, vlans: Sequence[Vlan], vxlans: Sequence[Vxlan]) -> None:
        self._layout = layout
        self._vlans = {each.name: each for each in vlans}
        self._vxlans = {each.name: each for each in vxlans}
        # Without ARP a device sends no MLD either for the addresses' solicited-node groups (addrconf_join_solict()),
        # and without multicast a router does not join, and report, the all-routers group.
        self._flags = IFF_NOARP if layout.static else 0
        self._change = IFF_NOARP | IFF_MULTICAST if layout.static else 0

    def links(self, namespace: str, netns_fd: Callable[[str], int]) -> Iterator[Request]:
        """What makes the bridges and veths that are made from this namespace; bridges first, as masters of ports."""
        own = self._layout.of_namespace.get(namespace, ())
        for each in own:
            if each.kind == "bridge":
                yield self._bridge(each)
        for each in own:
            if each.kind == "veth" and self._makes(each):
                yield self._veth(each, self._layout.interfaces[each.peer], netns_fd)

    def settings(self, namespace: str) -> Iterator[Request]:
        """Everything else of a namespace: ends up, addresses, neighbours, routes; loopback first."""
        loopback = f"{namespace}/lo"
        yield _up(LOOPBACK_IFINDEX, loopback)
        for address in self._layout.loopback.get(namespace, ()):
            yield _address(LOOPBACK_IFINDEX, address, loopback)
        own = self._layout.of_namespace.get(namespace, ())
        for each in own:
            if each.kind in ("vlan", "vxlan"):
                yield self._overlay(each)
            elif each.kind == "physical" or (each.kind == "veth" and not self._makes(each)):
                yield self._end(each)
            for address in each.addresses:
                yield _address(each.ifindex, address, each.name)
        for each in own:
            for neighbour in self._layout.neighbours.get(each.name, ()):
                yield _neighbour(each, neighbour)
        for hop in self._layout.routes.get(namespace, ()):
            yield _route(hop, namespace)

    def _makes(self, end: InterfaceSpec) -> bool:
        """The end that is a port makes the pair, for only the making end can be given its master; else the first."""
        peer = self._layout.interfaces[end.peer]
        if bool(end.master) != bool(peer.master):
            return bool(end.master)
        return end.ifindex < peer.ifindex

    def _veth(self, end: InterfaceSpec, peer: InterfaceSpec, netns_fd: Callable[[str], int]) -> Request:
        """Both ends in one request. The peer cannot be up yet: veth_open() wants the pair complete (ENOTCONN)."""
        peer_link = LINK.pack(0, 0, peer.ifindex, self._flags, self._change)
        peer_link += _device(peer) + u32(IFLA_NET_NS_FD, netns_fd(peer.namespace))
        data = nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER | netlink.NLA_F_NESTED, peer_link))
        body = LINK.pack(0, 0, end.ifindex, self._flags | IFF_UP, self._change | IFF_UP) + _device(end)
        if end.master:
            body += u32(IFLA_MASTER, self._layout.interfaces[end.master].ifindex)
        body += nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), data)
        return Request(netlink.RTM_NEWLINK, NEW, body, ("make", "veth", end.name, "-", peer.name))

    def _end(self, end: InterfaceSpec) -> Request:
        master = u32(IFLA_MASTER, self._layout.interfaces[end.master].ifindex) if end.master else b""
        return _up(end.ifindex, end.name, master)

    def _bridge(self, bridge: InterfaceSpec) -> Request:
        return self._link(bridge, "bridge", attribute(IFLA_BR_MCAST_SNOOPING, b"\0"))

    def _overlay(self, own: InterfaceSpec) -> Request:
        parent = self._layout.interfaces[own.peer]
        if own.kind == "vlan":
            data = attribute(IFLA_VLAN_ID, struct.pack("=H", self._vlans[own.name].tag))
            return self._link(own, "vlan", data, u32(IFLA_LINK, parent.ifindex))
        spec = self._vxlans[own.name]
        local, remote = _shared(parent, self._layout.interfaces[spec.remote])
        group, source = (
            (IFLA_VXLAN_GROUP, IFLA_VXLAN_LOCAL) if local.version == 4 else (IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6)
        )
        data = u32(IFLA_VXLAN_ID, spec.vni) + attribute(group, remote.packed) + attribute(source, local.packed)
        data += attribute(IFLA_VXLAN_PORT, struct.pack(">H", spec.port)) + attribute(IFLA_VXLAN_LEARNING, b"\1")
        return self._link(own, "vxlan", data)

    def _link(self, own: InterfaceSpec, kind: str, data: bytes, more: bytes = b"") -> Request:
        body = LINK.pack(0, 0, own.ifindex, self._flags | IFF_UP, self._change | IFF_UP) + _device(own) + more
        body += nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, data))
        return Request(netlink.RTM_NEWLINK, NEW, body, ("make", kind, own.name))


def _shared(a: InterfaceSpec, b: InterfaceSpec) -> tuple[Address, Address]:
    """The addresses of the first family that both have (lab.net.checks has seen that there is one)."""
    if a.ipv4 is not None and b.ipv4 is not None:
        return a.ipv4.ip, b.ipv4.ip
    assert a.ipv6 is not None and b.ipv6 is not None
    return a.ipv6.ip, b.ipv6.ip


def _device(end: InterfaceSpec) -> bytes:
    queues = b""
    if end.queues > 1:
        queues = u32(IFLA_NUM_TX_QUEUES, end.queues) + u32(IFLA_NUM_RX_QUEUES, end.queues)
    mac = attribute(IFLA_ADDRESS, mac_bytes(end.mac))
    return text(IFLA_IFNAME, end.short_name) + mac + u32(IFLA_MTU, end.mtu_bytes) + queues


def mac_bytes(mac: str) -> bytes:
    """Six bytes, as they go over the wire."""
    return bytes.fromhex(mac.replace(":", ""))


def _up(ifindex: int, name: str, more: bytes = b"") -> Request:
    body = LINK.pack(0, 0, ifindex, IFF_UP, IFF_UP) + more
    return Request(netlink.RTM_SETLINK, NLM_F_REQUEST, body, ("set", name, "up"))


def _address(ifindex: int, address: InterfaceAddress, name: str) -> Request:
    packed = address.ip.packed
    length = address.network.prefixlen
    body = ADDRESS.pack(_FAMILY[address.version], length, 0, 0, ifindex) + attribute(IFA_LOCAL, packed)
    body += attribute(IFA_ADDRESS, packed)
    if address.version == 6:
        body += u32(IFA_FLAGS, IFA_F_NODAD)
    return Request(netlink.RTM_NEWADDR, NEW, body, ("give", name, "the address", address))


def _neighbour(own: InterfaceSpec, neighbour: Neighbour) -> Request:
    body = _NEIGHBOUR.pack(_FAMILY[neighbour.address.version], own.ifindex, NUD_PERMANENT, 0, 0)
    body += attribute(NDA_DST, neighbour.address.packed) + attribute(NDA_LLADDR, mac_bytes(neighbour.mac))
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
    return Request(netlink.RTM_NEWNEIGH, flags, body, ("tell", own.name, "its neighbour", neighbour.address))


def _route(hop: Hop, namespace: str) -> Request:
    family = _FAMILY[hop.via.version]
    length = hop.prefix.prefixlen
    body = ROUTE.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0)
    if length:
        body += attribute(RTA_DST, hop.prefix.network_address.packed)
    body += attribute(RTA_GATEWAY, hop.via.packed) + u32(RTA_OIF, hop.ifindex)
    return Request(netlink.RTM_NEWROUTE, NEW, body, ("route", hop.prefix, "of", namespace, "by way of", hop.via))
