"""Where the running kernel's own structures have their members: its BTF, asked through libbpf, 10 ms.

For programs that read kernel structures without CO-RE and without the kernel's headers (BCC's):

>>> offsets("sock.sk_protocol", "sock.__sk_common.skc_family")
{'sock.sk_protocol': 552, 'sock.__sk_common.skc_family': 16}
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_uint32, c_void_p
from dataclasses import dataclass
from typing import Any

from lab.bpf.btf import ENUM, STRUCT, UNION
from lab.errors import FeatureMissing, LoadError
from lab.kernel import libbpf

TYPE = struct.Struct("=III")
"""struct btf_type: name, info (kind, flag, number of members), size."""
MEMBER = struct.Struct("=III")
"""struct btf_member: name, type, offset in bits."""
ENUMERATOR = struct.Struct("=Ii")
"""struct btf_enum: name, number."""

X86_64 = {"NUMBER": "orig_ax", "RESULT": "ax", "0": "di", "1": "si", "2": "dx", "3": "r10", "4": "r8", "5": "r9"}
REGISTERS = {
    "x86_64": {role: (name, 0) for role, name in X86_64.items()},
    "aarch64": {"NUMBER": ("syscallno", 0), "RESULT": ("regs", 0), **{str(n): ("regs", n) for n in range(6)}},
}
"""Members of struct pt_regs, and the place in those that are arrays."""


def offsets(*paths: str) -> dict[str, int]:
    """Bytes from the start of a structure to a member: "sock.__sk_common.skc_dport", through nested structures.

    Members of anonymous structures and unions are their parent's, as in C. FeatureMissing where the kernel has no BTF;
    LoadError for what it does not have.
    """
    with _kernel() as kernel:
        return {path: _offset(kernel, path) for path in paths}


def enumerators(name: str) -> dict[int, str]:
    """What an enum of the kernel calls its numbers; {} where this kernel has no such enum, or no BTF.

    >>> enumerators("skb_drop_reason")[2]
    'SKB_DROP_REASON_NOT_SPECIFIED'
    """
    try:
        with _kernel() as kernel:
            return kernel.enumerators(name)
    except FeatureMissing:
        return {}


def call_registers() -> dict[str, int]:
    """Where struct pt_regs has a system call's number, its six arguments and what a function returns.

    By the kernel's calling convention: {"NUMBER": 120, "0": 112, ..., "5": 72, "RESULT": 80}. FeatureMissing on another
    machine than x86-64 and arm64, and without BTF.
    """
    machine = platform.machine()
    if machine not in REGISTERS:
        raise FeatureMissing(
            f"read the arguments of system calls: the registers of {machine} are not known here",
            mend="the tracepoints raw_syscalls/sys_enter and sys_exit have them by themselves",
        )
    found = offsets(*(f"pt_regs.{name}" for name, _ in REGISTERS[machine].values()))
    return {role: found[f"pt_regs.{name}"] + 8 * place for role, (name, place) in REGISTERS[machine].items()}


@dataclass(frozen=True)
class _Kernel:
    """struct btf of the running kernel."""

    library: Any
    btf: int

    def find(self, name: str) -> int:
        return int(self.library.btf__find_by_name_kind(self.btf, name.encode(), STRUCT))

    def enumerators(self, name: str) -> dict[int, str]:
        """Number to name; {} for no such enum."""
        type_id = int(self.library.btf__find_by_name_kind(self.btf, name.encode(), ENUM))
        if type_id < 0:
            return {}
        place = self.library.btf__type_by_id(self.btf, type_id)
        _, info, _ = TYPE.unpack(ctypes.string_at(place, TYPE.size))
        raw = ctypes.string_at(place + TYPE.size, (info & 0xFFFF) * ENUMERATOR.size)
        names = ENUMERATOR.iter_unpack(raw)
        return {number: self.library.btf__name_by_offset(self.btf, at).decode() for at, number in names}

    def members(self, type_id: int) -> Iterator[tuple[str, int, int]]:
        """Name, type and offset in bits of each; none of what is no struct or union."""
        place = self.library.btf__type_by_id(self.btf, type_id)
        _, info, _ = TYPE.unpack(ctypes.string_at(place, TYPE.size))
        if info >> 24 & 0x1F not in (STRUCT, UNION):
            return
        raw = ctypes.string_at(place + TYPE.size, (info & 0xFFFF) * MEMBER.size)
        for name, member_type, bits in MEMBER.iter_unpack(raw):
            spelled = self.library.btf__name_by_offset(self.btf, name).decode()
            resolved = self.library.btf__resolve_type(self.btf, member_type)
            yield spelled, resolved, bits & 0xFFFFFF if info >> 31 else bits


@contextmanager
def _kernel() -> Iterator[_Kernel]:
    library = _typed(libbpf.library())
    libbpf.listen()
    btf = library.btf__load_vmlinux_btf()
    if not btf:
        raise FeatureMissing(
            "find out how the kernel's structures lie in memory",
            kernel=libbpf.sentence(ctypes.get_errno()),
            mend="a kernel with CONFIG_DEBUG_INFO_BTF=y",
        )
    try:
        yield _Kernel(library, btf)
    finally:
        library.btf__free(btf)


def _typed(library: Any) -> Any:
    for name, result, arguments in (
        ("btf__load_vmlinux_btf", c_void_p, ()),
        ("btf__free", None, (c_void_p,)),
        ("btf__find_by_name_kind", c_int, (c_void_p, c_char_p, c_uint32)),
        ("btf__type_by_id", c_void_p, (c_void_p, c_uint32)),
        ("btf__name_by_offset", c_char_p, (c_void_p, c_uint32)),
        ("btf__resolve_type", c_int, (c_void_p, c_uint32)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _offset(kernel: _Kernel, path: str) -> int:
    whole, *names = path.split(".")
    type_id, bits = kernel.find(whole), 0
    if type_id < 0:
        raise LoadError(
            f"find {path}: this kernel has no struct {whole}", mend="another kernel has another name for it"
        )
    for name in names:
        found = _member(kernel, type_id, name)
        if found is None:
            raise LoadError(f"find {path}: this kernel has no member {name} there", mend="it may have another name")
        type_id, bits = found[0], bits + found[1]
    return bits // 8


def _member(kernel: _Kernel, type_id: int, name: str) -> tuple[int, int] | None:
    """Its type, and its offset in bits; looked for in anonymous members as well."""
    for spelled, member_type, bits in kernel.members(type_id):
        if spelled == name:
            return member_type, bits
        inside = None if spelled else _member(kernel, member_type, name)
        if inside:
            return inside[0], bits + inside[1]
    return None
