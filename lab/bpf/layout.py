"""BTF types as encoders and decoders of bytes: one generated expression a type, so that 100,000 entries take a blink.

A `Layout` knows its struct-module code, how many raw items that code unpacks to, and the Python expression that makes
the value of them. Expressions of members nest into their struct's, and one `lambda` decodes a whole entry.

The C type decides the byte order: `__be16`, `__be32` and `__be64` are converted, everything else is the machine's own.
"""

from __future__ import annotations

import enum
import itertools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from keyword import iskeyword
from operator import index
from typing import Any, Literal

from lab.bpf import btf
from lab.bpf.btf import Btf, Member, Type
from lab.bpf.record import Elements, Record, record_class
from lab.errors import MapError
from lab.model.action import Action

INTEGERS = {(1, 0): "B", (1, 1): "b", (2, 0): "H", (2, 1): "h", (4, 0): "I", (4, 1): "i", (8, 0): "Q", (8, 1): "q"}
WIRE_ORDER = ("__be16", "__be32", "__be64")
INLINE_ELEMENTS = 32
"""Arrays up to so many elements are unpacked in place; longer ones by a decoder of their own."""

MAPPED = bytes(10) + b"\xff\xff"
_ADDRESSES = IPv4Address | IPv6Address


class Layout:
    """The base: bytes as they are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.code = f"{size}s"
        self.items = 1

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """Python that makes the value of the raw items; objects that it needs go into `names`."""
        return raw[0]

    def encode(self, value: Any) -> bytes:
        """The bytes of a value; MapError when it does not fit."""
        if isinstance(value, str | _ADDRESSES):
            return _packed_address(value, self.size)
        if not isinstance(value, bytes | bytearray | memoryview | tuple | list):
            raise MapError(f"{value!r} is no {self.description}", mend=f'bytes({self.size}), or bytes.fromhex("...")')
        try:
            raw = bytes(value)
        except (TypeError, ValueError):
            raise MapError(f"{value!r} is no {self.description}", mend="elements are 0 to 255") from None
        if len(raw) != self.size:
            raise MapError(f"{len(raw)} bytes do not fit into {self.size}")
        return raw

    @property
    def description(self) -> str:
        """For error messages: "16 bytes"."""
        return f"{self.size} bytes"

    @cached_property
    def _struct(self) -> struct.Struct:
        return struct.Struct("=" + self.code)

    @cached_property
    def _decoder(self) -> Callable[..., Any]:
        raw = [f"r{place}" for place in range(self.items)]
        names: dict[str, Any] = {}
        expression = self.expression(raw, names)
        return eval(f"lambda {', '.join(raw)}: {expression}", names)  # type: ignore[no-any-return]

    def decode(self, raw: bytes) -> Any:
        """The value of exactly `size` bytes."""
        return self._decoder(*self._struct.unpack(raw))

    def decode_many(self, raw: bytes) -> list[Any]:
        """The values of a whole number of entries, back to back."""
        if not self.size:
            return []
        return list(itertools.starmap(self._decoder, self._struct.iter_unpack(raw)))

    def encode_many(self, values: Iterable[Any]) -> bytes:
        """The bytes of all values, back to back."""
        return b"".join(map(self.encode, values))

    def packing(self, value: str, names: dict[str, Any]) -> tuple[str, str]:
        """The code and the Python expression of a struct.pack that encodes `value` as a member of a struct."""
        encoder = f"encode_{len(names)}"
        names[encoder] = self.encode
        return f"{self.size}s", f"{encoder}({value})"


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
        if isinstance(value, str | _ADDRESSES):
            value = self._meaning(value)
        try:
            return index(value).to_bytes(self.size, self.order, signed=self.signed)
        except OverflowError:
            raise MapError(f"{value} does not fit {self.description}") from None
        except TypeError:
            raise MapError(f"{value!r} is no number for {self.description}") from None

    def _meaning(self, value: str | _ADDRESSES) -> int:
        if self.wire and self.size == 4:
            return int.from_bytes(_packed_address(value, 4), "big")
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
        if isinstance(value, str | _ADDRESSES):
            return _packed_address(value, self.size)
        if not isinstance(value, Sequence):
            raise MapError(f"{value!r} is no array of {self.count}")
        elements = list(value)
        if len(elements) != self.count:
            raise MapError(f"{len(elements)} elements do not fit an array of {self.count}")
        return b"".join(map(self.element.encode, elements))

    @property
    def description(self) -> str:
        """The element's type and the count."""
        return f"{self.element.description}[{self.count}]"


