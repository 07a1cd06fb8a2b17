"""What the kernel has loaded: programs by their ids, and the maps that each uses."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterator

from lab.kernel import bpf

PROG_GET_NEXT_ID = 11
MAP_COUNT_AT, NAME_AT = 52, 64
"""Of nr_map_ids (map_ids follows) and name in struct bpf_prog_info."""
MAP_NAME_AT = 24
INFO_BYTES = 128
MOST_MAPS = 64  # MAX_USED_MAPS
NAME_BYTES = 16


def program_ids() -> Iterator[int]:
    """The ids of all programs that are loaded, in the order in which they were. Needs root."""
    number = 0
    while True:
        attributes = bytearray(struct.pack("=II", number, 0).ljust(16, b"\0"))
        try:
            bpf.bpf(PROG_GET_NEXT_ID, attributes)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        (number,) = struct.unpack_from("=I", attributes, 4)
        yield number


def program_name(fd: int) -> str:
    """Up to 15 characters of it."""
    return _text(bpf.object_info(fd), NAME_AT)


def map_name(fd: int) -> str:
    """Up to 15 characters of it."""
    return _text(bpf.object_info(fd), MAP_NAME_AT)


def map_ids(fd: int) -> tuple[int, ...]:
    """Of the maps that a program uses."""
    room = (ctypes.c_uint32 * MOST_MAPS)()
    info = ctypes.create_string_buffer(INFO_BYTES)
    struct.pack_into("=IQ", info, MAP_COUNT_AT, MOST_MAPS, ctypes.addressof(room))
    bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, bytearray(struct.pack("=IIQ", fd, INFO_BYTES, ctypes.addressof(info))))
    (count,) = struct.unpack_from("=I", info, MAP_COUNT_AT)
    return tuple(room[:count])


def _text(info: bytes, at: int) -> str:
    return info[at : at + NAME_BYTES].partition(b"\0")[0].decode(errors="replace")
