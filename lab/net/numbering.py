"""Addresses: read from text, or allotted from a pool. Pure.

A segment gets a /24 (IPv6: /64) of its own while the pool has enough of them, because 10.0.3.1 is easy to read;
else the smallest prefix that all segments fit into.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lab.errors import TopologyError
from lab.net.spec import ALLOT

if TYPE_CHECKING:
    from lab.net.segments import Segment

Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface
Prefix = IPv4Network | IPv6Network

_EASY = {4: 24, 6: 64}
_BITS = {4: 32, 6: 128}
_INTERFACE: dict[int, Any] = {4: IPv4Interface, 6: IPv6Interface}
_NETWORK: dict[int, Any] = {4: IPv4Network, 6: IPv6Network}


def is_prefix(text: str | None, where: str) -> bool:
    """True for "10.1.0.0/24", False for "10.1.0.7/24"; TopologyError for anything else."""
    found = interface_address(str(text), where)
    return found.ip == found.network.network_address and found.network.num_addresses > 1


def interface_address(text: str, where: str) -> InterfaceAddress:
    """An address with its prefix length."""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise TopologyError(f"{where}: {text!r} is no address", mend='as in "10.1.0.1/24" or "fd00:1::1/64"') from error
    if "/" not in text:
        raise TopologyError(f"{where}: {text!r} has no prefix length", mend=f'as in "{text}/{_EASY[found.version]}"')
    return found


def prefix(text: str, family: int | None, where: str) -> Prefix:
    """A prefix of the family (None: of either)."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise TopologyError(f"{where}: {text!r} is no prefix: {error}", mend='as in "10.0.0.0/16"') from error
    if family not in (None, found.version):
        raise TopologyError(f"{where}: {text!r} is IPv{found.version}, IPv{family} was meant")
    return found


def number(segments: Sequence[Segment], family: int, pool: str | None) -> dict[str, Any]:
    """An address for every member that wishes one; TopologyError when prefixes overlap or the pool is too small."""
    if pool is None:
        segments = [each for each in segments if _given(each, family)]
    taken = {id(each): _given(each, family) for each in segments}
    _refuse_overlaps([(net, each.name) for each in segments for net in taken[id(each)]])
    waiting = [each for each in segments if not taken[id(each)] and ALLOT in each.wishes[family].values()]
    fresh = _allot(waiting, family, pool, [net for nets in taken.values() for net in nets]) if waiting else {}
    found: dict[str, Any] = {}
    for each in segments:
        found.update(_hosts(each, family, fresh.get(id(each)) or next(iter(taken[id(each)]), None)))
    return found


def _given(segment: Segment, family: int) -> list[Prefix]:
    """The prefixes that a segment has by its description: the one given to all first."""
    texts = [segment.prefix[family], *(w for w in segment.wishes[family].values() if w != ALLOT)]
    found: dict[Prefix, None] = {}
    for text in texts:
        if text is not None:
            address = interface_address(text, segment.name)
            if address.version != family:
                raise TopologyError(f"{segment.name}: {text} is IPv{address.version}, IPv{family} was meant")
            found[address.network] = None
    return list(found)


def _refuse_overlaps(nets: list[tuple[Prefix, str]]) -> None:
    """Prefixes are nested or apart, so in the order of their first addresses an overlap is between two in a row."""
    nets.sort(key=lambda each: (int(each[0].network_address), each[0].prefixlen))
    for (one, here), (other, there) in pairwise(nets):
        if int(other.network_address) <= int(one.broadcast_address):
            where = f"{here} and {there}" if here != there else here
            raise TopologyError(f"prefixes overlap: {one} and {other}, of {where}", mend="each segment needs its own")


def _allot(waiting: list[Segment], family: int, pool: str | None, taken: list[Prefix]) -> dict[int, Prefix]:
    assert pool is not None
    whole = prefix(pool, family, "the pool of addresses")
    bits = _BITS[family]
    needed = max(len(each.members) for each in waiting) + 2
    length = min(_EASY[family], bits - (needed - 1).bit_length())
    if whole.prefixlen > length or 2 ** (length - whole.prefixlen) < len(waiting) + len(taken):
        length = bits - (needed - 1).bit_length()
    free = _free(whole, length, taken)
    found = {}
    for each in waiting:
        net = next(free, None)
        if net is None:
            raise TopologyError(
                f"pool {pool} is too small for {len(waiting)} segments of up to {needed - 2} addresses",
                mend=f'a larger one: ipv{family}="{whole.supernet(min(8, whole.prefixlen))}"',
            )
        found[id(each)] = net
    return found


def _free(whole: Prefix, length: int, taken: list[Prefix]) -> Iterator[Prefix]:
    bits = _BITS[whole.version]
    if length < whole.prefixlen:
        return
    start, step = int(whole.network_address), 1 << (bits - length)
    blocked = [(int(net.network_address), int(net.broadcast_address)) for net in taken]
    for base in range(start, int(whole.broadcast_address) + 1, step):
        if not any(low <= base + step - 1 and base <= high for low, high in blocked):
            yield _NETWORK[whole.version]((base, length))


def _hosts(segment: Segment, family: int, net: Prefix | None) -> dict[str, Any]:
    wishes = segment.wishes[family]
    kind = _INTERFACE[family]
    found = {name: kind(wish) for name, wish in wishes.items() if wish not in (None, ALLOT)}
    if net is None:
        return found
    used = {int(address.ip) for address in found.values()}
    free = _free_hosts(net, used)
    for name, wish in wishes.items():
        if wish == ALLOT:
            host = next(free, None)
            if host is None:
                raise TopologyError(f"{segment.name}: {net} has too few addresses for {len(wishes)} interfaces")
            found[name] = kind((host, net.prefixlen))
    return found


def _free_hosts(net: Prefix, used: set[int]) -> Iterator[int]:
    """Host addresses in order, without network and broadcast address (RFC 3021: a /31 has neither)."""
    first, last = int(net.network_address), int(net.broadcast_address)
    if net.num_addresses > 2:
        first, last = first + 1, last - (net.version == 4)
    return (host for host in range(first, last + 1) if host not in used)
