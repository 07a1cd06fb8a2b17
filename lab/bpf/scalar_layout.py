"""The layouts of everything but structs: numbers, enums, text, addresses, and arrays of any element.

The C type decides the byte order: `__be16`, `__be32` and `__be64` are converted, everything else is the machine's own.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from operator import index
from typing import Any, Literal

from lab.bpf import btf
from lab.bpf.addresses import ADDRESSES, packed
from lab.bpf.btf import Btf, Type
from lab.bpf.layout import Layout
from lab.bpf.record import Elements
from lab.errors import MapError
from lab.model.action import Action

INTEGERS = {(1, 0): "B", (1, 1): "b", (2, 0): "H", (2, 1): "h", (4, 0): "I", (4, 1): "i", (8, 0): "Q", (8, 1): "q"}
INLINE_ELEMENTS = 32
"""Arrays up to so many elements are unpacked in place; longer ones by a decoder of their own."""


class Integer(Layout):
    """An integer in the machine's byte order, or in wire order where the type says so."""

    def __init__(
        self, name: str, size: int, *, signed: bool = False, wire: bool = False, types: Btf | None = None
    ) -> None:
        super().__init__(size)
        self.name, self.signed, self.wire, self.types = name, signed, wire, types
        if (size, int(signed)) in INTEGERS and not wire:
            self.code = INTEGERS[size, int(signed)]

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """The item itself, or from_bytes for wire order and 128 bits."""
        if self.code[-1] != "s":
            return raw[0]
        names["from_bytes"] = int.from_bytes
        sign = ", signed=True" if self.signed else ""
        return f"from_bytes({raw[0]}, {self.order!r}{sign})"

    @property
    def order(self) -> Literal["big", "little"]:
        """Byte order, as int.to_bytes wants it."""
        return "big" if self.wire else "little"

    def packing(self, value: str, names: dict[str, Any]) -> tuple[str, str]:
        """The number itself where struct.pack knows its type and checks its range; wire order by to_bytes."""
        if self.code[-1] != "s":
            return self.code, value
        return (self.code, f"{value}.to_bytes({self.size}, 'big')") if self.wire else super().packing(value, names)

    def decode_many(self, raw: bytes) -> list[Any]:
        """By one struct.unpack where the machine's order is the type's."""
        if self.code[-1] == "s":
            return super().decode_many(raw)
        return list(struct.unpack(f"={len(raw) // self.size}{self.code}", raw))

    def encode_many(self, values: Iterable[Any]) -> bytes:
        """By one struct.pack where all are plain numbers."""
        values = list(values)
        if self.code[-1] != "s":
            with suppress(struct.error):
                return struct.pack(f"={len(values)}{self.code}", *values)
        return super().encode_many(values)

    def encode(self, value: Any) -> bytes:
        """An int, or the name of one: an enumerator of the object's, or an XDP verdict. Addresses fit a __be32."""
        if isinstance(value, str | ADDRESSES):
            value = self._meaning(value)
        try:
            return index(value).to_bytes(self.size, self.order, signed=self.signed)
        except OverflowError:
            raise MapError(f"{value} does not fit {self.description}") from None
        except TypeError:
            raise MapError(f"{value!r} is no number for {self.description}") from None

    def _meaning(self, value: str | ADDRESSES) -> int:
        if self.wire and self.size == 4:
            return int.from_bytes(packed(value, 4), "big")
        if isinstance(value, str):
            number = self.types.enumerators.get(value) if self.types else None
            if number is None and value.startswith("XDP_") and value in Action.__members__:
                number = Action[value].number
            if number is not None:
                return number
        raise MapError(f"{value!r} is no number for {self.description}", mend="a number, or an enumerator's name")

    @property
    def description(self) -> str:
        """The C type and its range."""
        bits = 8 * self.size
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if self.signed else (0, (1 << bits) - 1)
        return f"{self.name} ({low} to {high})"


class Boolean(Layout):
    """A C bool."""

    def __init__(self) -> None:
        super().__init__(1)
        self.code = "?"

    def encode(self, value: Any) -> bytes:
        """True and False, 1 and 0."""
        if isinstance(value, str | float) or value not in (0, 1):
            raise MapError(f"{value!r} is neither True nor False")
        return bytes([bool(value)])


