"""The layouts of structs and unions."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from keyword import iskeyword
from typing import Any

from lab.bpf import btf
from lab.bpf.addresses import ADDRESSES, packed, parsed
from lab.bpf.btf import Member, Type
from lab.bpf.layout import Layout
from lab.bpf.record import Record, record_class
from lab.bpf.scalar_layout import Boolean, Enumeration, Integer
from lab.errors import MapError


@dataclass
class _Slot:
    """A stretch of a struct's bytes that is unpacked together: one member, or a run of bit-fields."""

    start: int
    end: int
    members: list[tuple[Member, Layout]]

    @property
    def is_bits(self) -> bool:
        return bool(self.members[0][0].bits)

    @property
    def code(self) -> str:
        return f"{self.end - self.start}s" if self.is_bits else self.members[0][1].code

    @property
    def items(self) -> int:
        return 1 if self.is_bits else self.members[0][1].items

    def values(self, raw: Sequence[str], names: dict[str, Any]) -> list[str]:
        """The Python expressions of the members' values; those of an anonymous member are spread out."""
        if not self.is_bits:
            member, layout = self.members[0]
            value = layout.expression(raw, names)
            return [value if member.name else f"*{value}"]
        word = f"word_{len(names)}"
        names[word], names["from_bytes"] = None, int.from_bytes
        values = [_bits(member, layout, word, self.start, names) for member, layout in self.members]
        # The first that is evaluated reads the word; tuples are evaluated from left to right.
        return [values[0].replace(word, f"({word} := from_bytes({raw[0]}, 'little'))", 1), *values[1:]]


class Struct(Layout):
    """A struct or a union. A struct unpacks in one go, bit-fields and anonymous members included."""

    def __init__(self, found: Type, members: Sequence[tuple[Member, Layout]]) -> None:
        super().__init__(found.size)
        self.name = found.name
        self.union = found.kind == btf.UNION
        self.members = [each for each in members if each[0].bits == 0 or each[0].name]
        self.plain = not self.union and all(member.name and not member.bits for member, _ in self.members)
        """Neither bit-fields nor anonymous members: what one struct.pack can write."""
        self.type = record_class(found.name, tuple(_flat_names(self.members)), self)
        self._slots = [] if self.union else _slots(self.members)
        if not self.union:
            self._lay_out()
        if self.plain:
            self._from_values, self._from_names = self._packers()

    def _lay_out(self) -> None:
        at, codes, items = 0, "", 0
        for slot in self._slots:
            codes += f"{slot.start - at}x" * (slot.start > at) + slot.code
            at, items = slot.end, items + slot.items
        self.code = codes + f"{self.size - at}x" * (self.size > at)
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
        values, at = [], 0
        for slot in self._slots:
            values += slot.values(raw[at : at + slot.items], names)
            at += slot.items
        if self.union:
            values = [self._view(member, layout, raw[0], names) for member, layout in self.members]
        kind = f"record_{len(names)}"
        names[kind], names["new"] = self.type, tuple.__new__
        return f"new({kind}, ({''.join(value + ', ' for value in values)}))"

    def _view(self, member: Member, layout: Layout, raw: str, names: dict[str, Any]) -> str:
        """A union's bytes as one of its members sees them."""
        if member.bits:
            names["from_bytes"] = int.from_bytes
            return _bits(member, layout, f"from_bytes({raw}, 'little')", 0, names)
        decoder = f"view_{len(names)}"
        names[decoder] = layout.decode
        return f"{'' if member.name else '*'}{decoder}({raw}[:{layout.size}])"

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
        if isinstance(value, str | ADDRESSES | IPv4Network | IPv6Network):
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
            network = value if isinstance(value, IPv4Network | IPv6Network) else parsed(ip_network, value)
            width = self.size - 4
            mapped = 96 if width == 16 and network.version == 4 else 0
            return first[1].encode(network.prefixlen + mapped) + packed(network.network_address, width)
        if isinstance(value, IPv4Network | IPv6Network):
            raise MapError(f"{value} is a prefix, and {self.description} has no prefixlen")
        address = parsed(ip_address, value) if isinstance(value, str) else value
        exact = {layout.size for _, layout in self.members} if self.union else {self.size if not rest else 0}
        if len(address.packed) not in exact:
            raise MapError(f"the address {address} does not fit {self.description}")
        return bytes(address.packed).ljust(self.size, b"\0")

    @property
    def description(self) -> str:
        """ "struct flow" or "union"."""
        return f"{'union' if self.union else 'struct'} {self.name}".strip()


def _slots(members: Sequence[tuple[Member, Layout]]) -> list[_Slot]:
    """Bit-fields that lie in one another's bytes, or next to them, are read as one word."""
    slots: list[_Slot] = []
    for member, layout in members:
        start = member.offset_bits // 8
        end = (member.offset_bits + member.bits + 7) // 8 if member.bits else start + layout.size
        last = slots[-1] if slots else None
        if member.bits and last and last.is_bits and start <= last.end:
            last.end = max(last.end, end)
            last.members.append((member, layout))
        else:
            slots.append(_Slot(start, end, [(member, layout)]))
    return slots


def _bits(member: Member, layout: Layout, word: str, start: int, names: dict[str, Any]) -> str:
    """The expression of a bit-field in a little-endian word that begins at byte `start`."""
    shift = member.offset_bits - 8 * start
    number = f"{word} >> {shift} & {(1 << member.bits) - 1}"
    if isinstance(layout, Integer | Enumeration) and layout.signed:
        sign = 1 << member.bits - 1
        number = f"(({number} ^ {sign}) - {sign})"
    if isinstance(layout, Boolean):
        return f"({number} != 0)"
    if isinstance(layout, Enumeration):
        return layout.expression([f"({number})"], names)
    return number


def _flat_names(members: Sequence[tuple[Member, Layout]]) -> list[str]:
    """Field names, those of anonymous members among their parent's, as in C."""
    names: list[str] = []
    for member, layout in members:
        if member.name:
            names.append(member.name)
        elif isinstance(layout, Struct):
            names.extend(layout.type.fields)
    return names


def _place(room: bytearray, member: Member, layout: Layout, value: Any) -> None:
    """Writes one member into the struct's bytes; MapError when a bit-field is too narrow."""
    raw = layout.encode(value)
    if not member.bits:
        start = member.offset_bits // 8
        room[start : start + layout.size] = raw
        return
    signed = isinstance(layout, Integer | Enumeration) and layout.signed
    number = int.from_bytes(raw, "little", signed=signed)
    if not -(1 << member.bits - 1) * signed <= number < 1 << member.bits - signed:
        raise MapError(f"{value} does not fit {member.bits} bits")
    whole = int.from_bytes(room, "little") | (number & ((1 << member.bits) - 1)) << member.offset_bits
    room[:] = whole.to_bytes(len(room), "little")
