"""BTF, the type information in an object file, read into plain values (Documentation/bpf/btf.rst)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

from lab.errors import LoadError

MAGIC = 0xEB9F
(
    INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC,
    FLOAT, DECL_TAG, TYPE_TAG, ENUM64,
) = range(1, 20)  # fmt: skip
MODIFIERS = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
INT_SIGNED, INT_CHAR, INT_BOOL = 1, 2, 4
DEEPEST_CHAIN = 64
"""Typedefs of typedefs, const and volatile in a row; a longer chain is a loop in a corrupt file."""


@dataclass(frozen=True)
class Member:
    """A member of a struct or union; offset and size in bits, `bits` 0 where it is no bit-field."""

    name: str
    type_id: int
    offset_bits: int
    bits: int = 0


@dataclass(frozen=True)
class Variable:
    """A variable in a section of data (DATASEC): offset and size in bytes."""

    name: str
    type_id: int
    offset: int
    size: int


@dataclass(frozen=True)
class Type:
    """One BTF type; which fields mean something depends on `kind`."""

    id: int
    kind: int
    name: str
    size: int = 0
    """Bytes, of INT, STRUCT, UNION, ENUM, FLOAT, DATASEC."""
    target: int = 0
    """The type id that a PTR, TYPEDEF, VAR, ... refers to, or an ARRAY's element."""
    count: int = 0
    """Elements of an ARRAY."""
    encoding: int = 0
    """INT_SIGNED, INT_CHAR, INT_BOOL."""
    members: tuple[Member, ...] = ()
    enumerators: tuple[tuple[str, int], ...] = ()
    variables: tuple[Variable, ...] = ()


class Btf:
    """All types of one object, by id; id 0 is void."""

    def __init__(self, types: tuple[Type, ...]) -> None:
        self.types = types

    def __getitem__(self, type_id: int) -> Type:
        if not 0 <= type_id < len(self.types):
            raise LoadError(
                f"read BTF: type {type_id} of {len(self.types) - 1} is referred to", mend="compile it again"
            )
        return self.types[type_id]

    def plain(self, type_id: int) -> Type:
        """The type behind typedefs, const and volatile."""
        found = self[type_id]
        for _ in range(DEEPEST_CHAIN):
            if found.kind not in MODIFIERS:
                return found
            found = self[found.target]
        raise LoadError(f"read BTF: type {type_id} refers to itself", mend="compile it again")

    def typedef(self, type_id: int) -> str:
        """The first typedef's name on the way to the plain type ("__be16"), or ""."""
        found = self[type_id]
        for _ in range(DEEPEST_CHAIN):
            if found.kind == TYPEDEF:
                return found.name
            if found.kind not in MODIFIERS:
                return ""
            found = self[found.target]
        return ""

    @cached_property
    def sections(self) -> dict[str, Type]:
        """The DATASECs by name: ".maps", ".rodata", ".bss", ..."""
        return {each.name: each for each in self.types if each.kind == DATASEC}

    @cached_property
    def enumerators(self) -> dict[str, int]:
        """Every enumerator's number by its name; C has one name space for all of a file's."""
        return {name: value for each in self.types for name, value in each.enumerators}

    def size_of(self, type_id: int) -> int:
        """Bytes, as sizeof() gives."""
        elements = 1
        for _ in range(DEEPEST_CHAIN):
            plain = self.plain(type_id)
            if plain.kind == PTR:
                return elements * 8
            if plain.kind != ARRAY:
                return elements * plain.size
            elements, type_id = elements * plain.count, plain.target
        raise LoadError(f"read BTF: type {type_id} refers to itself", mend="compile it again")


def read_btf(raw: bytes) -> Btf:
    """The types in a .BTF section; LoadError when it is not one."""
    try:
        return _Reader(raw).read()
    except (struct.error, IndexError, ValueError, KeyError) as error:
        raise LoadError(f"read BTF: the section is damaged ({error})", mend="compile the object again") from error


