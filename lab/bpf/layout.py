"""How a C type lies in bytes, and how it reads in Python.

A `Layout` knows its struct-module code, how many raw items that code unpacks to, and the Python expression that makes
the value of them. Expressions of members nest into their struct's, and one generated `lambda` decodes a whole entry:
100,000 entries take a blink.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from lab.bpf.addresses import ADDRESSES, packed
from lab.errors import MapError


class Layout:
    """The base: bytes as they are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.code = f"{size}s"
        self.items = 1

    def expression(self, raw: Sequence[str], names: dict[str, Any]) -> str:
        """Python that makes the value of the raw items; objects that it needs go into `names`."""
        return raw[0]

    def encode(self, value: Any) -> bytes:
        """The bytes of a value; MapError when it does not fit."""
        if isinstance(value, str | ADDRESSES):
            return packed(value, self.size)
        if not isinstance(value, bytes | bytearray | memoryview | tuple | list):
            raise MapError(f"{value!r} is no {self.description}", mend=f'bytes({self.size}), or bytes.fromhex("...")')
        try:
            raw = bytes(value)
        except (TypeError, ValueError):
            raise MapError(f"{value!r} is no {self.description}", mend="elements are 0 to 255") from None
        if len(raw) != self.size:
            raise MapError(f"{len(raw)} bytes do not fit into {self.size}")
        return raw

    @property
    def description(self) -> str:
        """For error messages: "16 bytes"."""
        return f"{self.size} bytes"

    @cached_property
    def _struct(self) -> struct.Struct:
        return struct.Struct("=" + self.code)

    @cached_property
    def _decoder(self) -> Callable[..., Any]:
        raw = [f"r{place}" for place in range(self.items)]
        names: dict[str, Any] = {}
        expression = self.expression(raw, names)
        return eval(f"lambda {', '.join(raw)}: {expression}", names)  # type: ignore[no-any-return]

    def decode(self, raw: bytes) -> Any:
        """The value of exactly `size` bytes."""
        return self._decoder(*self._struct.unpack(raw))

    def decode_many(self, raw: bytes) -> list[Any]:
        """The values of a whole number of entries, back to back."""
        if not self.size:
            return []
        return list(itertools.starmap(self._decoder, self._struct.iter_unpack(raw)))

    def encode_many(self, values: Iterable[Any]) -> bytes:
        """The bytes of all values, back to back."""
        return b"".join(map(self.encode, values))

    def packing(self, value: str, names: dict[str, Any]) -> tuple[str, str]:
        """The code and the Python expression of a struct.pack that encodes `value` as a member of a struct."""
        encoder = f"encode_{len(names)}"
        names[encoder] = self.encode
        return f"{self.size}s", f"{encoder}({value})"
