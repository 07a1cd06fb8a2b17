"""Whole frames compared, the difference shown field by field.

expect(received["server/eth0"]).equals(frame)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lab.errors import LabError
from lab.model.journal import note
from lab.traffic.codec import codec, dissect


class FrameAssertionError(LabError, AssertionError):
    """Frames differ; the message shows each field that does."""


class Expectation:
    """Frames that were received, ready to be compared."""

    def __init__(self, frames: Sequence[Any]) -> None:
        self._frames = [bytes(each) for each in frames]

    def equals(self, expected: Any, *, ignore: Sequence[str] = ()) -> None:
        """Exactly these frames (one, or a list) came, in this order; `ignore` names fields such as "IP.id"."""
        wanted = [bytes(each) for each in (expected if isinstance(expected, list | tuple) else [expected])]
        problems = [] if len(wanted) == len(self._frames) else [f"{len(wanted)} expected, {len(self._frames)} came"]
        for place, (want, got) in enumerate(zip(wanted, self._frames, strict=False)):
            problems += [f"frame {place}: {each}" for each in differences(want, got, ignore)]
        missing = [f"missing: {dissect(each).summary()}" for each in wanted[len(self._frames) :]]
        extra = [f"unexpected: {dissect(each).summary()}" for each in self._frames[len(wanted) :]]
        self._judge(problems + missing + extra)

    def contains(self, expected: Any, *, ignore: Sequence[str] = ()) -> None:
        """One of the frames is this one; else the nearest is shown."""
        wanted = bytes(expected)
        found = [differences(wanted, got, ignore) for got in self._frames]
        if not found:
            self._judge([f"no frame came; expected {dissect(wanted).summary()}"])
        elif all(found):
            self._judge([f"none of {len(found)} frames equals it; the nearest differs in:", *min(found, key=len)])

    def is_empty(self) -> None:
        """No frame came."""
        self._judge([f"unexpected: {dissect(each).summary()}" for each in self._frames])

    def _judge(self, problems: list[str]) -> None:
        if problems:
            text = "\n".join(f"  {each}" for each in problems)
            note("evidence", {"title": "frames", "text": text})
            raise FrameAssertionError(f"frames are not what was expected\n{text}")


def expect(frames: Any) -> Expectation:
    """What was received (packets or bytes, one or many), to be compared."""
    return Expectation(frames if isinstance(frames, list | tuple) else [frames])


def differences(expected: bytes, actual: bytes, ignore: Sequence[str] = ()) -> list[str]:
    """One line a field that differs: "IP.ttl: expected 64, got 63"; [] for equal frames."""
    if expected == actual:
        return []
    want, got = dict(_fields(expected)), dict(_fields(actual))
    names = [name for name in (*want, *(each for each in got if each not in want)) if name not in ignore]
    found = [
        f"{name}: expected {want.get(name, 'nothing')}, got {got.get(name, 'nothing')}"
        for name in names
        if want.get(name) != got.get(name)
    ]
    if not found and not ignore:
        found = [f"bytes: expected {expected.hex()}, got {actual.hex()}"]
    return found


def _fields(raw: bytes) -> Iterator[tuple[str, str]]:
    """Every field of every layer, in order; a layer that comes again is numbered: "Dot1Q2.vlan"."""
    layer = dissect(raw)
    seen: dict[str, int] = {}
    while layer and not isinstance(layer, codec().NoPayload):
        name = type(layer).__name__
        seen[name] = seen.get(name, 0) + 1
        label = name if seen[name] == 1 else f"{name}{seen[name]}"
        for field in layer.fields_desc:
            value = layer.getfieldval(field.name)
            yield f"{label}.{field.name}", value.hex() if isinstance(value, bytes) else str(field.i2repr(layer, value))
        layer = layer.payload