class _Reader:
    def __init__(self, raw: bytes) -> None:
        magic, _version, _flags, header, type_at, type_bytes, string_at, string_bytes = struct.unpack_from(
            "<HBBIIIII", raw
        )
        if magic != MAGIC:
            raise LoadError(f"read BTF: magic {magic:#06x} is not {MAGIC:#06x}", mend="only little-endian BTF is read")
        self.raw = raw[header + type_at : header + type_at + type_bytes]
        self.strings = raw[header + string_at : header + string_at + string_bytes]

    def read(self) -> Btf:
        types = [Type(0, 0, "void")]
        at = 0
        while at < len(self.raw):
            name_at, info, last = struct.unpack_from("<III", self.raw, at)
            kind, count, flag = info >> 24 & 31, info & 0xFFFF, info >> 31
            extra = at + 12
            build = getattr(self, f"_kind_{kind}", None)
            if build is None:
                raise LoadError(f"read BTF: kind {kind} of type {len(types)} is unknown", mend="update bpflab")
            found, length = build(Type(len(types), kind, self._text(name_at), last, last), extra, count, flag)
            types.append(found)
            at = extra + length
        return Btf(tuple(types))

    def _text(self, at: int) -> str:
        return self.strings[at : self.strings.index(b"\0", at)].decode() if self.strings else ""

    def _kind_1(self, base: Type, at: int, _count: int, _flag: int) -> tuple[Type, int]:
        (about,) = struct.unpack_from("<I", self.raw, at)
        return Type(base.id, INT, base.name, base.size, encoding=about >> 24 & 15), 4

    def _reference(self, base: Type, _at: int, _count: int, _flag: int) -> tuple[Type, int]:
        return Type(base.id, base.kind, base.name, target=base.target), 0

    _kind_2 = _kind_8 = _kind_9 = _kind_10 = _kind_11 = _kind_12 = _kind_18 = _reference

    def _kind_7(self, base: Type, _at: int, _count: int, _flag: int) -> tuple[Type, int]:
        return Type(base.id, FWD, base.name), 0

    def _kind_3(self, base: Type, at: int, _count: int, _flag: int) -> tuple[Type, int]:
        element, _index, count = struct.unpack_from("<III", self.raw, at)
        return Type(base.id, ARRAY, base.name, target=element, count=count), 12

    def _composite(self, base: Type, at: int, count: int, flag: int) -> tuple[Type, int]:
        members = []
        for name_at, type_id, where in struct.iter_unpack("<III", self.raw[at : at + 12 * count]):
            offset, bits = (where & 0xFFFFFF, where >> 24) if flag else (where, 0)
            members.append(Member(self._text(name_at), type_id, offset, bits))
        return Type(base.id, base.kind, base.name, base.size, members=tuple(members)), 12 * count

    _kind_4 = _kind_5 = _composite

    def _kind_6(self, base: Type, at: int, count: int, flag: int) -> tuple[Type, int]:
        pairs = struct.iter_unpack("<Ii" if flag else "<II", self.raw[at : at + 8 * count])
        names = tuple((self._text(name_at), value) for name_at, value in pairs)
        signed = any(value >= 1 << 31 for _, value in names)
        if signed and not flag:  # clang before 15 never set the flag: a negative member tells
            names = tuple((name, value - (1 << 32) if value >= 1 << 31 else value) for name, value in names)
        encoding = INT_SIGNED if flag or signed else 0
        return Type(base.id, ENUM, base.name, base.size, encoding=encoding, enumerators=names), 8 * count

    def _kind_19(self, base: Type, at: int, count: int, flag: int) -> tuple[Type, int]:
        triples = struct.iter_unpack("<III", self.raw[at : at + 12 * count])
        names = tuple((self._text(name_at), low | high << 32) for name_at, low, high in triples)
        if flag:
            names = tuple((name, value - (1 << 64) if value >= 1 << 63 else value) for name, value in names)
        return Type(base.id, ENUM, base.name, base.size, encoding=int(flag), enumerators=names), 12 * count

    def _kind_13(self, base: Type, _at: int, count: int, _flag: int) -> tuple[Type, int]:
        return Type(base.id, FUNC_PROTO, base.name, target=base.target), 8 * count

    def _kind_14(self, base: Type, _at: int, _count: int, _flag: int) -> tuple[Type, int]:
        return Type(base.id, VAR, base.name, target=base.target), 4

    def _kind_15(self, base: Type, at: int, count: int, _flag: int) -> tuple[Type, int]:
        rows = list(struct.iter_unpack("<III", self.raw[at : at + 12 * count]))
        return Type(base.id, DATASEC, base.name, base.size, variables=tuple(Variable("", *row) for row in rows)), (
            12 * count
        )

    def _kind_16(self, base: Type, _at: int, _count: int, _flag: int) -> tuple[Type, int]:
        return Type(base.id, FLOAT, base.name, base.size), 0

    def _kind_17(self, base: Type, _at: int, _count: int, _flag: int) -> tuple[Type, int]:
        return Type(base.id, DECL_TAG, base.name, target=base.target), 4


def variables_of(btf: Btf, section: str) -> dict[str, Variable]:
    """The variables of a data section by name, their types those of the variables and not of the VAR entries."""
    found = btf.sections.get(section)
    if found is None:
        return {}
    named = {}
    for each in found.variables:
        entry = btf[each.type_id]
        named[entry.name] = Variable(entry.name, entry.target, each.offset, each.size or btf.size_of(entry.target))
    return named
