"""What makes a description impossible, found before the first system call. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lab.errors import TopologyError
from lab.net.cable import check_cable

if TYPE_CHECKING:
    from lab.net.layout import InterfaceSpec
    from lab.net.spec import Vlan, Vxlan
    from lab.net.topology import Topology

MTU_BYTES = range(68, 65536)  # 68: RFC 791; 65535: what veth takes (ETH_MAX_MTU)
IPV6_MTU_BYTES = 1280  # RFC 8200, section 5
NAME_BYTES = 15  # IFNAMSIZ with its NUL
QUEUES = range(1, 4097)  # the kernel's limit (rtnl_create_link())
OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")  # as ethtool -K calls them; lab.kernel.ethtool sets them

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SYSCTL = re.compile(r"net([./][A-Za-z0-9_-]+){2,}")
_RESERVED = {"lo", "all", "default", ".", ".."}


def check(topology: Topology) -> None:
    """Raises TopologyError for the first thing that no kernel could build."""
    names = _check_namespaces(topology)
    _check_settings("topology", topology.mtu_bytes, topology.queues, topology.offloads, topology.ipv6 is not None)
    if topology.neighbours not in ("auto", "static", "dynamic"):
        raise TopologyError(f'neighbours={topology.neighbours!r}: it is "static", "dynamic" or "auto"')
    for pool, value in (("ipv4", topology.ipv4), ("ipv6", topology.ipv6)):
        if value is not None and not isinstance(value, str):
            raise TopologyError(f"{pool}={value!r}: a prefix as text, or None")
    interfaces = [end for veth in topology.veths for end in (veth.a, veth.b)]
    interfaces += [each.name for each in topology.bridges]
    interfaces += [each.name for each in topology.vlans] + [each.name for each in topology.vxlans]
    _check_interfaces(interfaces, names)
    for veth in topology.veths:
        where = f"veth {veth.a} - {veth.b}"
        _check_settings(where, veth.mtu_bytes, veth.queues, veth.offloads, veth.ipv6 is not None)
    _check_bridges(topology)
    _check_overlays(topology, set(interfaces))
    check_cable(topology)


def _check_namespaces(topology: Topology) -> set[str]:
    names: set[str] = set()
    if not topology.namespaces:
        raise TopologyError("a topology without a namespace", mend='Topology.pair("client", "server") is the smallest')
    _check_sysctls("topology", topology.sysctls)
    for each in topology.namespaces:
        if not _NAMESPACE.fullmatch(each.name):
            raise TopologyError(f"namespace name {each.name!r}: letters, digits, '_', '.', '-', 64 at most")
        if each.name in names:
            raise TopologyError(f"two namespaces are named {each.name!r}")
        names.add(each.name)
        _check_sysctls(f"namespace {each.name}", each.sysctls)
    return names


def _check_sysctls(where: str, sysctls: Mapping[str, str | int]) -> None:
    for name in sysctls:
        if not _SYSCTL.fullmatch(name):
            raise TopologyError(
                f"{where}: {name!r} is no sysctl of a namespace",
                mend='as in "net.ipv4.ip_forward"; those outside net. belong to the whole machine',
            )


def _check_settings(
    where: str, mtu_bytes: int | None, queues: int | None, offloads: Mapping[str, bool], has_ipv6: bool
) -> None:
    if mtu_bytes is not None and mtu_bytes not in MTU_BYTES:
        raise TopologyError(f"{where}: MTU {mtu_bytes} is out of range", mend="68 to 65535 bytes")
    if mtu_bytes is not None and has_ipv6 and mtu_bytes < IPV6_MTU_BYTES:
        raise TopologyError(f"{where}: MTU {mtu_bytes} is below IPv6's 1280 (RFC 8200)", mend="ipv6=None, or 1280")
    if queues is not None and queues not in QUEUES:
        raise TopologyError(f"{where}: {queues} queues", mend="1 to 4096")
    for name, value in offloads.items():
        if name not in OFFLOADS or not isinstance(value, bool):
            raise TopologyError(f"{where}: offload {name!r}: {value!r}", mend=f"{', '.join(OFFLOADS)}: True or False")


def _check_interfaces(interfaces: Iterable[str], namespaces: set[str]) -> None:
    seen: set[str] = set()
    for full in interfaces:
        namespace, slash, name = full.partition("/")
        if not slash:
            raise TopologyError(f"interface {full!r} names no namespace", mend='as in "server/eth0"')
        if namespace not in namespaces:
            raise TopologyError(f"interface {full!r}: there is no namespace {namespace!r}", mend=_known(namespaces))
        if not 1 <= len(name.encode()) <= NAME_BYTES:
            raise TopologyError(f"interface {full!r}: its name has {len(name.encode())} bytes", mend="1 to 15")
        if re.search(r"[/:\s\0]", name) or name in _RESERVED:
            raise TopologyError(f"interface {full!r}: the kernel takes no such name", mend="no '/', ':' or space")
        if full in seen:
            raise TopologyError(f"two interfaces are named {full!r}")
        seen.add(full)


def _known(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return "there are " + ", ".join(ordered[:8]) + (", …" if len(ordered) > 8 else "")


def _check_bridges(topology: Topology) -> None:
    ends = {end for veth in topology.veths for end in (veth.a, veth.b)}
    seen: set[str] = set()
    for bridge in topology.bridges:
        for port in bridge.ports:
            if port not in ends:
                raise TopologyError(f"bridge {bridge.name}: port {port!r} is no end of a veth")
            if port.partition("/")[0] != bridge.name.partition("/")[0]:
                raise TopologyError(f"bridge {bridge.name}: port {port!r} is in another namespace")
            if port in seen:
                raise TopologyError(f"{port} is a port twice")
            seen.add(port)


def _check_overlays(topology: Topology, interfaces: set[str]) -> None:
    overlays: list[Vlan | Vxlan] = [*topology.vlans, *topology.vxlans]
    for spec in overlays:
        if spec.parent not in interfaces:
            raise TopologyError(f"{spec.name}: there is no interface {spec.parent!r} to sit on")
        if spec.parent.partition("/")[0] != spec.name.partition("/")[0]:
            raise TopologyError(f"{spec.name}: {spec.parent!r} is in another namespace")
    _check_vlans(topology.vlans)
    for vxlan in topology.vxlans:
        if not 0 <= vxlan.vni < 1 << 24:
            raise TopologyError(f"{vxlan.name}: VNI {vxlan.vni}", mend="0 to 16777215 (RFC 7348)")
        if not 1 <= vxlan.port <= 65535:
            raise TopologyError(f"{vxlan.name}: UDP port {vxlan.port}", mend="1 to 65535")
        if vxlan.remote not in interfaces:
            raise TopologyError(f"{vxlan.name}: there is no interface {vxlan.remote!r} to send to")


def _check_vlans(vlans: Iterable[Vlan]) -> None:
    pairs = set()
    for vlan in vlans:
        if not 1 <= vlan.tag <= 4094:
            raise TopologyError(f"{vlan.name}: VLAN {vlan.tag}", mend="1 to 4094 (IEEE 802.1Q)")
        if (vlan.parent, vlan.tag) in pairs:
            raise TopologyError(f"{vlan.name}: VLAN {vlan.tag} is on {vlan.parent} twice")
        pairs.add((vlan.parent, vlan.tag))


def check_resolved(topology: Topology, interfaces: Mapping[str, InterfaceSpec]) -> None:
    """What can be seen only when every interface has its addresses and its MTU."""
    for vxlan in topology.vxlans:
        ends = interfaces[vxlan.parent], interfaces[vxlan.remote]
        if not any(a.version == b.version for a in ends[0].addresses for b in ends[1].addresses):
            raise TopologyError(f"{vxlan.name}: {vxlan.parent} and {vxlan.remote} have no address of one family")
    for each in interfaces.values():
        if each.ipv6 is not None and each.mtu_bytes < IPV6_MTU_BYTES:
            raise TopologyError(f"{each.name}: MTU {each.mtu_bytes} is below IPv6's 1280 (RFC 8200)", mend="ipv6=None")
