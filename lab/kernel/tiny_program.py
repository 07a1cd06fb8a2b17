"""Programs of a few instructions, loaded without a compiler: a receiver that passes everything, probes of features."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

from lab.kernel import bpf

PROG_LOAD = 5
FUNCTION_BYTES = 8


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
    btf_fd: int = 0
    functions: bytes = b""
    """struct bpf_func_info of each function: where it starts, and its type in the BTF of `btf_fd`."""

    def load(self) -> int:
        """The descriptor of the new program, licensed GPL; OSError when the kernel refuses."""
        code = ctypes.create_string_buffer(self.instructions, len(self.instructions))
        terms = ctypes.create_string_buffer(b"GPL")
        functions = ctypes.create_string_buffer(self.functions, len(self.functions) or 1)
        count, function_count = len(self.instructions) // 8, len(self.functions) // FUNCTION_BYTES
        where = (ctypes.addressof(code), ctypes.addressof(terms))
        head = struct.pack("=IIQQIIQII", self.type, count, *where, 0, 0, 0, 0, self.flags)
        types = (
            (self.btf_fd, FUNCTION_BYTES, ctypes.addressof(functions), function_count) if function_count else (0,) * 4
        )
        named = struct.pack("=16sII", self.name.encode()[:15], 0, self.expected_attach_type)
        tail = struct.pack("=IIQI16xI", *types, self.attach_btf_id)
        return bpf.bpf(PROG_LOAD, bytearray(head + named + tail))
