"""What a description comes to: every interface with its index, MAC and addresses, every neighbour, every route. Pure.

Indexes and MACs follow from the place in the description, so two runs of one scenario see the same frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING

from lab.errors import TopologyError
from lab.net.checks import check_resolved
from lab.net.numbering import Address, InterfaceAddress, interface_address, number
from lab.net.routing import Hop, routes
from lab.net.segments import Segment, segments_of
from lab.net.spec import Vlan, Vxlan

if TYPE_CHECKING:
    from lab.net.topology import Topology

LOOPBACK_IFINDEX = 1
# Neighbours grow with the square of a segment's members: above this many, "auto" leaves them to ARP and ND.
STATIC_MEMBERS = 33
# Outer IPv6, UDP and VXLAN headers, inner Ethernet header (RFC 7348, section 5).
VXLAN_OVERHEAD_BYTES = 40 + 8 + 8 + 14


@dataclass(frozen=True)
class InterfaceSpec:
    """One interface with all that follows from its place; `peer` is a veth's other end, or what a VLAN sits on."""

    name: str
    kind: str
    ifindex: int
    mac: str
    mtu_bytes: int
    queues: int
    offloads: Mapping[str, bool] = field(hash=False)
    peer: str = ""
    master: str = ""
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None

    @cached_property
    def namespace(self) -> str:
        """The part before the slash."""
        return self.name.partition("/")[0]

    @cached_property
    def short_name(self) -> str:
        """The part behind the slash."""
        return self.name.partition("/")[2]

    @property
    def addresses(self) -> tuple[InterfaceAddress, ...]:
        """What it has of both families."""
        return tuple(each for each in (self.ipv4, self.ipv6) if each is not None)


@dataclass(frozen=True)
class Neighbour:
    """Who owns an address on the segment of an interface."""

    address: Address
    mac: str


@dataclass(frozen=True)
class Layout:
    """The whole network, resolved; `neighbours` by interface, `routes` and `loopback` by namespace."""

    interfaces: Mapping[str, InterfaceSpec]
    segments: tuple[Segment, ...]
    static: bool
    neighbours: Mapping[str, tuple[Neighbour, ...]]
    routes: Mapping[str, tuple[Hop, ...]]
    loopback: Mapping[str, tuple[InterfaceAddress, ...]]

    @cached_property
    def of_namespace(self) -> Mapping[str, tuple[InterfaceSpec, ...]]:
        """The interfaces of each namespace, in order."""
        found: dict[str, list[InterfaceSpec]] = {}
        for each in self.interfaces.values():
            found.setdefault(each.namespace, []).append(each)
        return {name: tuple(each) for name, each in found.items()}


def lay_out(topology: Topology) -> Layout:
    """Resolves a description whose names are sound (lab.net.checks looks at them first)."""
    bare = {each.name: each for each in _bare_interfaces(topology)}
    segments = segments_of(topology)
    loopback = {
        each.name: tuple(interface_address(text, f"loopback of {each.name}") for text in each.loopback)
        for each in topology.namespaces
    }
    ipv4 = number(segments, 4, topology.ipv4)
    ipv6 = number(segments, 6, topology.ipv6)
    interfaces = {name: replace(each, ipv4=ipv4.get(name), ipv6=ipv6.get(name)) for name, each in bare.items()}
    _refuse_doubles(interfaces, loopback)
    check_resolved(topology, interfaces)
    largest = max((len(segment.members) for segment in segments), default=0)
    static = topology.neighbours == "static" or (topology.neighbours == "auto" and largest <= STATIC_MEMBERS)
    return Layout(
        interfaces=interfaces,
        segments=segments,
        static=static,
        neighbours=dict(_neighbours(segments, interfaces)) if static else {},
        routes=routes(topology, segments, interfaces, loopback),
        loopback=loopback,
    )


def _bare_interfaces(topology: Topology) -> Iterator[InterfaceSpec]:
    """Every interface without its addresses: an index of its own in the whole network, and a MAC made from it.

    With one index at both ends of a veth (each the first of its namespace), an end stays operstate DOWN for half a
    second: the kernel takes it for no veth but a device stacked on itself (net/core/link_watch.c).
    """
    masters = {port: bridge.name for bridge in topology.bridges for port in bridge.ports}
    ifindex, kind = LOOPBACK_IFINDEX, "physical" if topology.cable else "veth"
    for veth in topology.veths:
        mtu, queues = veth.mtu_bytes or topology.mtu_bytes, veth.queues or topology.queues
        offloads = {**topology.offloads, **veth.offloads}
        for name, peer in ((veth.a, veth.b), (veth.b, veth.a)):
            ifindex += 1
            master = masters.get(name, "")
            yield InterfaceSpec(name, kind, ifindex, _mac(ifindex), mtu, queues, offloads, peer, master)
    for bridge in topology.bridges:
        ifindex += 1
        yield InterfaceSpec(bridge.name, "bridge", ifindex, _mac(ifindex), topology.mtu_bytes, 1, {})
    overlays: list[Vlan | Vxlan] = [*topology.vlans, *topology.vxlans]
    for spec in overlays:
        ifindex += 1
        kind, room = ("vlan", 0) if isinstance(spec, Vlan) else ("vxlan", VXLAN_OVERHEAD_BYTES)
        mtu = _parent_mtu(topology, spec.parent) - room
        yield InterfaceSpec(spec.name, kind, ifindex, _mac(ifindex), mtu, 1, {}, spec.parent)


def _parent_mtu(topology: Topology, name: str) -> int:
    """The MTU of a veth's end, by its name; that of the topology for what is no veth."""
    own = (veth.mtu_bytes for veth in topology.veths if name in (veth.a, veth.b))
    return next(own, None) or topology.mtu_bytes


def _mac(ifindex: int) -> str:
    """A locally administered address (bit 2 of the first byte, IEEE 802c)."""
    digits = f"{ifindex:08x}"
    return f"02:00:{digits[0:2]}:{digits[2:4]}:{digits[4:6]}:{digits[6:8]}"


def _refuse_doubles(
    interfaces: Mapping[str, InterfaceSpec], loopback: Mapping[str, tuple[InterfaceAddress, ...]]
) -> None:
    """One address on two interfaces is refused; on loopbacks it may repeat: that is how servers share a virtual one."""
    owners: dict[Address, str] = {}
    for each in interfaces.values():
        for address in each.addresses:
            owner = owners.setdefault(address.ip, each.name)
            if owner != each.name:
                raise TopologyError(f"address {address.ip} is given twice: to {owner} and to {each.name}")
    for namespace, addresses in loopback.items():
        for address in addresses:
            if owners.get(address.ip, "").startswith(f"{namespace}/"):
                raise TopologyError(f"address {address.ip} is given twice in {namespace}: loopback has it too")


def _neighbours(
    segments: tuple[Segment, ...], interfaces: Mapping[str, InterfaceSpec]
) -> Iterator[tuple[str, tuple[Neighbour, ...]]]:
    for segment in segments:
        known = [
            (name, Neighbour(address.ip, interfaces[name].mac))
            for name in segment.members
            for address in interfaces[name].addresses
        ]
        for name in segment.members:
            yield name, tuple(neighbour for owner, neighbour in known if owner != name)
