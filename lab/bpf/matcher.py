"""Assertions about a map that retry until a deadline and show, when they fail, where the map differs.

program.maps["flows"].eventually(within_s=1.0).has(("10.0.0.1", 9000), {"packets": 3})
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lab.bpf.map import ARRAYS
from lab.bpf.per_cpu_map import PER_CPU
from lab.bpf.record import PerCpu, Record
from lab.bpf.show import shorten, show, show_entries
from lab.errors import LabError
from lab.model import journal

if TYPE_CHECKING:
    from lab.bpf.map import Table

FIRST_PAUSE_S = 0.0002
LONGEST_PAUSE_S = 0.02
SHOWN_ENTRIES = 10


class MapAssertionError(LabError, AssertionError):
    """A map did not come to hold what was promised; the message shows the difference."""


class Eventually:
    """One deadline for one assertion: each method looks again and again until it holds or the time is up."""

    def __init__(self, map_: Table, within_s: float = 1.0) -> None:
        self._map = map_
        self._within_s = within_s

    def equals(self, expected: Mapping[Any, Any]) -> None:
        """The map holds these entries and no others; of an array, the entries that are left out must be zero."""
        wanted = {self._key(key): self._value(value) for key, value in expected.items()}

        def differences() -> list[str]:
            return difference(wanted, self._entries_beside(wanted))

        self._retry("equals", wanted, differences)

    def has(self, key: Any, value: Any) -> None:
        """The entry of `key` holds `value`; other entries don't matter."""
        wanted = {self._key(key): self._value(value)}

        def differences() -> list[str]:
            (only,) = wanted
            actual = self._map.get(only)
            return difference(wanted, {} if actual is None else {only: actual})

        self._retry("has", wanted, differences)

    def lacks(self, key: Any) -> None:
        """There is no entry of `key`."""
        wanted = self._key(key)

        def differences() -> list[str]:
            actual = self._map.get(wanted)
            return [] if actual is None else [f"unexpected  {show(wanted)}: {show(actual)}"]

        self._retry("lacks", show(wanted), differences)

    def holds(self, predicate: Callable[[Table], object], what: str) -> None:
        """`predicate(map)` is true; `what` says so in words, for the failure and the report."""

        def differences() -> list[str]:
            return [] if predicate(self._map) else [f"not true: {what}", *show_entries(self._map.items())]

        self._retry("holds", what, differences)

    def _key(self, key: Any) -> Any:
        """As the map will give it: "10.0.0.1" becomes an address, "XDP_DROP" a number."""
        return self._map.key_layout.decode(self._map.key_layout.encode(key))

    def _value(self, value: Any) -> Any:
        """As the map will give it; of a per-CPU map, a list holds one value a CPU and anything else is the total."""
        layout = self._map.value_layout
        if self._map.facts.type not in PER_CPU:
            return self._map.as_read(value)
        if isinstance(value, list):
            return PerCpu(layout.decode(layout.encode(each)) for each in value)
        return layout.decode(layout.encode(value))

    def _entries_beside(self, wanted: Mapping[Any, Any]) -> dict[Any, Any]:
        """All entries; an array always holds all of them, so its zeros count only where they are asked for."""
        entries = dict(self._map.items())
        if self._map.facts.type not in ARRAYS:
            return entries
        return {key: value for key, value in entries.items() if key in wanted or any_bit(value)}

    def _retry(self, matcher: str, expected: Any, differences: Callable[[], list[str]]) -> None:
        start = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            last_look = time.monotonic() - start >= self._within_s
            found = differences()
            if not found or last_look:
                break
            time.sleep(min(pause_s, max(0.0, start + self._within_s - time.monotonic())))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        waited_s = time.monotonic() - start
        self._note(matcher, expected, found, waited_s)
        if found:
            raise MapAssertionError(
                "\n".join(
                    [f"map {self._map.name}: {matcher} did not hold within {self._within_s:g} s"]
                    + [f"    {line}" for line in shorten(found, SHOWN_ENTRIES)]
                )
            )

    def _note(self, matcher: str, expected: Any, found: list[str], waited_s: float) -> None:
        data = {
            "map": self._map.name,
            "matcher": matcher,
            "expected": "; ".join(shorten(show_entries(expected.items()), SHOWN_ENTRIES))
            if isinstance(expected, dict)
            else expected,
            "actual": "; ".join(shorten(found, SHOWN_ENTRIES)) or "as expected",
            "held": not found,
            "waited_ms": round(waited_s * 1000, 3),
        }
        journal.note("map_assertion", data)


def difference(wanted: Mapping[Any, Any], actual: Mapping[Any, Any]) -> list[str]:
    """One line an entry that differs: missing, unexpected, or different, then field by field.

    >>> difference({1: 5, 2: 0}, {1: 6, 3: 0})
    ['different   1: expected 5, is 6', 'missing     2: 0', 'unexpected  3: 0']
    """
    lines = []
    for key, value in wanted.items():
        if key not in actual:
            lines.append(f"missing     {show(key)}: {show(value)}")
        elif not same(value, actual[key]):
            lines.append(f"different   {show(key)}: {_how(value, actual[key])}")
    lines += [f"unexpected  {show(key)}: {show(value)}" for key, value in actual.items() if key not in wanted]
    return lines


def same(wanted: Any, actual: Any) -> bool:
    """Equality; a single value is compared with the total of a per-CPU value."""
    if isinstance(actual, PerCpu) and not isinstance(wanted, PerCpu):
        return bool(actual.total() == wanted)
    return bool(actual == wanted)


def any_bit(value: Any) -> bool:
    """False for what a fresh array holds: zeros, empty text, and structs and lists of these."""
    if isinstance(value, tuple | list):
        return any(map(any_bit, value))
    if isinstance(value, bytes):
        return any(value)
    if hasattr(value, "packed"):
        return any(value.packed)
    return bool(value)


def _how(wanted: Any, actual: Any) -> str:
    if isinstance(actual, PerCpu) and not isinstance(wanted, PerCpu):
        actual = actual.total()
    if isinstance(wanted, Record) and isinstance(actual, Record):
        fields = [
            f"{name}: expected {show(value)}, is {show(is_)}"
            for (name, value), (_, is_) in zip(wanted.named(), actual.named(), strict=True)
            if value != is_
        ]
        return "; ".join(fields)
    return f"expected {show(wanted)}, is {show(actual)}"
