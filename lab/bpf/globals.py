"""The variables of a loaded program, shared with it in memory."""

from __future__ import annotations

import difflib
import mmap
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from lab.bpf.layout import Layout
from lab.errors import MapError
from lab.kernel import bpf
from lab.model.journal import step


@dataclass(frozen=True)
class Place:
    """Where a variable lies: in the map of its section, at an offset in bytes."""

    fd: int
    offset: int
    layout: Layout
    constant: bool = False


class Globals(MutableMapping[str, Any]):
    """A program's globals by name: reads and writes go to the memory it uses, without a system call.

    `const volatile` ones, the knobs, can be read: they were set by `load`. Nothing keeps a program from changing a
    variable between two reads; a value of up to 8 bytes is read whole.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._memory: dict[int, mmap.mmap] = {}
        self._closed = False

    def __getitem__(self, name: str) -> Any:
        place = self._find(name)
        memory = self._mapped(place)
        return place.layout.decode(memory[place.offset : place.offset + place.layout.size])

    def __setitem__(self, name: str, value: Any) -> None:
        place = self._find(name)
        if place.constant:
            raise MapError(f"write the knob {name}: it is constant since the load", mend=f"load(..., {name}={value!r})")
        try:
            raw = place.layout.encode(value)
        except MapError as error:
            raise MapError(f"global {name}: {error.what}", mend=error.mend) from None
        self._mapped(place)[place.offset : place.offset + len(raw)] = raw
        step("write_global", globals=self, name=name, value=raw)

    def write_raw(self, name: str, raw: bytes) -> None:
        """Writes a variable's bytes as they are."""
        self[name] = self._find(name).layout.decode(raw)

    def __delitem__(self, name: str) -> None:
        raise MapError(f"delete the global {name}: a variable stays")

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def get(self, name: str, default: Any = None) -> Any:
        """Its value, or `default` where there is no such global."""
        return self[name] if name in self._places else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<Globals {', '.join(self._places) or 'none'}>"

    def close(self) -> None:
        """Unmaps the memory; the program calls it."""
        self._closed = True
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()

    def _find(self, name: str) -> Place:
        if name in self._places:
            return self._places[name]
        close = difflib.get_close_matches(name, self._places) or list(self._places)
        raise MapError(f"there is no global {name!r}", mend=f"there are {', '.join(close) or 'none'}")

    def _mapped(self, place: Place) -> mmap.mmap:
        if self._closed:
            raise MapError("use a global: its program is closed", mend="use it before")
        if place.fd not in self._memory:
            size = -(-bpf.map_facts(place.fd)[3] // mmap.PAGESIZE) * mmap.PAGESIZE
            access = mmap.PROT_READ if place.constant else mmap.PROT_READ | mmap.PROT_WRITE
            self._memory[place.fd] = mmap.mmap(place.fd, size, prot=access)
        return self._memory[place.fd]
