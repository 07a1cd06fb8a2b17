"""Segments: interfaces that reach each other without a router. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.errors import TopologyError
from lab.net.numbering import is_prefix
from lab.net.spec import ALLOT, Bridge, Veth

if TYPE_CHECKING:
    from lab.net.topology import Topology

Wish = str | None
"""ALLOT, an address with its prefix length, or None."""


@dataclass(frozen=True)
class Segment:
    """The members that can have an address, in order; by family (4, 6), what each wishes and the prefix of all."""

    name: str
    members: tuple[str, ...]
    wishes: Mapping[int, Mapping[str, Wish]] = field(hash=False)
    prefix: Mapping[int, str | None] = field(hash=False)


def segments_of(topology: Topology) -> tuple[Segment, ...]:
    """Bridges join their ports, veths between bridges join segments, VLANs and VXLANs make segments of their own."""
    groups = _Groups()
    for bridge in topology.bridges:
        for port in bridge.ports:
            groups.join(bridge.name, port)
    for veth in topology.veths:
        groups.join(veth.a, veth.b)
    ports = {port for bridge in topology.bridges for port in bridge.ports}
    found: dict[str, _Draft] = {}
    for bridge in topology.bridges:
        found.setdefault(groups.of(bridge.name), _Draft()).add_bridge(bridge)
    for veth in topology.veths:
        found.setdefault(groups.of(veth.a), _Draft()).add_veth(veth, ports)
    for vlan in topology.vlans:
        group = f"{groups.of(vlan.parent)} vlan {vlan.tag}"
        found.setdefault(group, _Draft()).add(vlan.name, vlan.ipv4, vlan.ipv6)
        groups.join(vlan.name, group)
    for vxlan in topology.vxlans:
        found.setdefault(f"vxlan {vxlan.vni}", _Draft()).add(vxlan.name, vxlan.ipv4, vxlan.ipv6)
    return tuple(draft.segment() for draft in found.values())


class _Groups:
    """Names that belong together (union-find)."""

    def __init__(self) -> None:
        self._leader: dict[str, str] = {}

    def of(self, name: str) -> str:
        while (leader := self._leader.get(name, name)) != name:
            self._leader[name] = self._leader.get(leader, leader)
            name = leader
        return name

    def join(self, a: str, b: str) -> None:
        self._leader[self.of(b)] = self.of(a)


class _Draft:
    """A segment while its members are gathered."""

    def __init__(self) -> None:
        self.wishes: dict[int, dict[str, Wish]] = {4: {}, 6: {}}
        self.prefix: dict[int, str | None] = {4: None, 6: None}
        self.silent: set[int] = set()

    def add(self, name: str, ipv4: str | None, ipv6: str | None) -> None:
        for family, text in ((4, ipv4), (6, ipv6)):
            if text not in (None, ALLOT) and is_prefix(text, name):
                self._set_prefix(family, text, name)
                text = ALLOT
            self.wishes[family][name] = text

    def add_bridge(self, bridge: Bridge) -> None:
        self.add(bridge.name, bridge.ipv4, bridge.ipv6)
        self.silent |= {family for family, text in ((4, bridge.ipv4), (6, bridge.ipv6)) if text is None}

    def add_veth(self, veth: Veth, ports: set[str]) -> None:
        free = [name for name in (veth.a, veth.b) if name not in ports]
        for family, given in ((4, veth.ipv4), (6, veth.ipv6)):
            for name, text in zip(free, self._shares(veth, family, given, len(free)), strict=True):
                self.wishes[family][name] = text

    def _shares(self, veth: Veth, family: int, given: str | tuple[str, str] | None, ends: int) -> tuple[Wish, ...]:
        where = f"veth {veth.a} - {veth.b}"
        if given is None or given == ALLOT:
            return (given,) * ends
        if isinstance(given, tuple):
            if len(given) != 2 or ends != 2:
                raise TopologyError(f"{where}: addresses {given} for {ends} end(s) that can have one")
            return given
        if is_prefix(given, where):
            self._set_prefix(family, given, where)
            return (ALLOT,) * ends
        if ends != 1:
            raise TopologyError(
                f"{where}: {given} is one address", mend='a prefix, or two: ("10.1.0.1/24", "10.1.0.2/24")'
            )
        return (given,)

    def _set_prefix(self, family: int, text: str | None, where: str) -> None:
        if self.prefix[family] not in (None, text):
            raise TopologyError(f"{where}: prefix {text}, but its segment has {self.prefix[family]} already")
        self.prefix[family] = text

    def segment(self) -> Segment:
        for family in self.silent:
            self.wishes[family] = {name: None if w == ALLOT else w for name, w in self.wishes[family].items()}
        members = tuple(self.wishes[4])
        return Segment(" - ".join(members), members, self.wishes, self.prefix)
