"""An address and a port as a person writes them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address


def endpoint(text: str) -> tuple[IPv4Address | IPv6Address | None, int]:
    """Address and port of "10.0.0.1:80" or "[2001:db8::1]:80"; "80" or "*:80" has no address.

    ValueError for anything else.

    >>> endpoint("[2001:db8::1]:80")
    (IPv6Address('2001:db8::1'), 80)
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f'{text!r}: a port is 1 to 65535; write "10.0.0.1:80", "[2001:db8::1]:80" or "80"')
    if host in ("", "*"):
        return None, int(port)
    bare = host.removeprefix("[").removesuffix("]")
    if (bare != host) != (":" in bare):
        raise ValueError(f'{text!r}: an IPv6 address stands in brackets, "[2001:db8::1]:80"')
    return ip_address(bare), int(port)
