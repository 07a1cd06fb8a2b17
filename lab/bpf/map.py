"""BPF maps as Python objects, typed by BTF; those with keys are mappings.

counts[("10.0.0.1", 9000)] = {"packets": 0}     # one entry: 5 µs
counts.update(many)                             # by batch: 2 µs an entry
counts.eventually().has(key, {"packets": 3})    # retries until it holds, shows the difference when it does not
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.bpf import blind
from lab.bpf.layout import Layout
from lab.bpf.record import PerCpu, add
from lab.bpf.show import shorten, show_entries
from lab.errors import MapError, NeedsRoot
from lab.kernel import bpf, capabilities, libbpf
from lab.model.journal import step

if TYPE_CHECKING:
    from lab.bpf.matcher import Eventually

ARRAYS = ("array", "percpu_array")
"""Their entries are always there: zero at first, never deleted."""
STORAGES = ("sk_storage", "inode_storage", "task_storage", "cgrp_storage")
"""Their keys are descriptors: a socket, a file, a pidfd, a cgroup's folder."""

ENOTSUPP = 524  # the kernel's own, which it should never let out
NO_BATCH = (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP)
BATCH = 65_536
BUFFER_BYTES = 1 << 24


@dataclass(frozen=True)
class Facts:
    """What the kernel knows of a map."""

    name: str
    type: str
    key_bytes: int
    value_bytes: int
    max_entries: int


