"""Instructions: read, written back, and moved apart without a jump losing its target."""

from __future__ import annotations

import pytest

from lab.bpf.instructions import (
    CALL,
    EXIT,
    JA32,
    LD_IMM64,
    PSEUDO_CALL,
    PSEUDO_FUNC,
    PSEUDO_KFUNC,
    Instruction,
    functions,
    insert,
    read,
    write,
)

KTIME = Instruction(CALL, immediate=5)
MARK = Instruction(0xB7, 1, immediate=42)
STOP = Instruction(EXIT)


def jump(distance: int) -> Instruction:
    return Instruction(0x15, 1, 0, distance, 7)


def test_reading_and_writing_are_inverse() -> None:
    """Registers, negative offsets and immediates survive."""
    raw = write([Instruction(0x1D, 3, 10, -5, -(1 << 31)), KTIME, STOP])
    assert write(read(raw)) == raw
    assert read(raw)[0] == Instruction(0x1D, 3, 10, -5, -(1 << 31))


def test_a_call_says_whom_it_calls() -> None:
    """Helpers by name or, where this version knows none, by number; own functions; kfuncs; all else is no call."""
    named = [
        Instruction(CALL, 0, src, 0, number).callee
        for src, number in ((0, 1), (0, 999), (PSEUDO_CALL, 3), (PSEUDO_KFUNC, 3))
    ]
    assert named == ["map_lookup_elem", "999", "call", "kfunc"]
    assert STOP.callee == ""


def test_a_jump_runs_what_was_put_before_its_target() -> None:
    """Forward onto a call: onto the mark in front of it; what stands after the call above is skipped."""
    made = insert([jump(1), KTIME, KTIME, STOP], {2: [MARK]}, {1: [MARK, MARK]})
    assert made == [jump(3), KTIME, MARK, MARK, MARK, KTIME, STOP]
    assert made[1 + made[0].offset] == MARK
    assert made[2 + made[0].offset] == KTIME


def test_a_jump_back_grows_by_what_lies_between() -> None:
    """A loop's last jump meets its first instruction again."""
    made = insert([KTIME, KTIME, jump(-3), STOP], {0: [MARK]}, {1: [MARK]})
    place = made.index(jump(-5))
    assert place + 1 - 5 == 0


def test_calls_of_own_functions_and_their_addresses_meet() -> None:
    """A function is called where it starts, with what was put before its first instruction; so is a callback."""
    address = [Instruction(LD_IMM64, 2, PSEUDO_FUNC, 0, 3), Instruction(0)]
    code = [*address, Instruction(CALL, 0, PSEUDO_CALL, 0, 1), STOP, KTIME, STOP]
    assert functions(code) == [0, 4]
    made = insert(code, {4: [MARK]}, {2: [MARK]})
    assert functions(made) == [0, 5]
    assert made[5:7] == [MARK, KTIME]


def test_a_long_jump_is_counted_by_its_immediate() -> None:
    """JA of 32 bits reaches where one of 16 does not; an offset that no longer fits is refused."""
    filler = [KTIME] * 20_000
    marks = {index: [MARK] for index in range(1, 20_001)}
    far = insert([Instruction(JA32, immediate=20_000), *filler, STOP], marks, {})
    assert far[0].immediate == 40_000
    with pytest.raises(ValueError, match="a jump of 40,000 instructions"):
        insert([jump(20_000), *filler, STOP], marks, {})


def test_the_second_half_of_a_long_load_is_no_instruction() -> None:
    """Whatever stands in it, it is no jump."""
    load = [Instruction(LD_IMM64, 1, 0, 0, 5), Instruction(0x05, 0, 0, 1, 0)]
    assert insert([*load, KTIME, STOP], {3: [MARK]}, {})[1] == load[1]
