"""The way that a packet takes through a topology, by its addresses and routes. Pure.

What a program on the way makes of the packet is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lab.errors import TrafficError

if TYPE_CHECKING:
    from lab.net.layout import InterfaceSpec
    from lab.net.numbering import Address, InterfaceAddress
    from lab.net.topology import Topology

MOST_HOPS = 64
WIRED = ("veth", "physical")
"""Kinds of interfaces whose peer gets whatever they send."""


@dataclass(frozen=True)
class Step:
    """Out of one interface and into another, which is a router's or the destination's; None where nobody answers."""

    out: InterfaceSpec
    into: InterfaceSpec | None


def address_of(topology: Topology, place: str, family: int) -> Address:
    """The address of a namespace or interface; what is an address already stays one (a virtual service's, say)."""
    try:
        given = ip_address(place)
    except ValueError:
        return topology.address(place, family)
    if given.version != family:
        raise TrafficError(f"{place} is no IPv{family} address", mend=f"ip={given.version}")
    return given


def way(topology: Topology, src: str, target: Address) -> list[Step]:
    """Every step from a namespace (or one of its interfaces) towards an address; [] when it is the namespace's own.

    It ends where a router has no route: a program there may know more. TrafficError when the first has none.
    """
    steps: list[Step] = []
    here = src
    while len(steps) < MOST_HOPS and not _owns(topology, here.partition("/")[0], target):
        next_hop = _next_hop(topology, here, target)
        if next_hop is None:
            if steps:
                break
            raise TrafficError(f"{here} has no route to {target}", mend="routes=(Route(...),) in its NamespaceSpec")
        out, via = next_hop
        into = _owner(topology, out, via)
        steps.append(Step(out, into))
        if into is None:
            break
        here = into.namespace
    return steps


def own_address(interface: InterfaceSpec, family: int) -> InterfaceAddress | None:
    """The address of an interface, with its prefix length; None where it has none."""
    return interface.ipv4 if family == 4 else interface.ipv6


def _owns(topology: Topology, namespace: str, target: Address) -> bool:
    layout = topology.layout
    own = [address for each in layout.of_namespace.get(namespace, ()) for address in each.addresses]
    return any(target == each.ip for each in (*own, *layout.loopback.get(namespace, ())))


def _next_hop(topology: Topology, here: str, target: Address) -> tuple[InterfaceSpec, Address] | None:
    layout = topology.layout
    namespace, _, short_name = here.partition("/")
    for each in layout.of_namespace.get(namespace, ()):
        own = own_address(each, target.version)
        if own is not None and target in own.network and short_name in ("", each.short_name):
            return each, target
    fitting = [hop for hop in layout.routes.get(namespace, ()) if target in hop.prefix]
    if not fitting:
        return None
    best = max(fitting, key=lambda hop: hop.prefix.prefixlen)
    return next(each for each in layout.of_namespace[namespace] if each.ifindex == best.ifindex), best.via


def _owner(topology: Topology, out: InterfaceSpec, via: Address) -> InterfaceSpec | None:
    """Whose address it is; where it is nobody's, a veth's other end sees the packet."""
    interfaces = topology.layout.interfaces
    for each in interfaces.values():
        own = own_address(each, via.version)
        if own is not None and own.ip == via:
            return each
    return interfaces.get(out.peer) if out.kind in WIRED else None
