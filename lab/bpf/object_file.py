"""A .bpf.o that was read and not loaded: its sections, its types, its licence."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from lab.bpf.btf import ARRAY, PTR, STRUCT, Btf, Variable, read_btf, variables_of
from lab.bpf.map import TYPES
from lab.errors import LoadError

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
EM_BPF = 247
MEND = "compile it with: clang -O2 -g -target bpf -c x.bpf.c -o x.bpf.o"


@dataclass(frozen=True)
class MapTypes:
    """BTF type ids of a map's key and value (0: not typed), and of an inner map's definition."""

    key: int = 0
    value: int = 0
    inner: MapTypes | None = None
    type: str = ""
    max_entries: int = 0


class ObjectFile:
    """A BPF ELF object; LoadError, naming the file, when it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.raw = path.read_bytes()
        except OSError as error:
            raise LoadError(f"read {path}: {error.strerror}", mend="look at the path") from error
        try:
            self.sections = self._sections()
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise LoadError(f"read {path}: a damaged ELF file ({error})", mend=MEND) from error

    def _sections(self) -> dict[str, bytes]:
        if self.raw[:4] != b"\x7fELF":
            raise LoadError(f"read {self.path}: not an ELF file", mend=MEND)
        header = ELF_HEADER.unpack_from(self.raw)
        machine, table_at, entry_bytes, count, names_at = header[2], header[6], header[11], header[12], header[13]
        if self.raw[4:6] != b"\x02\x01" or machine != EM_BPF:
            raise LoadError(f"read {self.path}: not a little-endian 64-bit BPF object (machine {machine})", mend=MEND)
        headers = [SECTION_HEADER.unpack_from(self.raw, table_at + index * entry_bytes) for index in range(count)]
        names = self._content(headers[names_at])
        return {names[each[0] : names.index(b"\0", each[0])].decode(): self._content(each) for each in headers}

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
        """Section and name of each symbol to its offset in the section; ELF's Sym64."""
        names, sections = self.sections.get(".strtab", b""), list(self.sections)
        found = {}
        for name_at, _info, _other, index, value, _size in struct.iter_unpack("<IBBHQQ", self.sections[".symtab"]):
            if name_at and index < len(sections):
                found[sections[index], names[name_at : names.index(b"\0", name_at)].decode()] = value
        return found

    def _content(self, header: tuple[int, ...]) -> bytes:
        kind, at, length = header[1], header[4], header[5]
        return b"" if kind == 8 else self.raw[at : at + length]  # SHT_NOBITS has no bytes in the file

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
        return {name: _map_types(self.btf, each.type_id) for name, each in variables_of(self.btf, ".maps").items()}


def _map_types(btf: Btf, type_id: int) -> MapTypes:
    """__type(key, T) and __type(value, T) are members that point to T; __array(values, struct {...}) is an array."""
    found = {"key": 0, "value": 0}
    numbers = {"type": 0, "max_entries": 0}
    inner = None
    for member in btf.plain(type_id).members:
        plain = btf.plain(member.type_id)
        if member.name in found and plain.kind == PTR:
            found[member.name] = plain.target
        if member.name in numbers and plain.kind == PTR:  # __uint(name, n) is a pointer to int[n]
            numbers[member.name] = btf.plain(plain.target).count
        if member.name == "values" and plain.kind == ARRAY:
            pointed = btf.plain(btf.plain(plain.target).target)
            inner = _map_types(btf, pointed.id) if pointed.kind == STRUCT else None
    kind = TYPES[numbers["type"]] if numbers["type"] < len(TYPES) else ""
    return MapTypes(found["key"], found["value"], inner, kind, numbers["max_entries"])
