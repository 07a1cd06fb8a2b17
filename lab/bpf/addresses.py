"""Addresses as the bytes that a C struct holds."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from lab.errors import MapError

ADDRESSES = IPv4Address | IPv6Address
MAPPED = bytes(10) + b"\xff\xff"


def packed(value: Any, size: int) -> bytes:
    """An address in wire order; IPv4 in 16 bytes is ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), and 6 bytes are a MAC.

    >>> packed("10.0.0.1", 16)[10:].hex()
    'ffff0a000001'
    """
    if size == 6 and isinstance(value, str):
        return _packed_mac(value)
    address = parsed(ip_address, value) if isinstance(value, str) else value
    if size == 16 and address.version == 4:
        return MAPPED + bytes(address.packed)
    if len(address.packed) != size:
        raise MapError(f"the address {address} takes {len(address.packed)} bytes and not {size}")
    return bytes(address.packed)


def parsed(parse: Callable[[str], Any], text: str) -> Any:
    """What `parse` makes of a text; MapError when it is no address."""
    try:
        return parse(text)
    except ValueError as error:
        raise MapError(f"{text!r} is no address ({error})") from None


def _packed_mac(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6:
        raise MapError(f"{text!r} is no MAC address", mend='like "02:00:00:00:00:01"')
    return raw
