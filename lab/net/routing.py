"""Routes: every namespace reaches every prefix by way of namespaces that forward, over the fewest of them. Pure."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.errors import TopologyError
from lab.net.numbering import Address, InterfaceAddress, Prefix, prefix
from lab.net.segments import Segment

if TYPE_CHECKING:
    from lab.net.layout import InterfaceSpec
    from lab.net.spec import NamespaceSpec, Route
    from lab.net.topology import Topology

_DEFAULT: dict[int, Prefix] = {4: ipaddress.IPv4Network("0.0.0.0/0"), 6: ipaddress.IPv6Network("::/0")}


@dataclass(frozen=True)
class Hop:
    """A route as the kernel wants it: to `prefix` by way of `via`, out of the interface `ifindex`."""

    prefix: Prefix
    via: Address
    ifindex: int


def routes(
    topology: Topology,
    segments: tuple[Segment, ...],
    interfaces: Mapping[str, InterfaceSpec],
    loopback: Mapping[str, tuple[InterfaceAddress, ...]],
) -> dict[str, tuple[Hop, ...]]:
    """The routes of each namespace: those described, then those computed for what they leave open."""
    routing = _Routing(topology, segments, interfaces, loopback)
    found = {}
    for each in topology.namespaces:
        given = [hop for route in each.routes for hop in [routing.given(each, route)]]
        known = {hop.prefix for hop in given}
        found[each.name] = (*given, *(hop for hop in routing.computed(each) if hop.prefix not in known))
    return found


class _Routing:
    def __init__(
        self,
        topology: Topology,
        segments: tuple[Segment, ...],
        interfaces: Mapping[str, InterfaceSpec],
        loopback: Mapping[str, tuple[InterfaceAddress, ...]],
    ) -> None:
        self._interfaces = interfaces
        self._segments = segments
        self._forwarding = {each.name for each in topology.namespaces if each.forwarding}
        self._at: dict[str, list[tuple[int, InterfaceSpec]]] = {each.name: [] for each in topology.namespaces}
        for number, segment in enumerate(segments):
            for name in segment.members:
                if interfaces[name].addresses:
                    self._at[interfaces[name].namespace].append((number, interfaces[name]))
        self._routers: list[list[InterfaceSpec]] = [
            [interfaces[name] for name in segment.members if interfaces[name].namespace in self._forwarding]
            for segment in segments
        ]
        self._loopback = {name: addresses for name, addresses in loopback.items() if addresses}

    def given(self, namespace: NamespaceSpec, route: Route) -> Hop:
        """A described route, with the interface that its next hop is reached by."""
        where = f"route of {namespace.name} to {route.prefix}"
        try:
            via = ipaddress.ip_address(route.via)
        except ValueError as error:
            raise TopologyError(f"{where}: {route.via!r} is no address") from error
        net = _DEFAULT[via.version] if route.prefix == "default" else prefix(route.prefix, via.version, where)
        for _, interface in self._at[namespace.name]:
            if any(via in own.network for own in interface.addresses):
                return Hop(net, via, interface.ifindex)
        raise TopologyError(f"{where}: next hop {via} is on no prefix of {namespace.name}")

    def computed(self, namespace: NamespaceSpec) -> Iterator[Hop]:
        """One default route when everything lies behind one router, else a route to each prefix out of sight."""
        gates = [
            (number, own, router)
            for number, own in self._at[namespace.name]
            for router in self._routers[number]
            if router.namespace != namespace.name
        ]
        if len(gates) == 1:
            yield from self._hops(gates[0][1], gates[0][2], None)
        elif gates:
            yield from self._search(namespace, gates)

    def _search(self, namespace: NamespaceSpec, gates: list[tuple[int, InterfaceSpec, InterfaceSpec]]) -> Iterator[Hop]:
        """Breadth first over the routers, so that each prefix is reached by the fewest hops."""
        seen = {number for number, _ in self._at[namespace.name]}
        passed = {namespace.name}
        queue = deque((router.namespace, own, router) for _, own, router in gates)
        while queue:
            name, own, gate = queue.popleft()
            if name in passed:
                continue
            passed.add(name)
            yield from self._hops_to_loopback(name, own, gate)
            for number, _ in self._at[name]:
                if number not in seen:
                    seen.add(number)
                    yield from self._hops(own, gate, self._segments[number])
                queue.extend((each.namespace, own, gate) for each in self._routers[number])

    def _hops(self, own: InterfaceSpec, gate: InterfaceSpec, segment: Segment | None) -> Iterator[Hop]:
        for family in (4, 6):
            via = self._common(own, gate, family)
            if via is None:
                continue
            for net in [_DEFAULT[family]] if segment is None else self._prefixes(segment, family):
                yield Hop(net, via, own.ifindex)

    def _hops_to_loopback(self, name: str, own: InterfaceSpec, gate: InterfaceSpec) -> Iterator[Hop]:
        for address in self._loopback.get(name, ()):
            via = self._common(own, gate, address.version)
            if via is not None:
                yield Hop(address.network, via, own.ifindex)

    def _common(self, own: InterfaceSpec, gate: InterfaceSpec, family: int) -> Address | None:
        ours, theirs = (own.ipv4, gate.ipv4) if family == 4 else (own.ipv6, gate.ipv6)
        return None if ours is None or theirs is None or theirs.ip not in ours.network else theirs.ip

    def _prefixes(self, segment: Segment, family: int) -> list[Prefix]:
        found: dict[Prefix, None] = {}
        for name in segment.members:
            for address in self._interfaces[name].addresses:
                if address.version == family:
                    found[address.network] = None
        return list(found)
