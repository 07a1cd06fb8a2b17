"""The bpf(2) system call: what libbpf wraps too slowly, too late or not at all.

Every function raises OSError with the kernel's errno; the rooms above turn it into an error that says where and how to
mend. Attributes are packed as in union bpf_attr of linux/bpf.h, whose layout never changes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}.get(platform.machine(), 321)

MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, MAP_GET_NEXT_KEY = range(5)
PROG_ATTACH, PROG_DETACH, PROG_TEST_RUN = 8, 9, 10
PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 13, 14, 15
PROG_QUERY, RAW_TRACEPOINT_OPEN = 16, 17
MAP_LOOKUP_AND_DELETE_ELEM = 21
MAP_LOOKUP_BATCH, MAP_LOOKUP_AND_DELETE_BATCH, MAP_UPDATE_BATCH, MAP_DELETE_BATCH = 24, 25, 26, 27
LINK_CREATE, LINK_UPDATE, ENABLE_STATS, LINK_DETACH = 28, 29, 32, 34

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2
F_TEST_XDP_LIVE_FRAMES = 1 << 1
FRAME_ROOM = 1024
"""Bytes that a program may add to a frame under PROG_RUN and that still come back."""

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytearray) -> int:
    """The system call itself; `attributes` is read and written in place."""
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result: int = _libc.syscall(SYS_BPF, command, ctypes.byref(buffer), len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _address(buffer: bytearray | ctypes.Array[ctypes.c_char]) -> int:
    if isinstance(buffer, bytearray):
        return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer)) if buffer else 0
    return ctypes.addressof(buffer)


# ---------------------------------------------------------------- maps


@dataclass(frozen=True)
class MapSpec:
    """What MAP_CREATE is told; BTF ids are those of the BTF object behind `btf_fd`."""

    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int = 0
    name: str = ""


def map_create(spec: MapSpec) -> int:
    """A new map's descriptor."""
    name = spec.name.encode()[:15]
    attributes = bytearray(
        struct.pack(
            "=5I2I16s", spec.type, spec.key_bytes, spec.value_bytes, spec.max_entries, spec.flags, 0, 0, name
        ).ljust(72, b"\0")
    )
    return bpf(MAP_CREATE, attributes)


def _element(command: int, fd: int, key: bytes, value: bytearray | None, flags: int = 0) -> None:
    room = bytearray(key)
    attributes = bytearray(
        struct.pack("=IIQQQ", fd, 0, _address(room), _address(value) if value is not None else 0, flags)
    )
    bpf(command, attributes)


def map_lookup(fd: int, key: bytes, value_bytes: int, flags: int = 0) -> bytes | None:
    """The value of a key, None where there is none."""
    value = bytearray(value_bytes)
    try:
        _element(MAP_LOOKUP_ELEM, fd, key, value, flags)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return bytes(value)


