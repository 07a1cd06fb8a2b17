"""BPF maps as Python mappings, typed by BTF.

Values of a per-CPU map are lists with one entry a possible CPU and a `.total()`. Values that stand for something else
(a program, a socket, an interface, another map) are assigned as the thing itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.bpf.layout import Layout
from lab.bpf.record import PerCpu, add
from lab.errors import MapError, NeedsRoot
from lab.kernel import bpf, libbpf

if TYPE_CHECKING:
    from lab.bpf.matcher import Eventually

TYPES = (
    "unspec", "hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array", "stack_trace",
    "cgroup_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "array_of_maps", "hash_of_maps", "devmap", "sockmap",
    "cpumap", "xskmap", "sockhash", "cgroup_storage", "reuseport_sockarray", "percpu_cgroup_storage", "queue", "stack",
    "sk_storage", "devmap_hash", "struct_ops", "ringbuf", "inode_storage", "task_storage", "bloom_filter",
    "user_ringbuf", "cgrp_storage", "arena",
)  # fmt: skip
"""bpftool's names, by number (enum bpf_map_type)."""

NO_BATCH = (errno.EINVAL, errno.EOPNOTSUPP, 524)  # 524: ENOTSUPP, which the kernel lets slip out
BATCH = 65_536


@dataclass(frozen=True)
class Facts:
    """What the kernel knows of a map."""

    name: str
    type: str
    key_bytes: int
    value_bytes: int
    max_entries: int


