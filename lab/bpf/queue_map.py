"""Maps without keys: queues, stacks and bloom filters."""

from __future__ import annotations

import errno
from typing import Any

from lab.bpf.map import Map
from lab.errors import MapError
from lab.kernel import bpf


class QueueMap(Map):
    """A queue (first in, first out) or a stack (last in, first out)."""

    def push(self, value: Any) -> None:
        """Adds a value; MapError when it is full."""
        self._call("push into", None, bpf.map_update, b"", self._encoded(None, value))

    def pop(self) -> Any:
        """Takes the next value; KeyError when there is none."""
        return self._next(self._call("pop from", None, bpf.map_lookup_and_delete, b"", self._value_bytes))

    def peek(self) -> Any:
        """The next value, left where it is; KeyError when there is none."""
        return self._next(self._call("peek into", None, bpf.map_lookup, b"", self._value_bytes))

    def drain(self) -> list[Any]:
        """Takes all values, in their order."""
        found = []
        while (raw := self._call("pop from", None, bpf.map_lookup_and_delete, b"", self._value_bytes)) is not None:
            found.append(self._decode_values(raw)[0])
        return found

    def _next(self, raw: bytes | None) -> Any:
        if raw is None:
            raise KeyError(f"{self.name} is empty")
        return self._decode_values(raw)[0]


class BloomFilter(Map):
    """A set that only grows: `add`, and `in`, which may say yes to what was never added but never no to what was."""

    def add(self, value: Any) -> None:
        """Puts a value in."""
        self._call("add to", None, bpf.map_update, b"", self._encoded(None, value))

    def __contains__(self, value: object) -> bool:
        try:
            bpf.map_peek(self.fd, self._encoded(None, value))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise self._refused("look into", None, error) from error
        return True

    def __iter__(self) -> Any:
        raise MapError(f"list {self.name}: a bloom filter keeps no values", mend="ask `value in map`")
