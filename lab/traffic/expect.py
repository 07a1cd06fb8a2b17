"""Whole frames compared, the difference shown field by field.

expect(received["server/eth0"]).equals(frame)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from lab.errors import LabError, TrafficError
from lab.model.journal import note
from lab.traffic.codec import codec, dissect

NOTHING = "nothing"


class FrameAssertionError(LabError, AssertionError):
    """Frames differ; the message shows each field that does."""


class Expectation:
    """Frames that were received, ready to be compared.

    `ignore` names fields that a program may choose freely, such as "IP.id"; a checksum over an ignored field must be
    named too. Nothing else is forgiven: not a byte of padding, not an option.
    """

    def __init__(self, frames: Sequence[Any]) -> None:
        self._frames = [bytes(each) for each in frames]

    def equals(self, expected: Any, *, ignore: Sequence[str] = ()) -> None:
        """Exactly these frames (one, or a list) came, in this order."""
        wanted = [bytes(each) for each in _listed(expected)]
        problems = [] if len(wanted) == len(self._frames) else [f"{len(wanted)} expected, {len(self._frames)} came"]
        for place, (want, got) in enumerate(zip(wanted, self._frames, strict=False)):
            problems += [f"frame {place}: {each}" for each in differences(want, got, ignore)]
        missing = [f"missing: {dissect(each).summary()}" for each in wanted[len(self._frames) :]]
        extra = [f"unexpected: {dissect(each).summary()}" for each in self._frames[len(wanted) :]]
        self._judge(problems + missing + extra)

    def contains(self, expected: Any, *, ignore: Sequence[str] = ()) -> None:
        """Each of these frames (one, or a list) came, among others and in any order; else the nearest is shown."""
        left = list(self._frames)
        problems: list[str] = []
        for want in (bytes(each) for each in _listed(expected)):
            found = [differences(want, got, ignore) for got in left]
            if [] in found:
                del left[found.index([])]
            elif not found:
                problems.append(f"missing: {dissect(want).summary()}; no other frame came")
            else:
                problems.append(f"missing: {dissect(want).summary()}; the nearest of {len(left)} differs in")
                problems += [f"  {each}" for each in min(found, key=len)]
        self._judge(problems)

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
    return Expectation(_listed(frames))


def differences(expected: bytes, actual: bytes, ignore: Sequence[str] = ()) -> list[str]:
    """One line a field that differs: "IP.ttl: expected 64, got 63"; [] for equal frames."""
    if expected == actual:
        return []
    want, got = list(_layers(expected)), list(_layers(actual))
    _check_ignored(ignore, want + got)
    found: list[str] = []
    for one, other in _aligned(want, got):
        if one is not None and other is not None:
            found += one.against(other, set(ignore))
        elif one is not None:
            found.append(_line(one.name, str(one), None))
        elif other is not None:
            found.append(_line(other.name, None, str(other)))
    return found


@dataclass(frozen=True)
class _Layer:
    """A layer's name ("Dot1Q2", where it is the second of its kind), what its fields say, and its own bytes."""

    name: str
    fields: dict[str, str]
    raw: bytes

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.fields.items())

    def against(self, other: _Layer, ignore: set[str]) -> list[str]:
        names = [*self.fields, *(each for each in other.fields if each not in self.fields)]
        pairs = {f"{self.name}.{each}": (self.fields.get(each), other.fields.get(each)) for each in names}
        differing = {each: pair for each, pair in pairs.items() if pair[0] != pair[1]}
        found = [_line(each, *pair) for each, pair in differing.items() if each not in ignore]
        if not differing and self.raw != other.raw:  # bytes that mean the same and are not: lengths, padding, order
            found.append(_line(f"{self.name} bytes", self.raw.hex(), other.raw.hex()))
        return found


def _line(name: str, want: str | None, got: str | None) -> str:
    return f"{name}: expected {NOTHING if want is None else want}, got {NOTHING if got is None else got}"


def _aligned(want: list[_Layer], got: list[_Layer]) -> Iterator[tuple[_Layer | None, _Layer | None]]:
    """Layers of one name beside each other, so that a tag too many is just that."""
    matcher = SequenceMatcher(None, [each.name for each in want], [each.name for each in got], autojunk=False)
    for kind, first, last, start, end in matcher.get_opcodes():
        if kind == "equal":
            yield from zip(want[first:last], got[start:end], strict=True)
        else:
            yield from ((each, None) for each in want[first:last])
            yield from ((None, each) for each in got[start:end])


def _layers(raw: bytes) -> Iterator[_Layer]:
    layer = dissect(raw)
    seen: dict[str, int] = {}
    while layer and not isinstance(layer, codec().NoPayload):
        kind = type(layer).__name__
        seen[kind] = seen.get(kind, 0) + 1
        fields = {each.name: _shown(layer, each) for each in layer.fields_desc}
        name = kind if seen[kind] == 1 else f"{kind}{seen[kind]}"
        yield _Layer(name, fields, bytes(layer.raw_packet_cache or b""))
        layer = layer.payload


def _shown(layer: Any, field: Any) -> str:
    value = layer.getfieldval(field.name)
    return value.hex() if isinstance(value, bytes) else str(field.i2repr(layer, value))


def _check_ignored(ignore: Sequence[str], layers: list[_Layer]) -> None:
    """A name that is nobody's would forgive nothing, or hide a slip of the pen."""
    known = {f"{each.name}.{name}" for each in layers for name in each.fields}
    unknown = [each for each in ignore if each not in known]
    if unknown:
        raise TrafficError(f"ignore {', '.join(unknown)}: the frames have no such field", mend=", ".join(sorted(known)))


def _listed(frames: Any) -> list[Any]:
    """One frame or several; a scapy packet is one, though it can be iterated over."""
    one = isinstance(frames, bytes | bytearray | memoryview) or hasattr(frames, "fields_desc")
    return [frames] if one else list(frames)
