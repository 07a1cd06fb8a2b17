"""A program's twin: the same instructions, with a counter beside each call, on the same maps.

with Twin(program) as twin:
    prog_test_run(twin.program.fd, frame)
    for call in twin.calls():
        print(call)      # Call(callee='ktime_get_ns', map_fd=-1, times=1, empty=0, entries=0)

What a call clobbers (r1 to r5) and what it sets (r0) is free to use behind and before it, so the twin behaves as the
program does. It writes to the program's maps as the program would. Programs that it tail-calls are twins, too, if they
belong to the same object; others are called as they are, and their calls are not seen.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import log
from typing import Self

from lab.bpf import instructions as code
from lab.bpf.globals import Globals
from lab.bpf.instructions import Instruction
from lab.bpf.names import MAP_TYPES, PROGRAM_TYPES
from lab.bpf.program import Loaded, Maps, Program
from lab.errors import LoadError
from lab.kernel import bpf, libbpf
from lab.kernel.function_types import btf_of_program, function_types
from lab.kernel.tiny_program import TinyProgram

F_XDP_HAS_FRAGS = 1 << 5
ARRAY, PROG_ARRAY = MAP_TYPES.index("array"), MAP_TYPES.index("prog_array")
SLOT = struct.Struct("=QQQQ")
TIMES_AT, MAP_AT, EMPTY_AT, FOUND_AT = 0, 8, 16, 24
"""Of a call in its slot: how often, the kernel's address of its last map, how often it gave nothing, what it gave."""
BUCKETS = 1 << 16
"""Of a call: each stands for the entries whose addresses have the same hash, and says whether one of them was found."""
MIX = ((16, -2048144789), (13, -1028477387))
"""Shifts and factors of MurmurHash3's finalizer: entries lie in steps, and flows come in steps, too."""
FRAME = bytes(64)

MAP_FIRST = (
    *("map_lookup_elem", "map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem", "map_peek_elem"),
    *("redirect_map", "ringbuf_output", "ringbuf_reserve", "ringbuf_query", "for_each_map_elem", "sk_storage_get"),
    *("map_lookup_percpu_elem", "ringbuf_reserve_dynptr", "sk_storage_delete"),
)
MAP_SECOND = (
    *("tail_call", "perf_event_output", "sk_redirect_map", "sk_redirect_hash", "msg_redirect_map", "msg_redirect_hash"),
    *("sk_select_reuseport", "get_stackid", "sock_map_update", "sock_hash_update"),
)
"""Helpers that take a map as their first or second argument."""
GIVES_NULL, GIVES_ERROR = ("map_lookup_elem", "map_lookup_percpu_elem"), ("map_peek_elem", "map_pop_elem")
"""Helpers that find something or nothing, and how they say so."""

R0, R1, R2, R3, R5 = 0, 1, 2, 3, 5
MOV, STORE, LOAD, STORE_BYTE, ATOMIC_ADD = 0xB7, 0x7B, 0x79, 0x72, 0xDB
ADD, MOV_32, XOR_32, MULTIPLY_32, SHIFT_RIGHT_32 = 0x0F, 0xBC, 0xAC, 0x24, 0x74
JUMP_IF_EQUAL, JUMP_IF_NOT_EQUAL = 0x15, 0x55


@dataclass(frozen=True)
class Call:
    """One call in a program's code, and what came of it since the counters were last set to zero.

    `callee` is a helper's name without "bpf_", "call" for a function of the program's own, or "kfunc". `map_fd` is a
    descriptor of the map that it was last about (closed with the twin), -1 for none; `empty` counts those that found
    nothing. `entries` is about how many different ones it found, as long as they are not many more than 65,536.
    """

    callee: str
    map_fd: int
    times: int
    empty: int
    entries: int


