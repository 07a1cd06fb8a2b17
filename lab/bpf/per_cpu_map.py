"""Maps with a value of its own for each possible CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.bpf.map import Table
from lab.bpf.record import PerCpu
from lab.errors import MapError
from lab.kernel import libbpf

PER_CPU = ("percpu_array", "percpu_hash", "lru_percpu_hash", "percpu_cgroup_storage")


class PerCpuMap(Table):
    """Values are read as a `PerCpu`, a list with `.total()`.

    A list is written as it is, one value a CPU; anything else is written to every CPU, as bpftool does it.
    """

    @property
    def _stride(self) -> int:
        return (self.facts.value_bytes + 7) & ~7

    @property
    def _value_bytes(self) -> int:
        return self._stride * libbpf.possible_cpus()

    def _encode_value(self, value: Any) -> bytes:
        cpus = libbpf.possible_cpus()
        if not isinstance(value, list):
            return self.value_layout.encode(value).ljust(self._stride, b"\0") * cpus
        if len(value) != cpus:
            raise MapError(f"{len(value)} values for {cpus} possible CPUs", mend="a value that is no list goes to all")
        return b"".join(self.value_layout.encode(each).ljust(self._stride, b"\0") for each in value)

    def _encode_values(self, values: Sequence[Any]) -> bytes:
        return b"".join(map(self._encode_value, values))

    def _decode_values(self, raw: bytes) -> list[Any]:
        size, stride, cpus = self.facts.value_bytes, self._stride, libbpf.possible_cpus()
        if size != stride:
            raw = b"".join([raw[at : at + size] for at in range(0, len(raw), stride)])
        flat = self.value_layout.decode_many(raw)
        return [PerCpu(flat[at : at + cpus]) for at in range(0, len(flat), cpus)]
