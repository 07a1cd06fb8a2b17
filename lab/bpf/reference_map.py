"""Maps whose values stand for something else: assign the program, the interface or the socket itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from lab.bpf.map import Table
from lab.errors import MapError
from lab.kernel import bpf, netns

DEVICE_TYPES = ("devmap", "devmap_hash")
SOCKET_TYPES = ("sockmap", "sockhash", "reuseport_sockarray", "xskmap")
WITH_PROGRAM = (*DEVICE_TYPES, "cpumap")
"""Their values may carry a program that runs at the device or CPU: struct bpf_devmap_val, struct bpf_cpumap_val."""
REFERENCE_TYPES = ("prog_array", "cgroup_array", *WITH_PROGRAM, *SOCKET_TYPES)
ACCEPTED = {
    "prog_array": "a Program",
    "cgroup_array": "a cgroup",
    "cpumap": "a queue's length, or (length, Program)",
    **dict.fromkeys(DEVICE_TYPES, 'an Interface or an ifindex, or (either, Program), or {"ifindex": ..., "prog": ...}'),
    **dict.fromkeys(SOCKET_TYPES, "a socket"),
}


class ReferenceMap(Table):
    """A prog array, devmap, cpumap, sockmap and their like.

    What is read back is what the kernel gives: ids of programs, ifindexes, cookies of sockets. An ifindex counts in the
    namespace of its interface, so that is where a devmap is written.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        thing, _ = _thing_and_program(value)
        netns_fd = getattr(thing, "netns_fd", None) if self.facts.type in DEVICE_TYPES else None
        with nullcontext() if netns_fd is None else netns.inside(netns_fd):
            super().__setitem__(key, value)

    def update(self, entries: Any = (), /, **named: Any) -> None:
        """Writes many entries, one by one: each may belong to another namespace."""
        for key, value in [*(entries.items() if isinstance(entries, Mapping) else entries), *named.items()]:
            self[key] = value

    def as_read(self, value: Any) -> Any:
        """What reading gives after `value` was written: a program's id, where its descriptor goes in."""
        if self.facts.type == "prog_array" and hasattr(value, "fd"):
            return bpf.program_id(value.fd)
        return self._decode_values(self._encode_value(value))[0]

    def _encode_value(self, value: Any) -> bytes:
        thing, program = _thing_and_program(value)
        number = self._number(thing)
        if number is None:
            kind = self.facts.type
            raise MapError(f"{value!r} cannot be put into a {kind}", mend=f"it takes {ACCEPTED[kind]}")
        size = self.facts.value_bytes
        if size == 8 and self.facts.type in WITH_PROGRAM:
            return struct.pack("=Ii", number, 0 if program is None else program.fd)
        if program is not None:
            mend = "declare the map's value as struct bpf_devmap_val or struct bpf_cpumap_val"
            raise MapError(f"a value of {size} bytes has no room for a program", mend=mend)
        return number.to_bytes(size, "little")

    def _encode_values(self, values: Sequence[Any]) -> bytes:
        return b"".join(map(self._encode_value, values))

    def _number(self, thing: Any) -> int | None:
        """The descriptor, index or length that the kernel wants."""
        if isinstance(thing, int) and not isinstance(thing, bool) and thing >= 0:
            return thing
        if self.facts.type in DEVICE_TYPES:
            found = getattr(thing, "ifindex", None)
        elif self.facts.type in SOCKET_TYPES:
            found = thing.fileno() if hasattr(thing, "fileno") else None
        else:
            found = getattr(thing, "cgroup_fd" if self.facts.type == "cgroup_array" else "fd", None)
        return found if isinstance(found, int) else None

    def _mend(self, verb: str, number: int) -> str:
        if verb == "write":
            return f"it takes {ACCEPTED[self.facts.type]}; a program must have the section that the map asks for"
        return super()._mend(verb, number)


def _thing_and_program(value: Any) -> tuple[Any, Any]:
    if isinstance(value, Mapping):
        thing = value.get("ifindex", value.get("qsize"))
        return thing, value.get("prog", value.get("program", value.get("bpf_prog")))
    if isinstance(value, tuple) and len(value) == 2:
        return value
    return value, None
