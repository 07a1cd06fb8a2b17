"""C structs and arrays as Python values: frozen, hashable, and equal to what would be written as the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, Protocol

from lab.errors import MapError


class Codec(Protocol):
    """What a record's class knows of the bytes behind it; a `lab.bpf.layout.Struct` is one."""

    def encode(self, value: Any) -> bytes:
        """The bytes of a value; MapError when it does not fit."""
        ...

    def decode(self, raw: bytes) -> Any:
        """The record of the bytes."""
        ...


class Record(tuple[Any, ...]):
    """One struct. Its class is made from BTF by `record_class`, so it has the struct's name and fields.

    It equals the dicts, tuples and lists that would be written as the same bytes: fields left out are zero, enums may
    be names and addresses text.

    >>> Count = record_class("lab_count", ("packets", "bytes"))
    >>> Count((2, 120))
    lab_count(packets=2, bytes=120)
    >>> Count((2, 120)) == {"packets": 2, "bytes": 120}
    True
    """

    __slots__ = ()
    fields: tuple[str, ...] = ()
    codec: Codec | None = None

    def as_dict(self) -> dict[str, Any]:
        """Field names to values, records within too."""
        return {name: each.as_dict() if isinstance(each, Record) else each for name, each in self.named()}

    def named(self) -> Iterator[tuple[str, Any]]:
        """Pairs of field name and value."""
        return zip(self.fields, self, strict=True)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"struct {type(self).__name__} has {', '.join(self.fields)}; not {name}")

    def __eq__(self, other: object) -> bool:
        if tuple.__eq__(self, other) is True:
            return True
        if isinstance(other, Record) or not isinstance(other, Mapping | tuple | list):
            return False
        if self.codec is None:
            return dict(self.named()) == other
        try:
            return tuple.__eq__(self, self.codec.decode(self.codec.encode(other))) is True
        except MapError:
            return False

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.named())})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Its class is made at run time and cannot be found by name: it is made again, without its codec."""
        return (_again, (type(self).__name__, self.fields, tuple(self)))


def record_class(name: str, fields: tuple[str, ...], codec: Codec | None = None) -> type[Record]:
    """The class of a struct with these fields."""
    space: dict[str, Any] = {"__slots__": (), "fields": fields, "codec": codec}
    space.update({field: property(itemgetter(place)) for place, field in enumerate(fields)})
    return type(name or "struct", (Record,), space)


def _again(name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Record:
    return record_class(name, fields)(values)


class Elements(tuple[Any, ...]):
    """A C array: frozen and hashable, and equal to a list of the same elements.

    >>> Elements((2, 3)) == [2, 3]
    True
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, tuple(other) if isinstance(other, list) else other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        return repr(list(self))


def add(first: Any, second: Any) -> Any:
    """The sum of two values, field by field and element by element; what is no number stays the first."""
    if isinstance(first, Record | Elements):
        return type(first)(add(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    return first + second


class PerCpu(list[Any]):
    """The values of one entry of a per-CPU map, one a possible CPU."""

    def total(self) -> Any:
        """Their sum; of structs, field by field."""
        values = iter(self)
        result = next(values)
        for each in values:
            result = add(result, each)
        return result
