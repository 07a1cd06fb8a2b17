"""The struct that a BCC program submits to a ring or perf buffer, from how BCC spells its members.

No BTF has it: BCC keeps only types of maps. It says `address#__be32`, `mac#u8[6]`, `comm#char[16]`, and the offsets
follow from C's alignment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lab.bpf.btf import ARRAY, INT, INT_BOOL, INT_SIGNED, STRUCT, TYPEDEF, Btf, Member, Type

FIELD = re.compile(r"(?P<name>\w+)#(?P<type>.+?) ?(\[(?P<count>\d+)\])?")
SIGNED = {"char": 1, "signed char": 1, "s8": 1, "short": 2, "s16": 2, "int": 4, "s32": 4, "long": 8, "long long": 8}
SIGNED |= {"s64": 8, "__s8": 1, "__s16": 2, "__s32": 4, "__s64": 8, "pid_t": 4}
UNSIGNED = {"unsigned char": 1, "u8": 1, "unsigned short": 2, "u16": 2, "unsigned int": 4, "u32": 4}
UNSIGNED |= {"unsigned long": 8, "unsigned long long": 8, "u64": 8, "uid_t": 4, "gid_t": 4, "size_t": 8, "dev_t": 4}
UNSIGNED |= {
    f"{start}{bits}{end}": bits // 8 for start, end in (("__u", ""), ("uint", "_t")) for bits in (8, 16, 32, 64)
}
SIGNED |= {f"int{bits}_t": bits // 8 for bits in (8, 16, 32, 64)}
WIRE_ORDER = {"__be16": 2, "__be32": 4, "__be64": 8}


def event_types(name: str, fields: Iterable[str]) -> Btf | None:
    """A struct `name` of these members; None where one of them is spelled in a way that is not known here."""
    types = [Type(0, 0, "void")]
    members: list[Member] = []
    end, widest = 0, 1
    for field in fields:
        spelled = FIELD.fullmatch(field)
        size = _add_scalar(types, spelled["type"]) if spelled else 0
        if not spelled or not size:
            return None
        if spelled["count"]:
            types.append(Type(len(types), ARRAY, "", target=len(types) - 1, count=int(spelled["count"])))
        start = _aligned(end, size)
        members.append(Member(spelled["name"], len(types) - 1, start * 8))
        end, widest = start + size * int(spelled["count"] or 1), max(widest, size)
    if not members:
        return None
    types.append(Type(len(types), STRUCT, name, _aligned(end, widest), members=tuple(members)))
    return Btf(tuple(types))


def _add_scalar(types: list[Type], spelled: str) -> int:
    """Appends the type, what it refers to before it; its size in bytes, 0 where it is not known."""
    place = len(types)
    if spelled in WIRE_ORDER:
        size = WIRE_ORDER[spelled]
        types += [Type(place, INT, "unsigned", size), Type(place + 1, TYPEDEF, spelled, target=place)]
        return size
    if spelled in ("bool", "_Bool"):
        types.append(Type(place, INT, "_Bool", 1, encoding=INT_BOOL))
        return 1
    if spelled.startswith("enum "):
        spelled = "unsigned int"
    size = 8 if spelled.endswith("*") else SIGNED.get(spelled, 0) or UNSIGNED.get(spelled, 0)
    types.append(Type(place, INT, spelled, size, encoding=INT_SIGNED if spelled in SIGNED else 0))
    return size


def _aligned(offset: int, size: int) -> int:
    return -(-offset // size) * size