class Twin:
    """Loads the twins of a program; a context manager.

    LoadError when the kernel refuses them (a callback's code needs its types, a jump became too long), or when BCC
    loaded the program.
    """

    def __init__(self, program: Program) -> None:
        self._stack = ExitStack()
        self._callees: list[str] = []
        self._original = program
        self._codes = {each: code.read(each.code) for each in _family(program)}
        self._count = sum(bool(each.callee) for every in self._codes.values() for each in every) or 1
        try:
            self._load()
        except OSError as error:
            self.close()
            why = libbpf.sentence(error.errno or 0)
            raise LoadError(f"count the calls of {program.name}: the kernel refused its twin", kernel=why) from error
        except ValueError as error:
            self.close()
            raise LoadError(f"count the calls of {program.name}: {error}") from error

    def calls(self) -> list[Call]:
        """Every call of the program and of those that it tail-calls, also those that did not happen."""
        slots = list(SLOT.iter_unpack(bpf.map_lookup(self._counters, bytes(4), SLOT.size * self._count) or b""))
        found = bpf.map_lookup(self._found, bytes(4), BUCKETS * self._count) or b""
        return [
            Call(callee, self._maps.get(address, -1), times, empty, _different(found[place * BUCKETS :][:BUCKETS]))
            for place, (callee, (times, address, empty, _)) in enumerate(zip(self._callees, slots, strict=False))
        ]

    def reset(self) -> None:
        """Sets the counters to zero."""
        bpf.map_update(self._counters, bytes(4), bytes(SLOT.size * self._count))
        bpf.map_update(self._found, bytes(4), bytes(BUCKETS * self._count))

    def close(self) -> None:
        """Closes what was loaded."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The load.

    def _load(self) -> None:
        self._counters = self._owned(bpf.map_create(bpf.MapSpec(ARRAY, 4, SLOT.size * self._count, 1, name="calls")))
        self._found = self._owned(bpf.map_create(bpf.MapSpec(ARRAY, 4, BUCKETS * self._count, 1, name="found")))
        maps = dict.fromkeys(fd for every in self._codes.values() for fd in _map_fds(every))
        jumps = {fd: self._prog_array(fd) for fd in maps if bpf.map_facts(fd)[0] == PROG_ARRAY}
        twins = {each: self._twin_of(each, every, jumps) for each, every in self._codes.items()}
        self._fill(jumps, {bpf.program_id(each.fd): fd for each, fd in twins.items()})
        self._maps = self._addresses([jumps.get(fd, fd) for fd in maps])
        self.program = self._as_program(twins[self._original])

    def _owned(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

    def _prog_array(self, fd: int) -> int:
        """One like it: the original must not call twins."""
        kind, _, key_bytes, value_bytes, most = bpf.map_facts(fd)
        return self._owned(bpf.map_create(bpf.MapSpec(kind, key_bytes, value_bytes, most, bpf.map_flags(fd), "jumps")))

    def _twin_of(self, program: Program, every: Sequence[Instruction], jumps: dict[int, int]) -> int:
        before, after = {}, {}
        for index, each in enumerate(every):
            if each.callee:
                place = len(self._callees)
                self._callees.append(each.callee)
                before[index] = [*self._note_map(each.callee, place)]
                after[index] = [*self._note_result(each.callee, place)]
                if each.callee == "tail_call":  # does not come back
                    before[index], after[index] = [*before[index], *self._increment(R0, R5, place)], []
        made = code.insert([_with_map(each, jumps) for each in every], before, after)
        return self._owned(self._typed(program, made).load())

    def _typed(self, program: Program, made: Sequence[Instruction]) -> TinyProgram:
        """With the types of its functions: the verifier walks a global one once, and wants to know a callback's."""
        types, starts = function_types(program.fd), code.functions(made)
        plain = _tiny(program, code.write(made))
        if len(types) != len(starts):  # the kernel threw one away that nothing reaches
            return plain
        records = b"".join(struct.pack("=II", *each) for each in zip(starts, types, strict=True))
        return replace(plain, btf_fd=self._owned(btf_of_program(program.fd)), functions=records)

    def _slot(self, register: int, place: int) -> list[Instruction]:
        return code.load_address(register, code.PSEUDO_MAP_VALUE, self._counters, place * SLOT.size)

    def _note_map(self, callee: str, place: int) -> Iterator[Instruction]:
        register = R1 if callee in MAP_FIRST else R2 if callee in MAP_SECOND else 0
        if register:
            yield from self._slot(R0, place)
            yield Instruction(STORE, R0, register, MAP_AT)

    def _note_result(self, callee: str, place: int) -> Iterator[Instruction]:
        yield from self._increment(R1, R2, place)
        if callee in GIVES_NULL + GIVES_ERROR:
            found = JUMP_IF_NOT_EQUAL if callee in GIVES_NULL else JUMP_IF_EQUAL
            yield Instruction(found, R0, offset=1)
            yield Instruction(ATOMIC_ADD, R1, R2, EMPTY_AT)
        if callee in GIVES_NULL:
            yield from self._note_address(place)

    def _increment(self, pointer: int, one: int, place: int) -> Iterator[Instruction]:
        yield from self._slot(pointer, place)
        yield Instruction(MOV, one, immediate=1)
        yield Instruction(ATOMIC_ADD, pointer, one, TIMES_AT)

    def _note_address(self, place: int) -> Iterator[Instruction]:
        """The bucket of the address in r0; r1 is the slot, through which the pointer becomes a number."""
        yield Instruction(STORE, R1, R0, FOUND_AT)
        yield Instruction(LOAD, R2, R1, FOUND_AT)
        for shift, factor in MIX:
            yield Instruction(MOV_32, R3, R2)
            yield Instruction(SHIFT_RIGHT_32, R3, immediate=shift)
            yield Instruction(XOR_32, R2, R3)
            yield Instruction(MULTIPLY_32, R2, immediate=factor)
        yield Instruction(SHIFT_RIGHT_32, R2, immediate=16)
        yield from code.load_address(R3, code.PSEUDO_MAP_VALUE, self._found, place * BUCKETS)
        yield Instruction(ADD, R3, R2)
        yield Instruction(STORE_BYTE, R3, immediate=1)

    def _fill(self, jumps: dict[int, int], twins: dict[int, int]) -> None:
        for original, mine in jumps.items():
            for key, raw, _ in _entries(original):
                number = int.from_bytes(raw, "little")
                target = twins.get(number) or self._owned(bpf.fd_of_program(number))
                bpf.map_update(mine, key, target.to_bytes(4, "little"))

    def _addresses(self, maps: Sequence[int]) -> dict[int, int]:
        """The kernel's address of each map and of those inside of it to its descriptor: a program writes them down."""
        every = [*maps, *(fd for outer in maps for fd in self._inner(outer))]
        made: list[Instruction] = []
        room = self._owned(bpf.map_create(bpf.MapSpec(ARRAY, 4, 8 * max(1, len(every)), 1)))
        for place, fd in enumerate(every):
            made += code.load_address(R1, code.PSEUDO_MAP_FD, fd)
            made += code.load_address(R2, code.PSEUDO_MAP_VALUE, room, 8 * place)
            made.append(Instruction(STORE, R2, R1))
        made += [Instruction(MOV, R0), Instruction(code.EXIT)]
        bpf.prog_test_run(self._owned(_tiny(self._original, code.write(made)).load()), FRAME)
        raw = bpf.map_lookup(room, bytes(4), 8 * max(1, len(every))) or b""
        return dict(zip(struct.unpack(f"={len(raw) // 8}Q", raw), every, strict=False))

    def _inner(self, outer: int) -> Iterator[int]:
        if MAP_TYPES[bpf.map_facts(outer)[0]] in ("array_of_maps", "hash_of_maps"):
            for number in {int.from_bytes(raw, "little") for _, raw, _ in _entries(outer)}:
                yield self._owned(bpf.fd_of_map(number))

    def _as_program(self, fd: int) -> Program:
        original = self._original
        loaded = Loaded(original.path, original.stem, Maps(), Globals({}), lambda: None)
        return Program(loaded, fd, original.facts, original.expected_attach_type)