class Struct(Layout):
    """A struct or a union. Plain structs unpack in one go; one with bit-fields or unions is taken member by member."""

    def __init__(self, found: Type, members: Sequence[tuple[Member, Layout]]) -> None:
        super().__init__(found.size)
        self.name = found.name
        self.union = found.kind == btf.UNION
        self.members = [each for each in members if each[0].bits == 0 or each[0].name]
        self.plain = not self.union and all(_is_plain(member, layout) for member, layout in self.members)
        self.type = record_class(found.name, tuple(_flat_names(self.members)), self)
        if self.plain:
            self._lay_out()
            self._from_values, self._from_names = self._packers()

    def _lay_out(self) -> None:
        at, codes, items = 0, [], 0
        for member, layout in self.members:
            start = member.offset_bits // 8
            codes.append(f"{start - at}x" if start > at else "")
            codes.append(layout.code)
            at, items = start + layout.size, items + layout.items
        self.code = "".join(codes) + (f"{self.size - at}x" if self.size > at else "")
        self.items = items

    def _packers(self) -> tuple[Callable[..., bytes], Callable[..., bytes] | None]:
        """What encodes a plain struct from its values in order, and by their names where Python allows these."""
        names: dict[str, Any] = {}
        at, codes, parts = 0, "=", []
        for place, (member, layout) in enumerate(self.members):
            code, part = layout.packing(f"v{place}", names)
            start = member.offset_bits // 8
            codes += f"{start - at}x" * (start > at) + code
            parts.append(part)
            at = start + layout.size
        names["pack"] = struct.Struct(codes + f"{self.size - at}x" * (self.size > at)).pack
        values = ", ".join(f"v{place}" for place in range(len(self.members)))
        from_values = eval(f"lambda {values}: pack({', '.join(parts)})", names)
        fields = [member.name for member, _ in self.members]
        if not all(name.isidentifier() and not iskeyword(name) for name in fields):
            return from_values, None
        names["from_values"] = from_values
        return from_values, eval(f"lambda {', '.join(fields)}: from_values({', '.join(fields)})", names)

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """tuple.__new__(class, (members)), which is twice as fast as the class itself."""
        if not self.plain:
            slow = f"struct_{len(names)}"
            names[slow] = self._member_by_member
            return f"{slow}({raw[0]})"
        parts, at = [], 0
        for _, layout in self.members:
            parts.append(layout.expression(raw[at : at + layout.items], names))
            at += layout.items
        kind = f"record_{len(names)}"
        names[kind], names["new"] = self.type, tuple.__new__
        return f"new({kind}, ({''.join(part + ', ' for part in parts)}))"

    def _member_by_member(self, raw: bytes) -> Record:
        values: list[Any] = []
        for member, layout in self.members:
            value = _bits(raw, member, layout) if member.bits else layout.decode(_slice(raw, member, layout))
            values.extend(value) if not member.name else values.append(value)
        return self.type(values)

    def encode(self, value: Any) -> bytes:
        """A dict, a record, a sequence in the fields' order; a lone value for a struct of one member.

        In a dict, members that are left out are zero; of a union give one. What fits at once is packed at once;
        everything else takes the slow way, which converts, or says which field does not fit.
        """
        if self.plain:
            with suppress(TypeError, AttributeError, OverflowError, struct.error, MapError):
                if isinstance(value, tuple | list):
                    return self._from_values(*value)
                if self._from_names is not None and type(value) is dict:
                    return self._from_names(**value)
        return self._encode_slowly(value)

    def _encode_slowly(self, value: Any) -> bytes:
        if isinstance(value, str | _ADDRESSES | IPv4Network | IPv6Network):
            return self._encode_address(value)
        if isinstance(value, Record):
            return self._encode_union(value) if self.union else self._encode_fields(dict(value.named()))
        if isinstance(value, Mapping):
            return self._encode_fields(value)
        if isinstance(value, bytes | bytearray) and len(value) == self.size:
            return bytes(value)
        if isinstance(value, Sequence):
            return self._encode_fields(dict(zip(self._names_for(value), value, strict=True)))
        if len(self.type.fields) == 1:
            return self._encode_fields({self.type.fields[0]: value})
        raise MapError(f"{value!r} is no {self.description}", mend=f"a dict of {', '.join(self.type.fields)}")

    def _names_for(self, value: Sequence[Any]) -> Sequence[str]:
        if len(value) == len(self.type.fields):
            return self.type.fields
        raise MapError(
            f"{len(value)} values for the {len(self.type.fields)} fields of {self.description}",
            mend=f"its fields are {', '.join(self.type.fields)}",
        )

    def _encode_fields(self, given: Mapping[str, Any]) -> bytes:
        unknown = set(given) - set(self.type.fields)
        if unknown:
            raise MapError(
                f"{self.description} has no field {', '.join(sorted(map(repr, unknown)))}",
                mend=f"its fields are {', '.join(self.type.fields)}",
            )
        room = bytearray(self.size)
        for member, layout in self.members:
            names = [member.name] if member.name else [each for each in layout.type.fields if each in given]  # type: ignore[attr-defined]
            if not any(each in given for each in names):
                continue
            value = given[member.name] if member.name else {each: given[each] for each in names}
            try:
                _place(room, member, layout, value)
            except MapError as error:
                what = f"{member.name}: {error.what}" if member.name else error.what
                raise MapError(what, kernel=error.kernel, mend=error.mend) from None
        return bytes(room)

    def _encode_union(self, value: Record) -> bytes:
        """A decoded union holds every view of the same bytes: the widest is all of them."""
        member, layout = max(self.members, key=lambda each: each[1].size)
        if not member.name:
            return layout.encode({name: each for name, each in value.named() if name in layout.type.fields})  # type: ignore[attr-defined]
        return layout.encode(dict(value.named())[member.name]).ljust(self.size, b"\0")

    def _encode_address(self, value: Any) -> bytes:
        """An LPM trie's key from "10.0.0.0/8"; an address into a union or a struct that holds just that."""
        first, *rest = self.members
        if first[0].name == "prefixlen" and first[1].size == 4 and not self.union:
            network = value if isinstance(value, IPv4Network | IPv6Network) else _parsed(ip_network, value)
            width = self.size - 4
            mapped = 96 if width == 16 and network.version == 4 else 0
            return first[1].encode(network.prefixlen + mapped) + _packed_address(network.network_address, width)
        if isinstance(value, IPv4Network | IPv6Network):
            raise MapError(f"{value} is a prefix, and {self.description} has no prefixlen")
        address = _parsed(ip_address, value) if isinstance(value, str) else value
        exact = {layout.size for _, layout in self.members} if self.union else {self.size if not rest else 0}
        if len(address.packed) not in exact:
            raise MapError(f"the address {address} does not fit {self.description}")
        return bytes(address.packed).ljust(self.size, b"\0")

    @property
    def description(self) -> str:
        """ "struct flow" or "union"."""
        return f"{'union' if self.union else 'struct'} {self.name}".strip()


