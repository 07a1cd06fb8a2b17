"""A .bpf.o that was read and not loaded: its sections, its types, the maps that it declares."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from lab.bpf.btf import ARRAY, PTR, STRUCT, Btf, Type, Variable, read_btf, variables_of
from lab.bpf.names import map_type
from lab.errors import LoadError

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
EM_BPF = 247
SHT_NOBITS = 8
MEND = "compile it with: clang -O2 -g -target bpf -c x.bpf.c -o x.bpf.o"


@dataclass(frozen=True)
class MapTypes:
    """How a map is declared: BTF type ids of key and value (0: not typed), sizes in bytes, and an inner map's."""

    key: int = 0
    value: int = 0
    key_bytes: int = 0
    value_bytes: int = 0
    type: str = ""
    max_entries: int = 0
    flags: int = 0
    inner: MapTypes | None = None


class ObjectFile:
    """A BPF ELF object; LoadError, naming the file, when it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.raw = path.read_bytes()
        except OSError as error:
            raise LoadError(f"read {path}: {error.strerror}", mend="look at the path") from error
        try:
            self._sections = list(self._read_sections())
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise self._damaged(str(error)) from error
        self.sections = dict(self._sections)

    def _read_sections(self) -> Iterator[tuple[str, bytes]]:
        if self.raw[:4] != b"\x7fELF":
            raise LoadError(f"read {self.path}: not an ELF file", mend=MEND)
        header = ELF_HEADER.unpack_from(self.raw)
        machine, table_at, entry_bytes, count, names_at = header[2], header[6], header[11], header[12], header[13]
        if self.raw[4:6] != b"\x02\x01" or machine != EM_BPF:
            raise LoadError(f"read {self.path}: not a little-endian 64-bit BPF object (machine {machine})", mend=MEND)
        headers = [SECTION_HEADER.unpack_from(self.raw, table_at + index * entry_bytes) for index in range(count)]
        names = self._content(headers[names_at])
        for each in headers:
            yield names[each[0] : names.index(b"\0", each[0])].decode(), self._content(each)

    def _content(self, header: tuple[int, ...]) -> bytes:
        kind, at, length = header[1], header[4], header[5]
        if kind == SHT_NOBITS:
            return b""
        if at + length > len(self.raw):
            raise self._damaged(f"a section ends {at + length - len(self.raw)} bytes behind the file")
        return self.raw[at : at + length]

    def _damaged(self, why: str) -> LoadError:
        return LoadError(f"read {self.path}: a damaged ELF file ({why})", mend=MEND)

    @cached_property
    def btf(self) -> Btf | None:
        """The object's types; None when it was compiled without -g."""
        raw = self.sections.get(".BTF")
        return read_btf(raw) if raw else None

    @cached_property
    def maps(self) -> dict[str, MapTypes]:
        """The maps that are defined in SEC(".maps"), with their types."""
        if self.btf is None:
            return {}
        return {name: _declared(self.btf, each.type_id) for name, each in variables_of(self.btf, ".maps").items()}

    def variables(self, section: str) -> dict[str, Variable]:
        """The variables of a data section (".rodata", ".data", ".bss") by name, with their places in it.

        clang leaves the offsets in BTF to the loader: they stand in the symbol table.
        """
        if self.btf is None:
            return {}
        found = variables_of(self.btf, section)
        return {
            name: replace(each, offset=self._symbols[section, name])
            for name, each in found.items()
            if (section, name) in self._symbols
        }

    @cached_property
    def _symbols(self) -> dict[tuple[str, str], int]:
        """Section and name of each symbol to its offset in the section."""
        names, found = self.sections.get(".strtab", b""), {}
        try:
            for name_at, _info, _other, index, value, _size in SYMBOL.iter_unpack(self.sections.get(".symtab", b"")):
                if name_at and index < len(self._sections):
                    name = names[name_at : names.index(b"\0", name_at)].decode()
                    found[self._sections[index][0], name] = value
        except (struct.error, ValueError) as error:
            raise self._damaged(str(error)) from error
        return found


def _declared(types: Btf, type_id: int) -> MapTypes:
    """The members of a map's struct, as bpf_helpers.h writes them.

    __type(key, T) is a pointer to T, __uint(max_entries, N) one to int[N]; __array(values, struct {...}) is an array.
    """
    members = {member.name: types.plain(member.type_id) for member in types.plain(type_id).members}
    key, value = (_pointed(members.get(name)) for name in ("key", "value"))
    values = members.get("values")
    return MapTypes(
        key=key,
        value=value,
        key_bytes=types.size_of(key) if key else _number(types, members.get("key_size")),
        value_bytes=types.size_of(value) if value else _number(types, members.get("value_size")),
        type=map_type(_number(types, members.get("type"))),
        max_entries=_number(types, members.get("max_entries")),
        flags=_number(types, members.get("map_flags")),
        inner=_inner(types, values) if values and values.kind == ARRAY else None,
    )


def _pointed(found: Type | None) -> int:
    return found.target if found and found.kind == PTR else 0


def _number(types: Btf, found: Type | None) -> int:
    return types.plain(found.target).count if found and found.kind == PTR else 0


def _inner(types: Btf, values: Type) -> MapTypes | None:
    """The inner map's declaration; a prog array's values are functions and have none."""
    pointer = types.plain(values.target)
    pointed = types.plain(pointer.target) if pointer.kind == PTR else pointer
    return _declared(types, pointed.id) if pointed.kind == STRUCT else None