class Map:
    """A map. Its descriptor belongs to the program: when that is closed, the map is."""

    def __init__(self, fd: int, facts: Facts, key_layout: Layout, value_layout: Layout) -> None:
        self.fd = fd
        self.facts = facts
        self.key_layout = key_layout
        self.value_layout = value_layout

    @property
    def name(self) -> str:
        """As in the C source."""
        return self.facts.name

    def close(self) -> None:
        """Forgets the descriptor; the program calls it, and closes that itself."""
        self.fd = -1

    def to_text(self, most: int = 40) -> str:
        """What can be said of it without entries."""
        return repr(self)

    def __repr__(self) -> str:
        closed = ", closed" if self.fd < 0 else ""
        return f"<Map {self.name}: {self.facts.type} of {self.facts.max_entries:,}{closed}>"

    # Values as bytes; per-CPU maps and maps of things do this differently.

    @property
    def _value_bytes(self) -> int:
        """Of one entry in a system call."""
        return self.facts.value_bytes

    def _encode_value(self, value: Any) -> bytes:
        return self.value_layout.encode(value)

    def _encode_values(self, values: Sequence[Any]) -> bytes:
        return self.value_layout.encode_many(values)

    def _decode_values(self, raw: bytes) -> list[Any]:
        return self.value_layout.decode_many(raw)

    # System calls whose errors say which map and which key.

    def _encoded(self, key: Any, value: Any) -> bytes:
        try:
            return self._encode_value(value)
        except MapError as error:
            where = self.name if key is None else f"{self.name}[{key!r}]"
            raise MapError(f"{where}: {error.what}", mend=error.mend) from None

    def _call(self, verb: str, key: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(self.fd, *arguments)
        except OSError as error:
            raise self._refused(verb, key, error) from error

    def _refused(self, verb: str, key: Any, error: OSError) -> MapError | NeedsRoot:
        what = f"{verb} {self.name}" + ("" if key is None else f"[{key!r}]")
        number = error.errno or 0
        if self.fd < 0:
            return MapError(f"{what}: its program is closed", mend="use the map before the program is closed")
        if number == errno.EPERM and capabilities.lacking():
            return NeedsRoot(f"{what}: not permitted", mend="run as root, or with CAP_BPF")
        return MapError(what, kernel=libbpf.sentence(number), mend=self._mend(verb, number))

    def _mend(self, verb: str, number: int) -> str:
        if number == errno.E2BIG:
            return f"it has room for {self.facts.max_entries:,} entries: load(..., max_entries={{{self.name!r}: ...}})"
        if number == errno.EEXIST:
            return "assign instead of insert, to replace it"
        if number in NO_BATCH:
            return f"the kernel cannot do this with a map of type {self.facts.type}, or not with this key"
        return ""


class Table(Map, MutableMapping[Any, Any]):
    """A map with keys: `[]`, `in`, `del`, iteration, `items()`, `update()` and the other verbs of a dict."""

    # One entry.

    def __getitem__(self, key: Any) -> Any:
        raw = self._raw_value(key)
        if raw is None:
            raise KeyError(key)
        return self._decode_values(raw)[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        raw_key, raw = self._encode_key(key), self._encoded(key, value)
        self._call("write", key, bpf.map_update, raw_key, raw)
        step("write", map=self, key=raw_key, value=raw, given=value)

    def __delitem__(self, key: Any) -> None:
        raw_key = self._encode_key(key)
        try:
            bpf.map_delete(self.fd, raw_key)
            step("delete", map=self, key=raw_key)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise KeyError(key) from None
            raise self._refused("delete", key, error) from error

    def __contains__(self, key: object) -> bool:
        return self._raw_value(key) is not None

    def insert(self, key: Any, value: Any) -> None:
        """Writes an entry that must not be there yet (BPF_NOEXIST); MapError "File exists" when it is."""
        raw_key, raw = self._encode_key(key), self._encoded(key, value)
        self._call("insert", key, bpf.map_update, raw_key, raw, bpf.BPF_NOEXIST)
        step("write", map=self, key=raw_key, value=raw, given=value)

    # All entries.

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        if self.facts.type in ARRAYS:
            return self.facts.max_entries
        return sum(count for _, _, count in self.raw_entries())

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """All entries, by batches; entries that come and go meanwhile may or may not be among them."""
        found: list[tuple[Any, Any]] = []
        for keys, values, _ in self.raw_entries():
            found.extend(zip(self.key_layout.decode_many(keys), self._decode_values(values), strict=True))
        return found

    def keys(self) -> list[Any]:  # type: ignore[override]
        """All keys."""
        return [key for keys, _, _ in self.raw_entries() for key in self.key_layout.decode_many(keys)]

    def values(self) -> list[Any]:  # type: ignore[override]
        """All values, in the order of `keys`."""
        return [value for _, values, _ in self.raw_entries() for value in self._decode_values(values)]

    def update(self, entries: Any = (), /, **named: Any) -> None:
        """Writes many entries, from a mapping or from pairs, by batches of 65,536.

        MapError says how many were written when the kernel stops half-way (a full map: E2BIG).
        """
        pairs = [*(entries.items() if isinstance(entries, Mapping) else entries), *named.items()]
        for start in range(0, len(pairs), BATCH):
            chunk = pairs[start : start + BATCH]
            keys, values = self._encoded_pairs(chunk)
            self._write_batch(keys, values, len(chunk), start)

    def clear(self) -> None:
        """Deletes all entries; of an array, sets all to zero."""
        step("clear", map=self)
        if self.facts.type in ARRAYS:
            self._zero()
            return
        for keys, _, count in list(self.raw_entries()):
            try:
                bpf.map_delete_batch(self.fd, keys, count)
            except bpf.StoppedAfter as error:
                if error.errno not in (errno.ENOENT, *NO_BATCH):
                    raise self._refused("clear", None, error) from error
                self._delete_each(keys)

    def total(self, key: Any = None) -> Any:
        """The value of a key, summed over the CPUs of a per-CPU map; without a key, over all entries too.

        Structs are summed field by field. KeyError where there is no such key; 0 for a map without entries.
        """
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

        return Eventually(self, blind.patience_s(within_s))

    def as_read(self, value: Any) -> Any:
        """What reading gives after `value` was written: an enum's member for its name, an address for its text."""
        return self._decode_values(self._encode_value(value))[0]

    def to_text(self, most: int = 40) -> str:
        """One line an entry, cut after `most`."""
        return "\n".join(shorten(show_entries(self.items()), most))

    __hash__ = object.__hash__

    # Below here: bytes.

    def _encode_key(self, key: Any) -> bytes:
        if self.facts.type in STORAGES and hasattr(key, "fileno"):
            key = key.fileno()
        try:
            return self.key_layout.encode(key)
        except MapError as error:
            raise MapError(f"{self.name}: key {key!r}: {error.what}", mend=error.mend) from None

    def _raw_value(self, key: Any) -> bytes | None:
        raw: bytes | None = self._call("read", key, bpf.map_lookup, self._encode_key(key), self._value_bytes)
        return raw

    def _encoded_pairs(self, pairs: Sequence[tuple[Any, Any]]) -> tuple[bytes, bytes]:
        """All at once; what does not fit is looked for one by one, so that the error names its key."""
        try:
            return self.key_layout.encode_many([key for key, _ in pairs]), self._encode_values([v for _, v in pairs])
        except MapError:
            raw = [(self._encode_key(key), self._encoded(key, value)) for key, value in pairs]
            return b"".join(key for key, _ in raw), b"".join(value for _, value in raw)

    def raw_entries(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Keys, values and number of the entries, a batch at a time: for millions of them."""
        try:
            chunk = max(1, min(8192, BUFFER_BYTES // max(1, self._value_bytes)))
            yield from bpf.map_batches(self.fd, self.facts.key_bytes, self._value_bytes, chunk=chunk)
        except OSError as error:
            if error.errno not in NO_BATCH:
                raise self._refused("list", None, error) from error
            yield from self._one_by_one()

    def _one_by_one(self) -> Iterator[tuple[bytes, bytes, int]]:
        try:
            for key in bpf.map_keys(self.fd, self.facts.key_bytes):
                value = bpf.map_lookup(self.fd, key, self._value_bytes)
                if value is not None:
                    yield key, value, 1
        except OSError as error:
            raise self._refused("list", None, error) from error

    def write_raw(self, keys: bytes, values: bytes, count: int) -> None:
        """Writes `count` entries as the kernel has them, one behind the other: what `raw_entries` gave."""
        self._write_batch(keys, values, count, 0)

    def decode_values(self, raw: bytes) -> list[Any]:
        """The values in bytes that `raw_entries` gave."""
        return self._decode_values(raw)

    def _write_batch(self, keys: bytes, values: bytes, count: int, before: int) -> None:
        step("write_many", map=self, keys=keys, values=values, count=count)
        try:
            bpf.map_update_batch(self.fd, keys, values, count)
        except bpf.StoppedAfter as error:
            if error.errno not in NO_BATCH:
                what = f"write entry {before + error.count + 1} of many into"
                raise self._refused(what, None, error) from error
            width, value_width = self.facts.key_bytes, self._value_bytes
            for place in range(count):
                key, value = keys[place * width :][:width], values[place * value_width :][:value_width]
                self._call("write", self.key_layout.decode(key), bpf.map_update, key, value)

    def _zero(self) -> None:
        for start in range(0, self.facts.max_entries, BATCH):
            numbers = range(start, min(start + BATCH, self.facts.max_entries))
            keys = b"".join(number.to_bytes(4, "little") for number in numbers)
            self._write_batch(keys, bytes(self._value_bytes * len(numbers)), len(numbers), start)

    def _delete_each(self, keys: bytes) -> None:
        """What is there of them: a batch ends at the first key that is gone."""
        width = self.facts.key_bytes
        for at in range(0, len(keys), width):
            try:
                bpf.map_delete(self.fd, keys[at : at + width])
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise self._refused("clear", None, error) from error


def _summed(value: Any) -> Any:
    return value.total() if isinstance(value, PerCpu) else value
