"""What maps and events hold, as JSON has it and as a cell of a table shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from ipaddress import IPv6Address
from typing import Any

from lab.bpf.record import PerCpu, Record


def plain(value: Any) -> Any:
    """For json.dumps: records by field, enums by name, per-CPU values summed, bytes in hex, mapped IPv4 as IPv4."""
    if isinstance(value, Record):
        return {name: plain(each) for name, each in value.named()}
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, PerCpu):
        return plain(value.total())
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {_key(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, IPv6Address) and value.ipv4_mapped:
        return str(value.ipv4_mapped)
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def cell(value: Any) -> str:
    """In a few words: floats to three digits, records by field."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return visible(value if isinstance(value, str) else _words(plain(value)))


def visible(text: str, but: str = "") -> str:
    """What a terminal would obey or hide (escapes, carriage returns, direction marks) as \\x1b and the like.

    A process chooses its own name, and a packet its bytes. `but`: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in but else each.encode("unicode_escape").decode() for each in text
    )


def is_zero(value: Any) -> bool:
    """Whether nothing was ever written there, as far as one can tell: the entry of an array."""
    return _all_zero(plain(value))


def _all_zero(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_all_zero, value.values()))
    if isinstance(value, list):
        return all(map(_all_zero, value))
    if isinstance(value, str):
        return not value.strip("0:.")
    return not value


def _key(key: Any) -> str:
    return key if isinstance(key, str) else _words(plain(key))


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(_words, value)) + "]"
    return "" if value is None else str(value)
