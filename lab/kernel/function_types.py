"""The types of a loaded program's functions, so that a changed copy of it can be loaded with them."""

from __future__ import annotations

import ctypes
import struct

from lab.kernel import bpf

BTF_GET_FD_BY_ID = 19
INFO_BYTES, RECORD_BYTES = 224, 8
BTF_ID_AT, RECORD_BYTES_AT, COUNT_AT = 128, 132, 144
"""In struct bpf_prog_info; behind the size of a record stands its address."""


def btf_of_program(fd: int) -> int:
    """A descriptor of the BTF that the program was loaded with; OSError ENOENT where there is none."""
    (number,) = struct.unpack_from("=I", bpf.object_info(fd), BTF_ID_AT)
    return bpf.bpf(BTF_GET_FD_BY_ID, bytearray(struct.pack("=III", number, 0, 0)))


def function_types(fd: int) -> list[int]:
    """The BTF id of each of the program's functions, in their order; none without BTF."""
    (count,) = struct.unpack_from("=I", bpf.object_info(fd), COUNT_AT)
    records = ctypes.create_string_buffer(max(1, count) * RECORD_BYTES)
    info = ctypes.create_string_buffer(INFO_BYTES)
    struct.pack_into("=IQI", info, RECORD_BYTES_AT, RECORD_BYTES, ctypes.addressof(records), count)
    bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, bytearray(struct.pack("=IIQ", fd, INFO_BYTES, ctypes.addressof(info))))
    return [type_id for _, type_id in struct.iter_unpack("=II", records.raw[: count * RECORD_BYTES])]
