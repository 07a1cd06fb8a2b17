"""Maps whose values stand for something else: assign the program, the interface, the socket or the map itself."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from lab.bpf.layout import Layout
from lab.bpf.map import Facts, Map
from lab.errors import MapError
from lab.kernel import bpf, netns

DEVICE_TYPES = ("devmap", "devmap_hash")
SOCKET_TYPES = ("sockmap", "sockhash", "reuseport_sockarray", "xskmap")
MAP_TYPES = ("array_of_maps", "hash_of_maps")
REFERENCE_TYPES = ("prog_array", "cpumap", "cgroup_array", *DEVICE_TYPES, *SOCKET_TYPES)


class ReferenceMap(Map):
    """A prog array, devmap, cpumap, sockmap and their like.

    Written: a Program; an Interface, an ifindex, or (either, Program); a queue size or (size, Program); a socket.
    Read: the kernel gives ids (programs, cookies of sockets) and not descriptors, so numbers come back.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        """An ifindex counts in the namespace of its interface, so that is where a devmap is written."""
        device = value[0] if isinstance(value, tuple) else value
        inside = hasattr(device, "netns_fd") and self.facts.type in DEVICE_TYPES
        with netns.inside(device.netns_fd) if inside else nullcontext():
            super().__setitem__(key, value)

    def _encode_value(self, value: Any) -> bytes:
        first, second = value if isinstance(value, tuple) else (value, None)
        number = _number(first)
        if number is None:
            raise MapError(f"{first!r} cannot be put into a {self.facts.type}", mend=self.__class__.__doc__ or "")
        size = self.facts.value_bytes
        program = -1 if second is None else second.fd
        if size == 8 and self.facts.type in (*DEVICE_TYPES, "cpumap"):
            return struct.pack("=Ii", number, program if program >= 0 else 0)
        return number.to_bytes(size, "little")

    def _decode_values(self, raw: bytes) -> list[Any]:
        size = self.facts.value_bytes
        words = [raw[at : at + size] for at in range(0, len(raw), size)]
        if size == 8 and self.facts.type in (*DEVICE_TYPES, "cpumap"):
            words = [word[:4] for word in words]
        return [int.from_bytes(word, "little") for word in words]


class MapOfMaps(Map):
    """Maps as values: replacing one is atomic, a packet sees the old map or the new one whole."""

    def __init__(
        self, fd: int, facts: Facts, key_layout: Layout, inner: tuple[Facts, Layout, Layout], make: Callable[..., Map]
    ) -> None:
        super().__init__(fd, facts, key_layout, Layout(4))
        self.inner_facts, self._inner_key, self._inner_value = inner
        self._make = make
        self._opened: list[int] = []

    def new_inner(self, max_entries: int | None = None) -> Map:
        """A fresh map of the inner kind; assign it to a key. It lives as long as the program or its place in here."""
        spec = self.inner_facts
        flags = self._inner_flags()
        made = bpf.MapSpec(
            bpf_type(spec.type), spec.key_bytes, spec.value_bytes, max_entries or spec.max_entries, flags, "inner"
        )
        return self._opened_map(self._call("make an inner map of", "", bpf.map_create, made))

    def close(self) -> None:
        """Closes the descriptors of inner maps that were handed out."""
        while self._opened:
            os.close(self._opened.pop())

    def _inner_flags(self) -> int:
        return 1 if self.inner_facts.type == "lpm_trie" else 0  # BPF_F_NO_PREALLOC, which a trie demands

    def _encode_value(self, value: Any) -> bytes:
        if not isinstance(value, Map):
            raise MapError(f"{value!r} is no map", mend="map.new_inner() makes one")
        return value.fd.to_bytes(4, "little")

    def _decode_values(self, raw: bytes) -> list[Any]:
        ids = [number for (number,) in struct.iter_unpack("=I", raw)]
        return [self._opened_map(bpf.fd_of_map(number)) for number in ids]

    def _opened_map(self, fd: int) -> Map:
        self._opened.append(fd)
        return self._make(fd, self.inner_facts, self._inner_key, self._inner_value)


def bpf_type(name: str) -> int:
    """The number of a map type (enum bpf_map_type)."""
    from lab.bpf.map import TYPES

    return TYPES.index(name)


def _number(value: Any) -> int | None:
    """The descriptor or index that the kernel wants for a thing."""
    for attribute in ("ifindex", "cgroup_fd", "fd"):
        if isinstance(getattr(value, attribute, None), int):
            return int(getattr(value, attribute))
    if hasattr(value, "fileno"):
        return int(value.fileno())
    return int(value) if isinstance(value, int) else None
