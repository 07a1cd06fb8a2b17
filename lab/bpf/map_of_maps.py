"""Maps of maps."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.bpf.layout import Layout
from lab.bpf.map import Facts, Map, Table
from lab.bpf.names import MAP_TYPES, map_type
from lab.errors import MapError
from lab.kernel import bpf

OUTER_TYPES = ("array_of_maps", "hash_of_maps")


@dataclass(frozen=True)
class Inner:
    """What the inner maps are: their facts and flags, the layouts of their keys and values."""

    facts: Facts
    flags: int
    key_layout: Layout
    value_layout: Layout
    types: tuple[int, int, int] = (0, 0, 0)
    """As in a MapSpec. Linux before 6.4 refuses an inner map without BTF where the declared one has it."""


class MapOfMaps(Table):
    """Maps as values. Replacing one is atomic: a packet sees the old map or the new one, whole.

    Assign a Map: one of another program, or `new_inner()`. What is read is a Map again.
    """

    def __init__(self, fd: int, facts: Facts, key_layout: Layout, inner: Inner, make: Callable[..., Map]) -> None:
        super().__init__(fd, facts, key_layout, Layout(4))
        self._inner = inner
        self._make = make
        self._opened: list[Map] = []
        self._read: dict[int, Map] = {}

    def new_inner(self, max_entries: int | None = None) -> Map:
        """A fresh map of the inner kind; it lives as long as this program, or as its place in here."""
        facts = self._inner.facts
        room = max_entries or facts.max_entries
        spec = bpf.MapSpec(
            MAP_TYPES.index(facts.type),
            facts.key_bytes,
            facts.value_bytes,
            room,
            self._inner.flags,
            "inner",
            self._inner.types,
        )
        try:
            return self._handed_out(bpf.map_create(spec))
        except OSError as error:
            raise self._refused("make an inner map of", None, error) from error

    def close(self) -> None:
        """Closes the inner maps that were handed out."""
        super().close()
        self._read.clear()
        while self._opened:
            inner = self._opened.pop()
            fd = inner.fd
            inner.close()
            os.close(fd)

    def _encode_value(self, value: Any) -> bytes:
        if not isinstance(value, Map):
            raise MapError(f"{value!r} is no map", mend=f'maps["{self.name}"].new_inner() makes one')
        if value.fd < 0:
            raise MapError(f"{value!r} cannot be put into a map")
        return value.fd.to_bytes(4, "little")

    def _encode_values(self, values: Sequence[Any]) -> bytes:
        return b"".join(map(self._encode_value, values))

    def _decode_values(self, raw: bytes) -> list[Any]:
        return [self._by_id(int.from_bytes(raw[at : at + 4], "little")) for at in range(0, len(raw), 4)]

    def _by_id(self, number: int) -> Map:
        """The kernel reads inner maps as ids; one that was seen before is the same object again."""
        if number not in self._read:
            self._read[number] = self._handed_out(bpf.fd_of_map(number))
        return self._read[number]

    def _handed_out(self, fd: int) -> Map:
        kind, _, key_bytes, value_bytes, max_entries = bpf.map_facts(fd)
        facts = Facts(f"{self.name} (inner)", map_type(kind), key_bytes, value_bytes, max_entries)
        found = self._make(fd, facts, self._inner.key_layout, self._inner.value_layout)
        self._opened.append(found)
        return found

    def _mend(self, verb: str, number: int) -> str:
        if verb == "write":
            facts = self._inner.facts
            return f"an inner map is a {facts.type}, key {facts.key_bytes} bytes, value {facts.value_bytes}, same flags"
        return super()._mend(verb, number)
