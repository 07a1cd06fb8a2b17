"""The layout of a BTF type."""

from __future__ import annotations

from lab.bpf import btf
from lab.bpf.btf import Btf, Type
from lab.bpf.layout import Layout
from lab.bpf.scalar_layout import Address, Array, Boolean, Enumeration, Float, Integer, Text
from lab.bpf.struct_layout import Struct
from lab.errors import MapError

WIRE_ORDER = ("__be16", "__be32", "__be64")


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