def _different(buckets: bytes) -> int:
    """About how many addresses were found: linear counting (Whang et al., 1990). NULL is always in bucket 0."""
    full = buckets.count(1, 1)
    return round(-BUCKETS * log(1 - full / BUCKETS)) if full < BUCKETS - 1 else BUCKETS


def _family(program: Program) -> list[Program]:
    """The program and those of its object that it could tail-call."""
    others = [each for each in program.programs.values() if each.type == program.type and each.name != program.name]
    return [program, *others]


def _tiny(like: Program, raw: bytes) -> TinyProgram:
    flags = F_XDP_HAS_FRAGS if like.section.startswith("xdp.frags") else 0
    return TinyProgram(PROGRAM_TYPES.index(like.type), raw, like.expected_attach_type, flags, "twin")


def _map_fds(every: Sequence[Instruction]) -> Iterator[int]:
    return (each.immediate for each in every if each.code == code.LD_IMM64 and each.src == code.PSEUDO_MAP_FD)


def _with_map(each: Instruction, jumps: dict[int, int]) -> Instruction:
    if each.code == code.LD_IMM64 and each.src == code.PSEUDO_MAP_FD and each.immediate in jumps:
        return Instruction(each.code, each.dst, each.src, each.offset, jumps[each.immediate])
    return each


def _entries(fd: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Of a small map, one by one: not every type has batches."""
    _, _, key_bytes, value_bytes, _ = bpf.map_facts(fd)
    for key in bpf.map_keys(fd, key_bytes):
        raw = bpf.map_lookup(fd, key, value_bytes)
        if raw is not None:
            yield key, raw, 1
