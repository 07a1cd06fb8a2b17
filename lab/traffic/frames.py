"""Frames with the addresses of a network: what a host of it would send, as scapy packets.

    frame = frames.udp(net, "client", "server", dst_port=80, payload=b"hello")
    frame = frames.tcp(net, "client", "server", dst_port=80, flags="S", ip=6, vlans=(100,))

`dst` may be an address that no namespace has, a virtual service's: the frame goes where the routes send it. Extension
headers, fragments and whatever else is scapy's own: `frames.ether(net, "client", "server") / IP(...) / UDP(...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import TrafficError
from lab.traffic.codec import codec
from lab.traffic.way import address_of, own_address, way

if TYPE_CHECKING:
    from lab.net.layout import InterfaceSpec
    from lab.net.network import Network
    from lab.net.topology import Topology

ETHER_TYPES = {4: 0x0800, 6: 0x86DD}
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


def icmp(
    net: Network | Topology,
    src: str,
    dst: str,
    *,
    identifier: int = 1,
    sequence: int = 1,
    payload: bytes = b"",
    ip: int = 4,
    vlans: Sequence[int] = (),
    **fields: Any,
) -> Any:
    """An echo request (ICMP, RFC 792; ICMPv6, RFC 4443); `fields` go into the IP header."""
    scapy = codec()
    kind = scapy.ICMP if ip == 4 else scapy.ICMPv6EchoRequest
    below = ether(net, src, dst, ip=ip, vlans=vlans) / _ip(net, src, dst, ip, fields)
    if ip == 6:
        return below / kind(id=identifier, seq=sequence, data=payload)
    return below / kind(id=identifier, seq=sequence) / payload


def ether(net: Network | Topology, src: str, dst: str, *, ip: int = 4, vlans: Sequence[int] = ()) -> Any:
    """The Ethernet header, and VLAN tags from the outer to the inner (two: 802.1ad outside), towards the next hop."""
    scapy = codec()
    out, into = _first_step(_topology(net), src, dst, ip)
    ether_type = ETHER_TYPES[ip]
    header = scapy.Ether(src=out.mac, dst=into.mac, type=ether_type)
    for depth, tag in enumerate(vlans):
        last = depth == len(vlans) - 1
        header.lastlayer().type = 0x88A8 if depth == 0 and not last else 0x8100
        header = header / scapy.Dot1Q(vlan=tag, type=ether_type)
    return header


def next_hop_mac(net: Network | Topology, src: str, dst: str, ip: int = 4) -> str:
    """The MAC that a frame from `src` to `dst` is sent to: the destination's on one segment, else a router's."""
    return _first_step(_topology(net), src, dst, ip)[1].mac


def _first_step(topology: Topology, src: str, dst: str, ip: int) -> tuple[InterfaceSpec, InterfaceSpec]:
    steps = way(topology, src, address_of(topology, dst, ip))
    if not steps:
        raise TrafficError(f"address a frame from {src} to {dst}: both are in one namespace")
    if steps[0].into is None:
        raise TrafficError(f"address a frame from {src} to {dst}: nobody behind {steps[0].out.name} has that address")
    return steps[0].out, steps[0].into


def _ip(net: Network | Topology, src: str, dst: str, family: int, fields: dict[str, Any]) -> Any:
    topology = _topology(net)
    target = address_of(topology, dst, family)
    source = own_address(_first_step(topology, src, dst, family)[0], family)
    if source is None:
        raise TrafficError(
            f"address a frame: {src} has no IPv{family} address", mend=f"ipv{family}=... in the topology"
        )
    addresses = {"src": str(source.ip), "dst": str(target)}
    return (codec().IP if family == 4 else codec().IPv6)(**addresses, **fields)


def _topology(net: Any) -> Topology:
    found: Topology = getattr(net, "topology", net)
    return found
