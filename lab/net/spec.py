"""The parts of a Topology, as plain frozen values: namespaces, veths, bridges, VLANs, VXLANs and routes.

An interface is always written "namespace/interface". Addresses are text; `ALLOT` lets the topology choose them from
its pools, None leaves the family out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ALLOT = "allot"

Addresses = str | tuple[str, str] | None
"""ALLOT, a prefix ("10.1.0.0/24"), the two ends' addresses ("10.1.0.1/24", "10.1.0.2/24"), or None."""


@dataclass(frozen=True)
class Route:
    """Packets to `prefix` ("default", "0.0.0.0/0", "10.9.0.0/16", "fd00:9::/64") go to the next hop `via`."""

    prefix: str
    via: str


@dataclass(frozen=True)
class NamespaceSpec:
    """A namespace: whether it forwards, its own sysctls, addresses for its loopback, routes besides the computed ones.

    >>> NamespaceSpec("backend", loopback=("198.51.100.1/32",))
    NamespaceSpec(name='backend', forwarding=False, sysctls={}, loopback=('198.51.100.1/32',), routes=())
    """

    name: str
    forwarding: bool = False
    sysctls: Mapping[str, str | int] = field(default_factory=dict, hash=False)
    loopback: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class Veth:
    """A pair of interfaces; what is left None comes from the topology.

    A given prefix numbers the ends in order: `a` gets its first host address, `b` its second. An end that is a port
    of a bridge has no address, so a single "10.0.0.7/24" is the other end's.
    """

    a: str
    b: str
    ipv4: Addresses = ALLOT
    ipv6: Addresses = ALLOT
    mtu_bytes: int | None = None
    queues: int | None = None
    offloads: Mapping[str, bool] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Bridge:
    """A Linux bridge over `ports`, ends of veths in its namespace; `ipv4` and `ipv6` are the prefix of its segment."""

    name: str
    ports: tuple[str, ...]
    ipv4: str | None = ALLOT
    ipv6: str | None = ALLOT


@dataclass(frozen=True)
class Vlan:
    """An 802.1Q interface on top of `parent`; those with the same `tag` on one segment are one segment of their own."""

    name: str
    parent: str
    tag: int
    ipv4: str | None = ALLOT
    ipv6: str | None = ALLOT


@dataclass(frozen=True)
class Vxlan:
    """A VXLAN interface (RFC 7348) that sends from the address of `parent` to that of the interface `remote`.

    Interfaces with the same `vni` are one segment.
    """

    name: str
    parent: str
    remote: str
    vni: int
    port: int = 4789
    ipv4: str | None = ALLOT
    ipv6: str | None = ALLOT
