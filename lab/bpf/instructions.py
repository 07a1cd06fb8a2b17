"""A program as instructions: which calls it has, and how to put further instructions beside them.

struct bpf_insn of linux/bpf.h; https://docs.kernel.org/bpf/standardization/instruction-set.html
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lab.bpf.names import helper

WIRE = struct.Struct("=BBhi")
JMP, JMP32 = 0x05, 0x06
JA32, CALL, EXIT, LD_IMM64 = 0x06, 0x85, 0x95, 0x18
PSEUDO_CALL, PSEUDO_KFUNC = 1, 2
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PSEUDO_FUNC = 1, 2, 4
FURTHEST = 1 << 15
"""Instructions that a jump spans."""


@dataclass(frozen=True)
class Instruction:
    """One of 8 bytes. A load of 64 bits is two of them, of which the second has only an `immediate`."""

    code: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    immediate: int = 0

    @property
    def is_jump(self) -> bool:
        """True for those with a target, calls excepted."""
        return self.code & 7 in (JMP, JMP32) and self.code not in (CALL, EXIT)

    @property
    def callee(self) -> str:
        """Of a call: the helper's name, "call" for a function of the program's own, "kfunc"; "" of anything else."""
        if self.code != CALL:
            return ""
        return {PSEUDO_CALL: "call", PSEUDO_KFUNC: "kfunc"}.get(self.src) or helper(self.immediate)

    @property
    def points_to_code(self) -> bool:
        """True where `immediate` counts instructions: calls of its own functions, and their addresses."""
        return (self.code == CALL and self.src == PSEUDO_CALL) or (self.code == LD_IMM64 and self.src == PSEUDO_FUNC)

    @property
    def distance(self) -> int:
        """From the instruction behind this one to the one it points to."""
        return self.immediate if self.points_to_code or self.code == JA32 else self.offset

    def pointing(self, distance: int) -> Instruction:
        """The same with another target; ValueError when that is too far."""
        if self.points_to_code or self.code == JA32:
            return replace(self, immediate=distance)
        if not -FURTHEST <= distance < FURTHEST:
            raise ValueError(f"a jump of {distance:,} instructions: the most is {FURTHEST:,}")
        return replace(self, offset=distance)


def read(raw: bytes) -> list[Instruction]:
    """The instructions of a program.

    >>> read(bytes.fromhex("8500000005000000"))[0].callee
    'ktime_get_ns'
    """
    return [Instruction(code, regs & 15, regs >> 4, at, value) for code, regs, at, value in WIRE.iter_unpack(raw)]


def write(code: Sequence[Instruction]) -> bytes:
    """What `read` reads."""
    return b"".join(WIRE.pack(each.code, each.src << 4 | each.dst, each.offset, each.immediate) for each in code)


def load_address(register: int, kind: int, map_fd: int, offset: int = 0) -> list[Instruction]:
    """register = a map (PSEUDO_MAP_FD), or the place in its only value (PSEUDO_MAP_VALUE)."""
    return [Instruction(LD_IMM64, register, kind, 0, map_fd), Instruction(0, immediate=offset)]


def functions(code: Sequence[Instruction]) -> list[int]:
    """Where the program and each function of its own start."""
    return sorted({0, *(index + 1 + each.distance for index, each in enumerate(code) if each.points_to_code)})


def insert(
    code: Sequence[Instruction],
    before: Mapping[int, Sequence[Instruction]],
    after: Mapping[int, Sequence[Instruction]],
) -> list[Instruction]:
    """The program with instructions put before and after those at these indexes; jumps and calls still meet.

    A jump to an instruction runs what was put before it, and never what was put after the one above. What is inserted
    may jump within itself. ValueError when a jump no longer reaches.
    """
    starts, places, end = [], [], 0
    for index in range(len(code)):
        starts.append(end)
        places.append(end + len(before.get(index, ())))
        end = places[-1] + 1 + len(after.get(index, ()))
    made: list[Instruction] = []
    second_half = False
    for index, each in enumerate(code):
        moved = each
        if not second_half and (each.is_jump or each.points_to_code):
            moved = each.pointing(starts[index + 1 + each.distance] - places[index] - 1)
        second_half = each.code == LD_IMM64 and not second_half
        made += [*before.get(index, ()), moved, *after.get(index, ())]
    return made
