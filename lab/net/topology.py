"""A network described: frozen, checked when it is made, and without a single system call.

>>> pair = Topology.pair("client", "server")
>>> str(pair.address("server", 4)), str(pair.address("server/eth0", 6))
('10.0.0.2', 'fd00::2')
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lab.errors import TopologyError
from lab.net.cable import Cable
from lab.net.checks import check
from lab.net.layout import InterfaceSpec, Layout, lay_out
from lab.net.numbering import Address
from lab.net.spec import ALLOT, Addresses, Bridge, NamespaceSpec, Route, Veth, Vlan, Vxlan

__all__ = [
    "ALLOT", "Addresses", "Bridge", "InterfaceSpec", "NamespaceSpec", "Route", "Topology", "Veth", "Vlan", "Vxlan",
]  # fmt: skip


@dataclass(frozen=True)
class Topology:
    """Namespaces, the veths between them and what they share; make one with pair, chain, star, bridge or of.

    `ipv4` and `ipv6` are the pools that prefixes are allotted from (None: that family is off). `neighbours` is
    "static" (every neighbour is known, no ARP, ND or MLD frame is ever sent), "dynamic" (the kernel asks) or "auto":
    static unless a segment has more than 33 members. Raises TopologyError for what could not be built.
    """

    name: str
    namespaces: tuple[NamespaceSpec, ...]
    veths: tuple[Veth, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    vlans: tuple[Vlan, ...] = ()
    vxlans: tuple[Vxlan, ...] = ()
    ipv4: str | None = "10.0.0.0/16"
    ipv6: str | None = "fd00::/48"
    mtu_bytes: int = 1500
    queues: int = 1
    offloads: Mapping[str, bool] = field(default_factory=dict, hash=False)
    sysctls: Mapping[str, str | int] = field(default_factory=dict, hash=False)
    neighbours: str = "auto"
    cable: Cable | None = None
    """In the place of the only veth: the other namespace is on another host."""

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "layout", lay_out(self))

    layout: Layout = field(init=False, repr=False, compare=False)

    @classmethod
    def pair(cls, a: str, b: str, **options: Any) -> Topology:
        """Two namespaces and a veth from a/eth0 to b/eth0."""
        return cls("pair", (NamespaceSpec(a), NamespaceSpec(b)), (Veth(f"{a}/eth0", f"{b}/eth0"),), **options)

    @classmethod
    def physical(
        cls, interface: str, *, peer: str, names: tuple[str, str] = ("client", "server"), here: str = "", **options: Any
    ) -> Topology:
        """A pair on two hosts: `interface` of this one is the end of `here`, the other is `peer`.

        The peer is written "ssh:root@alpha/eth2"; `here` is the second of the names, unless it is said.
        """
        pair = cls.pair(*names, **options)
        return replace(pair, name="physical", cable=Cable.parse(interface, peer, here))

    @classmethod
    def chain(cls, *names: str, **options: Any) -> Topology:
        """Namespaces in a row; those in the middle forward: eth0 faces the first, eth1 the last."""
        if len(names) < 2:
            raise TopologyError(f"a chain of {len(names)} namespace(s)", mend="two at least")
        middle = range(1, len(names) - 1)
        specs = tuple(NamespaceSpec(name, forwarding=place in middle) for place, name in enumerate(names))
        near = [f"{name}/eth{1 if place in middle else 0}" for place, name in enumerate(names)]
        veths = tuple(Veth(a, f"{name}/eth0") for a, name in zip(near, names[1:], strict=False))
        return cls("chain", specs, veths, **options)

    @classmethod
    def star(cls, hub: str, leaves: int | Sequence[str] = 3, **options: Any) -> Topology:
        """A veth from hub/eth0, hub/eth1, … to eth0 of each leaf; the hub routes between them."""
        names = _leaf_names(leaves)
        veths = tuple(Veth(f"{hub}/eth{place}", f"{leaf}/eth0") for place, leaf in enumerate(names))
        return cls("star", (NamespaceSpec(hub, forwarding=True), *map(NamespaceSpec, names)), veths, **options)

    @classmethod
    def bridge(cls, switch: str, leaves: int | Sequence[str] = 3, **options: Any) -> Topology:
        """The same wires, but switch/br0 is a Linux bridge over them: one segment, of which br0 has an address too."""
        names = _leaf_names(leaves)
        veths = tuple(Veth(f"{switch}/eth{place}", f"{leaf}/eth0") for place, leaf in enumerate(names))
        bridge = Bridge(f"{switch}/br0", tuple(veth.a for veth in veths))
        return cls("bridge", tuple(map(NamespaceSpec, (switch, *names))), veths, (bridge,), **options)

    @classmethod
    def of(
        cls, namespaces: Iterable[NamespaceSpec | str], veths: Iterable[Veth], *, name: str = "free", **options: Any
    ) -> Topology:
        """Any namespaces, veths, bridges, vlans and vxlans; routes are computed over those that forward."""
        specs = tuple(NamespaceSpec(each) if isinstance(each, str) else each for each in namespaces)
        return cls(name, specs, tuple(veths), **{key: _frozen(value) for key, value in options.items()})

    def extended(
        self,
        *,
        namespaces: Iterable[NamespaceSpec | str] = (),
        veths: Iterable[Veth] = (),
        bridges: Iterable[Bridge] = (),
        vlans: Iterable[Vlan] = (),
        vxlans: Iterable[Vxlan] = (),
        **options: Any,
    ) -> Topology:
        """This topology with more in it; a namespace that is there already is replaced, options are changed."""
        new = {each.name: each for each in (NamespaceSpec(e) if isinstance(e, str) else e for e in namespaces)}
        kept = tuple(new.pop(each.name, each) for each in self.namespaces)
        return replace(
            self,
            namespaces=(*kept, *new.values()),
            veths=(*self.veths, *veths),
            bridges=(*self.bridges, *bridges),
            vlans=(*self.vlans, *vlans),
            vxlans=(*self.vxlans, *vxlans),
            **options,
        )

    @property
    def interfaces(self) -> tuple[InterfaceSpec, ...]:
        """Every interface, with the index, MAC and addresses that it will have."""
        return tuple(self.layout.interfaces.values())

    def interface(self, name: str) -> InterfaceSpec:
        """The interface "server/eth0", or, by the name of a namespace alone, its first one that has an address."""
        found = self.layout.interfaces.get(name)
        if found is not None:
            return found
        own = self.layout.of_namespace.get(name, ())
        first = next((each for each in own if each.addresses), None)
        if first is None:
            raise TopologyError(f"there is no interface {name!r}", mend=", ".join(list(self.layout.interfaces)[:12]))
        return first

    def address(self, name: str, family: int = 4) -> Address:
        """The address in family 4 or 6 of an interface, or of a namespace's first interface that has one."""
        own = (self.layout.interfaces[name],) if name in self.layout.interfaces else self.layout.of_namespace.get(name)
        if own is None:
            raise TopologyError(f"there is no interface or namespace {name!r}")
        for each in own:
            found = each.ipv4 if family == 4 else each.ipv6
            if found is not None:
                return found.ip
        raise TopologyError(f"{name} has no IPv{family} address")

    @cached_property
    def _mermaid(self) -> str:
        from lab.net.drawing import to_mermaid

        return to_mermaid(self)

    @cached_property
    def _svg(self) -> str:
        from lab.net.drawing import to_svg

        return to_svg(self)

    def to_mermaid(self) -> str:
        """The network as a Mermaid flowchart."""
        return self._mermaid

    def to_svg(self) -> str:
        """The network as one SVG element, for light and dark backgrounds, without anything from outside."""
        return self._svg


def _leaf_names(leaves: int | Sequence[str]) -> tuple[str, ...]:
    names = tuple(f"leaf{place}" for place in range(1, leaves + 1)) if isinstance(leaves, int) else tuple(leaves)
    if not names or isinstance(leaves, str):
        raise TopologyError(f"leaves={leaves!r}", mend='a number from 1, or names: ("a", "b")')
    return names


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
