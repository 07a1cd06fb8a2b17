"""Programs of a few instructions, loaded without a compiler: a receiver that passes everything, probes of features."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

from lab.kernel import bpf

PROG_LOAD = 5


def instruction(code: int, *, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One struct bpf_insn."""
    return struct.pack("=BBhi", code, src << 4 | dst, offset, immediate)


def returning(number: int) -> bytes:
    """The shortest program: r0 = number; exit."""
    return instruction(0xB7, immediate=number) + instruction(0x95)


@dataclass(frozen=True)
class TinyProgram:
    """What PROG_LOAD is told; `type` and `expected_attach_type` are numbers of linux/bpf.h."""

    type: int
    instructions: bytes = returning(0)
    expected_attach_type: int = 0
    flags: int = 0
    name: str = ""
    attach_btf_id: int = 0

    def load(self) -> int:
        """The descriptor of the new program, licensed GPL; OSError when the kernel refuses."""
        code = ctypes.create_string_buffer(self.instructions, len(self.instructions))
        terms = ctypes.create_string_buffer(b"GPL")
        count = len(self.instructions) // 8
        where = (ctypes.addressof(code), ctypes.addressof(terms))
        head = struct.pack("=IIQQIIQII", self.type, count, *where, 0, 0, 0, 0, self.flags)
        tail = struct.pack("=16sII36xI", self.name.encode()[:15], 0, self.expected_attach_type, self.attach_btf_id)
        return bpf.bpf(PROG_LOAD, bytearray(head + tail))
