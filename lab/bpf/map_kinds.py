"""Which Python class a map of a kernel type is, and what BTF says of its keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lab.bpf import btf
from lab.bpf.event_map import EventMap
from lab.bpf.layout import Layout
from lab.bpf.layout_of import layout_of, raw_layout
from lab.bpf.map import Facts, Map, Table
from lab.bpf.map_of_maps import OUTER_TYPES, Inner, MapOfMaps
from lab.bpf.names import map_type
from lab.bpf.object_file import MapTypes
from lab.bpf.per_cpu_map import PER_CPU, PerCpuMap
from lab.bpf.queue_map import BloomFilter, QueueMap
from lab.bpf.reference_map import REFERENCE_TYPES, ReferenceMap
from lab.kernel import bpf

EVENT_TYPES = ("ringbuf", "perf_event_array", "user_ringbuf")


def open_map(fd: int, name: str, types: btf.Btf | None, declared: MapTypes, btf_fd: int = -1) -> Map:
    """The map behind a descriptor, as its declaration in the object types it; `btf_fd`: the kernel's `types`."""
    kind, _, key_bytes, value_bytes, max_entries = bpf.map_facts(fd)
    facts = Facts(name, map_type(kind), key_bytes, value_bytes, max_entries)
    if facts.type in EVENT_TYPES:
        return EventMap(fd, facts, Structs(types))
    key = _layout(types, declared.key, key_bytes)
    if facts.type in OUTER_TYPES:
        return MapOfMaps(fd, facts, key, _inner(facts, types, declared.inner or MapTypes(), btf_fd), make_map)
    return make_map(fd, facts, key, _layout(types, declared.value, value_bytes))


def make_map(fd: int, facts: Facts, key: Layout, value: Layout) -> Map:
    """The class for a map type."""
    kind: type[Map] = Table
    if facts.type in PER_CPU:
        kind = PerCpuMap
    elif facts.type in ("queue", "stack"):
        kind = QueueMap
    elif facts.type == "bloom_filter":
        kind = BloomFilter
    elif facts.type in REFERENCE_TYPES:
        kind = ReferenceMap
    elif facts.type in ("arena", "struct_ops"):
        kind = Map
    return kind(fd, facts, key, value)


def _inner(outer: Facts, types: btf.Btf | None, declared: MapTypes, btf_fd: int) -> Inner:
    key = _layout(types, declared.key, declared.key_bytes)
    value = _layout(types, declared.value, declared.value_bytes)
    facts = Facts(f"{outer.name} (inner)", declared.type or "unspec", key.size, value.size, declared.max_entries)
    known = btf_fd >= 0 and declared.value != 0
    return Inner(facts, declared.flags, key, value, (btf_fd, declared.key, declared.value) if known else (0, 0, 0))


def _layout(types: btf.Btf | None, type_id: int, size: int) -> Layout:
    """By BTF where it says the size that the kernel says; a few map types keep other things than they declare."""
    if type_id and types is not None:
        found = layout_of(types, type_id)
        if found.size == size or not size:
            return found
    return raw_layout(size)


class Structs(Mapping[str, Layout]):
    """The layouts of an object's structs by name, made when asked for."""

    def __init__(self, types: btf.Btf | None) -> None:
        self._types = types
        every = types.types if types else ()
        self._ids = {each.name: each.id for each in every if each.kind in (btf.STRUCT, btf.UNION) and each.name}

    def __getitem__(self, name: str) -> Layout:
        if self._types is None:
            raise KeyError(name)
        return layout_of(self._types, self._ids[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)