def layout_of(types: Btf, type_id: int) -> Layout:
    """The layout of a BTF type; typedefs that mean a byte order are heeded on the way."""
    return _layout(types, type_id, 0)


def raw_layout(size: int) -> Layout:
    """Of a key or value without BTF: an unsigned integer where the size allows it, else bytes."""
    return Integer(f"{size} bytes", size) if size in (1, 2, 4, 8) else Layout(size)


def _layout(types: Btf, type_id: int, depth: int) -> Layout:
    if depth > btf.DEEPEST_CHAIN:
        raise MapError(f"type {type_id} holds itself")
    plain = types.plain(type_id)
    typedef = types.typedef(type_id)
    if plain.kind == btf.INT:
        return _integer(types, plain, typedef)
    if plain.kind in (btf.ENUM, btf.ENUM64):
        return Enumeration(plain)
    if plain.kind == btf.FLOAT:
        return Float(plain.size) if plain.size in (4, 8) else Layout(plain.size)
    if plain.kind == btf.PTR:
        return Integer("pointer", 8)
    if plain.kind == btf.ARRAY:
        return _array(types, plain, depth)
    if plain.kind in (btf.STRUCT, btf.UNION):
        if plain.name in ("in_addr", "in6_addr"):
            return Address(plain.size)
        return Struct(plain, [(member, _layout(types, member.type_id, depth + 1)) for member in plain.members])
    return Layout(plain.size)


