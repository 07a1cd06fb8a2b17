"""Frames with the addresses of a network: what a host of it would send, as scapy packets.

    frame = frames.udp(net, "client", "server", dst_port=80, payload=b"hello")
    frame = frames.tcp(net, "client", "server", dst_port=80, flags="S", ip=6, vlans=(100,))

Options, extension headers and fragments are scapy's own: `frames.ether(net, "client", "server") / IP(options=...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from lab.errors import TrafficError
from lab.traffic.codec import codec

if TYPE_CHECKING:
    from lab.net.network import Network
    from lab.net.topology import Topology

TCP_FIELDS = {"flags", "seq", "ack", "window", "options", "urgptr"}


def udp(
    net: Network | Topology,
    src: str,
    dst: str,
    *,
    dst_port: int,
    src_port: int = 40_000,
    payload: bytes = b"",
    ip: int = 4,
    vlans: Sequence[int] = (),
    **fields: Any,
) -> Any:
    """A UDP datagram; `fields` go into the IP header (ttl, hlim, tos, tc, id, ...)."""
    header = codec().UDP(sport=src_port, dport=dst_port)
    return ether(net, src, dst, ip=ip, vlans=vlans) / _ip(net, src, dst, ip, fields) / header / payload


def tcp(
    net: Network | Topology,
    src: str,
    dst: str,
    *,
    dst_port: int,
    src_port: int = 40_000,
    payload: bytes = b"",
    ip: int = 4,
    vlans: Sequence[int] = (),
    **fields: Any,
) -> Any:
    """A TCP segment; `fields` named flags ("S", "SA", "R"), seq, ack, window or options go into the TCP header."""
    own = {name: fields.pop(name) for name in TCP_FIELDS & set(fields)}
    header = codec().TCP(sport=src_port, dport=dst_port, **own)
    return ether(net, src, dst, ip=ip, vlans=vlans) / _ip(net, src, dst, ip, fields) / header / payload


def icmp(net: Network | Topology, src: str, dst: str, *, ip: int = 4, identifier: int = 1, sequence: int = 1) -> Any:
    """An echo request (ICMP, RFC 792; ICMPv6, RFC 4443)."""
    scapy = codec()
    header = (
        scapy.ICMP(id=identifier, seq=sequence) if ip == 4 else scapy.ICMPv6EchoRequest(id=identifier, seq=sequence)
    )
    return ether(net, src, dst, ip=ip) / _ip(net, src, dst, ip, {}) / header


def ether(net: Network | Topology, src: str, dst: str, *, ip: int = 4, vlans: Sequence[int] = ()) -> Any:
    """The Ethernet header, and VLAN tags from the outer to the inner (two: 802.1ad outside), towards the next hop."""
    scapy = codec()
    topology = _topology(net)
    source = topology.interface(src)
    header = scapy.Ether(src=source.mac, dst=next_hop_mac(topology, src, dst, ip), type=0x0800 if ip == 4 else 0x86DD)
    for depth, tag in enumerate(vlans):
        last = depth == len(vlans) - 1
        header.lastlayer().type = 0x88A8 if depth == 0 and not last else 0x8100
        header = header / scapy.Dot1Q(vlan=tag, type=0x0800 if ip == 4 else 0x86DD)
    return header


def next_hop_mac(topology: Topology, src: str, dst: str, ip: int = 4) -> str:
    """The MAC that a frame from `src` to `dst` is sent to: the destination's on one segment, else a router's."""
    layout = topology.layout
    source = topology.interface(src)
    target = topology.address(dst, ip)
    here = next((each for each in layout.interfaces.values() if target in (each_ip(each, 4), each_ip(each, 6))), None)
    own = source.ipv4 if ip == 4 else source.ipv6
    if own is None:
        raise TrafficError(f"address a frame: {source.name} has no IPv{ip} address", mend="ipv6=... in the topology")
    if here is not None and target in own.network:
        return here.mac
    for hop in layout.routes.get(source.namespace, ()):
        if target in hop.prefix:
            return next(
                each.mac for each in layout.interfaces.values() if hop.via in (each_ip(each, 4), each_ip(each, 6))
            )
    raise TrafficError(f"address a frame: {source.name} has no route to {dst} ({target})")


def each_ip(interface: Any, family: int) -> Any:
    """The address of an interface's description, without its prefix length; None where it has none."""
    own = interface.ipv4 if family == 4 else interface.ipv6
    return None if own is None else own.ip


def _ip(net: Network | Topology, src: str, dst: str, family: int, fields: dict[str, Any]) -> Any:
    topology = _topology(net)
    scapy = codec()
    source, target = _address(topology, src, family), _address(topology, dst, family)
    return (scapy.IP if family == 4 else scapy.IPv6)(src=source, dst=target, **fields)


def _address(topology: Topology, name: str, family: int) -> str:
    return str(ip_address(topology.address(name, family)))


def _topology(net: Network | Topology) -> Topology:
    from lab.net.topology import Topology

    return net if isinstance(net, Topology) else net.topology