class Float(Layout):
    """A float or a double."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.code = {4: "f", 8: "d"}[size]

    def encode(self, value: Any) -> bytes:
        """Any number."""
        try:
            return struct.pack("=" + self.code, value)
        except (struct.error, OverflowError):
            raise MapError(f"{value!r} is no number for {self.description}") from None

    @property
    def description(self) -> str:
        """The C type."""
        return {4: "float", 8: "double"}[self.size]


class Enumeration(Layout):
    """An enum: its members by number; a number without a name stays an int."""

    def __init__(self, found: Type) -> None:
        super().__init__(found.size)
        signed = bool(found.encoding & btf.INT_SIGNED)
        self.signed = signed
        self.integer = Integer(f"enum {found.name}", found.size, signed=signed)
        self.code = self.integer.code
        self.type: type[enum.IntEnum] | None = None
        if found.enumerators:
            self.type = enum.IntEnum(found.name or "enum", dict(found.enumerators))  # type: ignore[misc]
        self._members = {int(each): each for each in self.type} if self.type else {}

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """A look-up in the table of members."""
        table = f"enum_{len(names)}"
        names[table] = self._members
        return f"{table}.get({raw[0]}, {raw[0]})"

    def encode(self, value: Any) -> bytes:
        """A number, a member, or a member's name."""
        if isinstance(value, str):
            value = self._named(value)
        return self.integer.encode(value)

    def _named(self, name: str) -> int:
        """The member of that name, or the only one whose name ends so: enum colour { COLOUR_RED } has "RED"."""
        members = self.type.__members__ if self.type else {}
        if name in members:
            return members[name]
        ends = [member for full, member in members.items() if full.endswith(f"_{name}")]
        if len(ends) != 1:
            raise MapError(f"{name!r} is no {self.integer.name}", mend=f"it has {', '.join(members)}")
        return ends[0]

    @property
    def description(self) -> str:
        """The enum's name."""
        return self.integer.name


class Text(Layout):
    """char[n]: a C string."""

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """What stands before the first NUL."""
        names["text"] = _text
        return f"text({raw[0]})"

    def encode(self, value: Any) -> bytes:
        """str or bytes, padded with NULs."""
        if not isinstance(value, str | bytes | bytearray):
            raise MapError(f"{value!r} is no text for char[{self.size}]")
        raw = value.encode() if isinstance(value, str) else bytes(value)
        if len(raw) > self.size:
            raise MapError(f"{value!r} does not fit char[{self.size}]")
        return raw.ljust(self.size, b"\0")


class Address(Layout):
    """struct in_addr and struct in6_addr."""

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """An object of the ipaddress module."""
        kind = IPv4Address if self.size == 4 else IPv6Address
        names[kind.__name__] = kind
        return f"{kind.__name__}({raw[0]})"

    def encode(self, value: Any) -> bytes:
        """Text, an ipaddress object, the bytes, or the number of an IPv4 address."""
        if isinstance(value, int) and not isinstance(value, bool) and self.size == 4:
            return Integer("an IPv4 address", 4, wire=True).encode(value)
        return super().encode(value)

    @property
    def description(self) -> str:
        """Which kind of address."""
        return f"IPv{4 if self.size == 4 else 6} address"


class Array(Layout):
    """T[n], as `Elements`; __u8[n] is plain bytes and has a `Layout` of its own."""

    def __init__(self, element: Layout, count: int) -> None:
        super().__init__(element.size * count)
        self.element, self.count = element, count
        self.inline = count <= INLINE_ELEMENTS
        if self.inline:
            self.code, self.items = element.code * count, element.items * count

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """A tuple display, or a decoder of the elements."""
        names["Elements"], names["new"] = Elements, tuple.__new__
        if not self.inline:
            decoder = f"array_{len(names)}"
            names[decoder] = self.element.decode_many
            return f"new(Elements, {decoder}({raw[0]}))"
        width = self.element.items
        each = [self.element.expression(raw[at : at + width], names) for at in range(0, len(raw), width)]
        return f"new(Elements, ({''.join(part + ', ' for part in each)}))"

    def encode(self, value: Any) -> bytes:
        """A sequence of as many elements; where an address fits, its text."""
        if isinstance(value, str | ADDRESSES):
            return packed(value, self.size)
        if not isinstance(value, Sequence):
            raise MapError(f"{value!r} is no array of {self.count}")
        elements = list(value)
        if len(elements) != self.count:
            raise MapError(f"{len(elements)} elements do not fit an array of {self.count}")
        return self.element.encode_many(elements)

    @property
    def description(self) -> str:
        """The element's type and the count."""
        return f"{self.element.description}[{self.count}]"


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")