def _integer(types: Btf, plain: Type, typedef: str) -> Layout:
    if plain.encoding & btf.INT_BOOL:
        return Boolean()
    signed = bool(plain.encoding & btf.INT_SIGNED)
    return Integer(typedef or plain.name, plain.size, signed=signed, wire=typedef in WIRE_ORDER, types=types)


def _array(types: Btf, plain: Type, depth: int) -> Layout:
    element = types.plain(plain.target)
    if element.kind == btf.INT and element.size == 1 and not element.encoding & btf.INT_BOOL:
        is_text = element.name == "char" and types.typedef(plain.target) == ""
        return Text(plain.count) if is_text else Layout(plain.count)
    return Array(_layout(types, plain.target, depth + 1), plain.count)


def _is_plain(member: Member, layout: Layout) -> bool:
    return bool(member.name) and not member.bits


def _flat_names(members: Sequence[tuple[Member, Layout]]) -> list[str]:
    """Field names, those of anonymous members among their parent's, as in C."""
    names: list[str] = []
    for member, layout in members:
        if member.name:
            names.append(member.name)
        elif isinstance(layout, Struct):
            names.extend(layout.type.fields)
    return names


def _slice(raw: bytes, member: Member, layout: Layout) -> bytes:
    start = member.offset_bits // 8
    return raw[start : start + layout.size]


def _bits(raw: bytes, member: Member, layout: Layout) -> Any:
    number = int.from_bytes(raw, "little") >> member.offset_bits & ((1 << member.bits) - 1)
    if isinstance(layout, Integer) and layout.signed and number >> member.bits - 1:
        number -= 1 << member.bits
    if isinstance(layout, Enumeration | Boolean):
        return layout.decode(number.to_bytes(layout.size, "little"))
    return number


def _place(room: bytearray, member: Member, layout: Layout, value: Any) -> None:
    if not member.bits:
        start = member.offset_bits // 8
        room[start : start + layout.size] = layout.encode(value)
        return
    number = int.from_bytes(layout.encode(value), "little") & ((1 << 8 * layout.size) - 1)
    signed = isinstance(layout, Integer) and layout.signed
    if not -(1 << member.bits - 1) * signed <= int(value) < 1 << member.bits - signed:
        raise MapError(f"{value} does not fit {member.bits} bits")
    whole = int.from_bytes(room, "little") | (number & ((1 << member.bits) - 1)) << member.offset_bits
    room[:] = whole.to_bytes(len(room), "little")


def _packed_address(value: Any, size: int) -> bytes:
    """An address in wire order; IPv4 in 16 bytes is ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), and 6 bytes are a MAC."""
    if size == 6 and isinstance(value, str):
        return _packed_mac(value)
    address = _parsed(ip_address, value) if isinstance(value, str) else value
    if size == 16 and address.version == 4:
        return MAPPED + bytes(address.packed)
    if len(address.packed) != size:
        raise MapError(f"the address {address} takes {len(address.packed)} bytes and not {size}")
    return bytes(address.packed)


def _packed_mac(text: str) -> bytes:
    try:
        (raw,) = (bytes.fromhex(text.replace(":", "").replace("-", "")),)
    except ValueError:
        raw = b""
    if len(raw) != 6:
        raise MapError(f"{text!r} is no MAC address", mend='like "02:00:00:00:00:01"')
    return raw


def _parsed(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise MapError(f"{text!r} is no address ({error})") from None


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")