class Map(MutableMapping[Any, Any]):
    """A map of keys and values. Closing is the program's business, whose descriptor it borrows."""

    def __init__(self, fd: int, facts: Facts, key_layout: Layout, value_layout: Layout) -> None:
        self.fd = fd
        self.facts = facts
        self.key_layout = key_layout
        self.value_layout = value_layout

    # What a kind of map does differently stands in these three.

    @property
    def _value_bytes(self) -> int:
        """Of one entry in a system call."""
        return self.facts.value_bytes

    def _encode_value(self, value: Any) -> bytes:
        return self.value_layout.encode(value)

    def _decode_values(self, raw: bytes) -> list[Any]:
        return self.value_layout.decode_many(raw)

    # One entry.

    def __getitem__(self, key: Any) -> Any:
        raw = self._call("read", key, bpf.map_lookup, self.fd, self._encode_key(key), self._value_bytes)
        if raw is None:
            raise KeyError(key)
        return self._decode_values(raw)[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call("write", key, bpf.map_update, self.fd, self._encode_key(key), self._encoded(key, value))

    def __delitem__(self, key: Any) -> None:
        try:
            bpf.map_delete(self.fd, self._encode_key(key))
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise KeyError(key) from None
            raise self._refused("delete", key, error) from error

    def __contains__(self, key: object) -> bool:
        raw = self._call("read", key, bpf.map_lookup, self.fd, self._encode_key(key), self._value_bytes)
        return raw is not None

    def insert(self, key: Any, value: Any) -> None:
        """Writes an entry that must not be there yet (BPF_NOEXIST): MapError "File exists" when it is."""
        self._call(
            "insert", key, bpf.map_update, self.fd, self._encode_key(key), self._encoded(key, value), bpf.BPF_NOEXIST
        )

    # All entries.

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, _ in self.items()])

    def __len__(self) -> int:
        if self.facts.type.endswith("array"):
            return self.facts.max_entries
        return sum(1 for _ in self._raw_keys())

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """All entries, by batches; entries that come and go meanwhile may or may not be among them."""
        found: list[tuple[Any, Any]] = []
        for keys, values in self._raw_entries():
            found.extend(zip(self.key_layout.decode_many(keys), self._decode_values(values), strict=True))
        return found

    def keys(self) -> list[Any]:  # type: ignore[override]
        """All keys."""
        return [key for key, _ in self.items()]

    def values(self) -> list[Any]:  # type: ignore[override]
        """All values, in the order of `keys`."""
        return [value for _, value in self.items()]

    def update(self, entries: Any = (), /, **named: Any) -> None:  # type: ignore[override]
        """Writes many entries, from a mapping or pairs, by batches of 65,536.

        MapError says how many were written when the kernel stops half-way (a full map: E2BIG).
        """
        pairs = [*(entries.items() if isinstance(entries, Mapping) else entries), *named.items()]
        keys = [self._encode_key(key) for key, _ in pairs]
        values = [self._encoded(key, value) for key, value in pairs]
        for start in range(0, len(pairs), BATCH):
            self._write_batch(keys[start : start + BATCH], values[start : start + BATCH], start)

    def clear(self) -> None:
        """Deletes all entries; of an array, sets all to zero."""
        if self.facts.type.endswith("array"):
            zero = bytes(self._value_bytes)
            keys = [number.to_bytes(4, "little") for number in range(self.facts.max_entries)]
            for start in range(0, len(keys), BATCH):
                chunk = keys[start : start + BATCH]
                self._write_batch(chunk, [zero] * len(chunk), start)
            return
        for key in list(self._raw_keys()):
            try:
                bpf.map_delete(self.fd, key)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise self._refused("clear", "", error) from error

    def total(self, key: Any = None) -> Any:
        """The value of a key, summed over the CPUs of a per-CPU map; without a key, over all entries too."""
        if key is not None:
            return _summed(self[key])
        values = [_summed(value) for value in self.values()]
        result = values[0] if values else 0
        for each in values[1:]:
            result = add(result, each)
        return result

    def eventually(self, within_s: float = 1.0) -> Eventually:
        """`map.eventually().has(key, value)`: assertions that are tried until they hold or the time is up."""
        from lab.bpf.matcher import Eventually

        return Eventually(self, within_s)

    @property
    def name(self) -> str:
        """As in the C source."""
        return self.facts.name

    def to_text(self, most: int = 40) -> str:
        """One line an entry."""
        entries = self.items()
        lines = [f"{key!r}: {value!r}" for key, value in entries[:most]]
        return "\n".join([*lines, f"... and {len(entries) - most} more"] if len(entries) > most else lines)

    def __repr__(self) -> str:
        return f"<Map {self.name} {self.facts.type} of {self.facts.max_entries:,}>"

    __hash__ = object.__hash__

    # Below here: bytes.

    def _encode_key(self, key: Any) -> bytes:
        try:
            return self.key_layout.encode(key)
        except MapError as error:
            raise MapError(f"{self.name}: key {key!r}: {error.what}", mend=error.mend) from None

    def _encoded(self, key: Any, value: Any) -> bytes:
        try:
            return self._encode_value(value)
        except MapError as error:
            raise MapError(f"{self.name}[{key!r}]: {error.what}", mend=error.mend) from None

    def _raw_keys(self) -> Iterator[bytes]:
        return bpf.map_keys(self.fd, self.facts.key_bytes)

    def _raw_entries(self) -> Iterator[tuple[bytes, bytes]]:
        try:
            chunk = max(1, min(8192, (1 << 24) // max(1, self._value_bytes)))
            for keys, values, _ in bpf.map_batches(self.fd, self.facts.key_bytes, self._value_bytes, chunk=chunk):
                yield keys, values
        except OSError as error:
            if error.errno not in NO_BATCH:
                raise self._refused("read all of", "", error) from error
            yield from self._one_by_one()

    def _one_by_one(self) -> Iterator[tuple[bytes, bytes]]:
        for key in self._raw_keys():
            value = self._call("read", key, bpf.map_lookup, self.fd, key, self._value_bytes)
            if value is not None:
                yield key, value

    def _write_batch(self, keys: list[bytes], values: list[bytes], before: int) -> None:
        if not keys:
            return
        try:
            bpf.map_update_batch(self.fd, b"".join(keys), b"".join(values), len(keys))
        except OSError as error:
            if error.errno not in NO_BATCH:
                raise self._refused(f"write {len(keys)} entries after the first {before} into", "", error) from error
            for key, value in zip(keys, values, strict=True):
                self._call("write", key, bpf.map_update, self.fd, key, value)

    def _call(self, verb: str, key: Any, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except OSError as error:
            raise self._refused(verb, key, error) from error

    def _refused(self, verb: str, key: Any, error: OSError) -> MapError | NeedsRoot:
        what = f"{verb} {self.name}{f'[{key!r}]' if key != '' else ''}"
        if error.errno == errno.EPERM and os.geteuid():
            return NeedsRoot(f"{what}: not permitted", mend="run as root, or with CAP_BPF")
        mends = {
            errno.E2BIG: f"it has room for {self.facts.max_entries:,} entries: raise max_entries, or delete some",
            errno.EBADF: "the program that owns the map is closed",
            errno.EEXIST: "assign instead of insert to replace it",
        }
        return MapError(what, kernel=libbpf.sentence(error.errno or 0), mend=mends.get(error.errno or 0, ""))


def _summed(value: Any) -> Any:
    return value.total() if isinstance(value, PerCpu) else value


class PerCpuMap(Map):
    """One value a possible CPU: read as a list, written as a list, or as one value that every CPU gets."""

    @property
    def _stride(self) -> int:
        return (self.facts.value_bytes + 7) & ~7

    @property
    def _value_bytes(self) -> int:
        return self._stride * libbpf.possible_cpus()

    def _encode_value(self, value: Any) -> bytes:
        cpus = libbpf.possible_cpus()
        each = value if isinstance(value, list) else [value] * cpus
        if len(each) != cpus:
            raise MapError(f"{len(each)} values for {cpus} possible CPUs")
        return b"".join(self.value_layout.encode(one).ljust(self._stride, b"\0") for one in each)

    def _decode_values(self, raw: bytes) -> list[Any]:
        size, stride, cpus = self.facts.value_bytes, self._stride, libbpf.possible_cpus()
        if size != stride:
            raw = b"".join(raw[at : at + size] for at in range(0, len(raw), stride))
        flat = self.value_layout.decode_many(raw)
        return [PerCpu(flat[at : at + cpus]) for at in range(0, len(flat), cpus)]


class QueueMap(Map):
    """A queue or a stack: push, pop, peek; no keys."""

    def push(self, value: Any) -> None:
        """Adds a value; MapError when it is full."""
        self._call("push into", "", bpf.map_update, self.fd, b"", self._encoded("", value))

    def pop(self, *_: Any) -> Any:
        """Takes the next value; KeyError when there is none."""
        return self._next(self._call("pop from", "", bpf.map_lookup_and_delete, self.fd, b"", self._value_bytes))

    def peek(self) -> Any:
        """The next value, left where it is; KeyError when there is none."""
        return self._next(self._call("peek into", "", bpf.map_lookup, self.fd, b"", self._value_bytes))

    def _next(self, raw: bytes | None) -> Any:
        if raw is None:
            raise KeyError(f"{self.name} is empty")
        return self._decode_values(raw)[0]

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """Neither a queue nor a stack can be listed: MapError."""
        raise MapError(f"list {self.name}: the kernel cannot list a {self.facts.type}", mend="pop() its values")


class BloomFilter(Map):
    """A set that can only grow: `add`, and `in` with false positives but no false negatives."""

    def add(self, value: Any) -> None:
        """Puts a value in."""
        self._call("add to", "", bpf.map_update, self.fd, b"", self._encoded("", value))

    def __contains__(self, value: object) -> bool:
        room = self._encoded("", value)
        try:
            bpf.map_peek(self.fd, room)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise self._refused("look into", "", error) from error
        return True

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """A bloom filter keeps no values: MapError."""
        raise MapError(f"list {self.name}: a bloom filter keeps no values", mend="ask `value in map`")


class EventMap(Map):
    """A ring buffer or a perf buffer; `events` reads what programs sent."""

    def __init__(self, fd: int, facts: Facts, layouts: Mapping[str, Layout]) -> None:
        super().__init__(fd, facts, Layout(facts.key_bytes), Layout(facts.value_bytes))
        self._layouts = layouts
        self._reader: Any = None

    def events(self, type: str = "", *, count: int | None = None, within_s: float = 1.0) -> list[Any]:
        """Events in order: waits until there are `count`, or, without a count, gives what is there now.

        `type` names the C struct that the program sends ("flow_event"); without it events are bytes.
        WaitTimeout, with what did come, when fewer than `count` came in time.
        """
        raw = self._buffer().read(count=count, within_s=within_s)
        if not type:
            return list(raw)
        if type not in self._layouts:
            raise MapError(
                f"decode the events of {self.name}: the object has no struct {type}",
                mend=f"it has {', '.join(self._layouts)}; clang drops types that no map or global mentions",
            )
        layout = self._layouts[type]
        return [layout.decode(each[: layout.size].ljust(layout.size, b"\0")) for each in raw]

    def drain(self) -> int:
        """Throws away what is there now; gives how many."""
        return len(self.events())

    @property
    def lost(self) -> int:
        """Events that a perf buffer dropped because it was full; a ring buffer's program counts its own."""
        return int(getattr(self._buffer(), "lost", 0))

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """Events have no keys: MapError."""
        raise MapError(f"list {self.name}: a {self.facts.type} has events", mend="map.events(type=...)")

    def close(self) -> None:
        """Ends reading; the program calls it."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _buffer(self) -> Any:
        if self._reader is None:
            from lab.bpf import events

            kind = events.RingBuffer if self.facts.type == "ringbuf" else events.PerfBuffer
            self._reader = kind(self.fd)
        return self._reader