def map_lookup_and_delete(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """The same, and the entry is gone: how a queue or a stack is popped."""
    value = bytearray(value_bytes)
    try:
        _element(MAP_LOOKUP_AND_DELETE_ELEM, fd, key, value)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return bytes(value)


def map_peek(fd: int, value: bytes) -> None:
    """Looks a value up in a bloom filter: ENOENT when it was never added."""
    _element(MAP_LOOKUP_ELEM, fd, b"", bytearray(value))


def map_update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    """Writes one entry; a queue, a stack and a bloom filter have an empty key."""
    _element(MAP_UPDATE_ELEM, fd, key, bytearray(value), flags)


def map_delete(fd: int, key: bytes) -> None:
    """Deletes one entry; ENOENT where there is none."""
    _element(MAP_DELETE_ELEM, fd, key, None)


def map_keys(fd: int, key_bytes: int) -> Iterator[bytes]:
    """Every key, one system call each; a map that changes meanwhile may give one twice or miss it."""
    key: bytearray | None = None
    while True:
        following = bytearray(key_bytes)
        at = _address(key) if key is not None else 0
        attributes = bytearray(struct.pack("=IIQQQ", fd, 0, at, _address(following), 0))
        try:
            bpf(MAP_GET_NEXT_KEY, attributes)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield bytes(following)
        key = following


def map_batches(
    fd: int, key_bytes: int, value_bytes: int, *, chunk: int = 8192, take: bool = False
) -> Iterator[tuple[bytes, bytes, int]]:
    """All entries as (keys, values, count), up to `chunk` entries a system call; `take` deletes them too.

    A hash map hands out whole buckets, so a chunk that is smaller than the fullest bucket grows (ENOSPC).
    """
    cursor = bytearray(max(key_bytes, 8))
    started = False
    while True:
        keys, values = bytearray(key_bytes * chunk), bytearray(value_bytes * chunk)
        following = bytearray(len(cursor))
        attributes = bytearray(
            struct.pack(
                "=QQQQIIQQ",
                _address(cursor) if started else 0,
                _address(following),
                _address(keys),
                _address(values),
                chunk,
                fd,
                0,
                0,
            )
        )
        last = False
        try:
            bpf(MAP_LOOKUP_AND_DELETE_BATCH if take else MAP_LOOKUP_BATCH, attributes)
        except OSError as error:
            if error.errno == errno.ENOSPC and chunk < 1 << 20:
                chunk *= 2
                continue
            if error.errno != errno.ENOENT:
                raise
            last = True
        (count,) = struct.unpack_from("=I", attributes, 32)
        if count:
            yield bytes(keys[: count * key_bytes]), bytes(values[: count * value_bytes]), count
        if last:
            return
        cursor, started = following, True


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> int:
    """Writes `count` entries; gives how many were written."""
    key_room, value_room = bytearray(keys), bytearray(values)
    attributes = bytearray(struct.pack("=QQQQIIQQ", 0, 0, _address(key_room), _address(value_room), count, fd, 0, 0))
    bpf(MAP_UPDATE_BATCH, attributes)
    (written,) = struct.unpack_from("=I", attributes, 32)
    return int(written)


def map_delete_batch(fd: int, keys: bytes, count: int) -> None:
    """Deletes `count` entries."""
    room = bytearray(keys)
    bpf(MAP_DELETE_BATCH, bytearray(struct.pack("=QQQQIIQQ", 0, 0, _address(room), 0, count, fd, 0, 0)))


# ---------------------------------------------------------------- programs


@dataclass(frozen=True)
class TestRun:
    """What PROG_TEST_RUN gave: the return code, the frame and context as the program left them, mean ns a round."""

    __test__ = False  # pytest: this is no test class

    retval: int
    data: bytes
    context: bytes
    duration_ns: int


def prog_test_run(
    fd: int,
    data: bytes,
    *,
    repeat: int = 1,
    context: bytes = b"",
    context_bytes: int = 0,
    flags: int = 0,
    batch: int = 0,
) -> TestRun:
    """Runs a program in the kernel on `data`; from the second round on it sees its own output.

    `context_bytes` asks for the context back. With `flags` F_TEST_XDP_LIVE_FRAMES the frames are real and go where the
    program sends them, `batch` at a time; nothing comes back then.
    """
    live = bool(flags & F_TEST_XDP_LIVE_FRAMES)
    source = bytearray(data)
    out = bytearray(0 if live else len(data) + FRAME_ROOM)
    given, returned = bytearray(context), bytearray(context_bytes)
    attributes = bytearray(
        struct.pack(
            "=IIIIQQIIIIQQIII4x",
            fd,
            0,
            len(source),
            len(out),
            _address(source),
            _address(out),
            repeat,
            0,
            len(given),
            len(returned),
            _address(given),
            _address(returned),
            flags,
            0,
            batch,
        )
    )
    _retrying_interrupts(attributes)
    fields = struct.unpack("=IIIIQQIIIIQQIII4x", attributes)
    return TestRun(fields[1], bytes(out[: fields[3]]), bytes(returned[: fields[9]]), fields[7])


def _retrying_interrupts(attributes: bytearray) -> None:
    """A signal that Python handles (SIGWINCH, SIGCHLD) must not end a run; the kernel gives EINTR for each."""
    fresh = bytes(attributes)
    while True:
        try:
            bpf(PROG_TEST_RUN, attributes)
            return
        except InterruptedError:
            attributes[:] = fresh


def object_info(fd: int, room: int = 320) -> bytes:
    """struct bpf_prog_info, bpf_map_info, bpf_btf_info or bpf_link_info, as long as this kernel fills it."""
    info = bytearray(room)
    attributes = bytearray(struct.pack("=IIQ", fd, room, _address(info)))
    bpf(OBJ_GET_INFO_BY_FD, attributes)
    (length,) = struct.unpack_from("=I", attributes, 4)
    return bytes(info[:length])


def map_facts(fd: int) -> tuple[int, int, int, int, int]:
    """(type, id, key bytes, value bytes, max entries) of struct bpf_map_info."""
    kind, number, key, value, most = struct.unpack_from("=5I", object_info(fd))
    return kind, number, key, value, most


def fd_of_program(program_id: int) -> int:
    """A descriptor of a loaded program."""
    return bpf(PROG_GET_FD_BY_ID, bytearray(struct.pack("=III", program_id, 0, 0)))


def fd_of_map(map_id: int) -> int:
    """A descriptor of a map."""
    return bpf(MAP_GET_FD_BY_ID, bytearray(struct.pack("=III", map_id, 0, 0)))


def program_id(fd: int) -> int:
    """The id that bpftool shows."""
    number: int = struct.unpack_from("=I", object_info(fd), 4)[0]
    return number


# ---------------------------------------------------------------- attachments


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0, extra: bytes = b"") -> int:
    """A bpf_link's descriptor; `target` is an ifindex or a descriptor, `extra` goes to offset 16 of the attributes."""
    return bpf(
        LINK_CREATE, bytearray(struct.pack("=IIII", prog_fd, target, attach_type, flags) + extra.ljust(32, b"\0"))
    )


def link_update(link_fd: int, new_prog_fd: int) -> None:
    """Replaces the program of a link: every frame meets either the old one or the new."""
    bpf(LINK_UPDATE, bytearray(struct.pack("=IIII", link_fd, new_prog_fd, 0, 0)))


def link_detach(link_fd: int) -> None:
    """Detaches now, though the descriptor stays open."""
    bpf(LINK_DETACH, bytearray(struct.pack("=I", link_fd)))


def prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int = 0) -> None:
    """The attachment of old, for hooks that have no link (sockmap)."""
    bpf(PROG_ATTACH, bytearray(struct.pack("=IIIII", target_fd, prog_fd, attach_type, flags, 0)))


def prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """Undoes prog_attach."""
    bpf(PROG_DETACH, bytearray(struct.pack("=IIIII", target_fd, prog_fd, attach_type, 0, 0)))


def raw_tracepoint_open(name: str, prog_fd: int) -> int:
    """A raw tracepoint's descriptor; with an empty name, that of the BTF hook the program was loaded for."""
    text = bytearray(name.encode() + b"\0")
    return bpf(RAW_TRACEPOINT_OPEN, bytearray(struct.pack("=QIIQ", _address(text) if name else 0, prog_fd, 0, 0)))
