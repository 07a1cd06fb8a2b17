"""The bpf(2) system call: what libbpf wraps too slowly, too late or not at all.

Every function raises OSError with the kernel's errno; the rooms above turn it into an error that says where and how to
mend. Attributes are laid out as in union bpf_attr of linux/bpf.h, whose layout never changes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from ctypes import c_char_p, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path

from lab.kernel import origin

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}.get(platform.machine(), 321)

MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, MAP_GET_NEXT_KEY = range(5)
PROG_ATTACH, PROG_DETACH, PROG_TEST_RUN = 8, 9, 10
PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 13, 14, 15
PROG_QUERY, RAW_TRACEPOINT_OPEN = 16, 17
MAP_LOOKUP_AND_DELETE_ELEM = 21
MAP_LOOKUP_BATCH, MAP_LOOKUP_AND_DELETE_BATCH, MAP_UPDATE_BATCH, MAP_DELETE_BATCH = 24, 25, 26, 27
LINK_CREATE, LINK_UPDATE, ENABLE_STATS, ITER_CREATE, LINK_DETACH = 28, 29, 32, 33, 34
GIVING_DESCRIPTORS = frozenset((0, 5, 7, 13, 14, 17, 18, 19, 28, 30, 32, 33))
"""Commands whose result is a new descriptor: MAP_CREATE, PROG_LOAD, OBJ_GET, *_GET_FD_BY_ID, *_OPEN, BTF_LOAD, ..."""

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2
F_TEST_XDP_LIVE_FRAMES = 1 << 1
FRAME_ROOM = 1024
"""Bytes that a program may add to a frame under PROG_RUN and that still come back."""

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, c_void_p, ctypes.c_uint)
_syscall.restype = ctypes.c_int


def bpf(command: int, attributes: bytearray) -> int:
    """The system call itself; `attributes` is read and written in place."""
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = _call(command, buffer, len(attributes))
    return origin.descriptor(result) if command in GIVING_DESCRIPTORS else result


def _call(command: int, attributes: ctypes.Structure | ctypes.Array[ctypes.c_char], size: int) -> int:
    result: int = _syscall(SYS_BPF, command, ctypes.byref(attributes), size)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None and len(buffer) else 0


# ---------------------------------------------------------------- maps


class _Element(ctypes.Structure):
    """BPF_MAP_*_ELEM; a c_char_p holds bytes of any content, and keeps them alive."""

    _fields_ = (
        ("fd", c_uint32),
        ("pad", c_uint32),
        ("key", c_char_p),
        ("value", c_void_p),
        ("flags", c_uint64),
    )


class _Batch(ctypes.Structure):
    """BPF_MAP_*_BATCH."""

    _fields_ = (
        ("given", c_void_p),
        ("following", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("count", c_uint32),
        ("fd", c_uint32),
        ("element_flags", c_uint64),
        ("flags", c_uint64),
    )


ELEMENT_BYTES = ctypes.sizeof(_Element)
BATCH_BYTES = ctypes.sizeof(_Batch)


@dataclass(frozen=True)
class MapSpec:
    """What MAP_CREATE is told."""

    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int = 0
    name: str = ""
    types: tuple[int, int, int] = (0, 0, 0)
    """Descriptor of a BTF, ids of the key's and the value's type in it."""


class StoppedAfter(OSError):
    """A batch that the kernel broke off: `count` entries were written or deleted."""

    count = 0


def map_create(spec: MapSpec) -> int:
    """A new map's descriptor."""
    name = spec.name.encode()[:15]
    fields = (spec.type, spec.key_bytes, spec.value_bytes, spec.max_entries, spec.flags, 0, 0, name, 0, *spec.types)
    return bpf(MAP_CREATE, bytearray(struct.pack("=5I2I16sI3I", *fields).ljust(72, b"\0")))


def map_lookup(fd: int, key: bytes, value_bytes: int, flags: int = 0) -> bytes | None:
    """The value of a key, None where there is none."""
    return _taken(MAP_LOOKUP_ELEM, fd, key, value_bytes, flags)


def map_lookup_and_delete(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """The same, and the entry is gone: how a queue or a stack is popped."""
    return _taken(MAP_LOOKUP_AND_DELETE_ELEM, fd, key, value_bytes, 0)


def _taken(command: int, fd: int, key: bytes, value_bytes: int, flags: int) -> bytes | None:
    value = ctypes.create_string_buffer(value_bytes)
    element = _Element(fd, 0, key or None, ctypes.addressof(value), flags)
    if _syscall(SYS_BPF, command, ctypes.byref(element), ELEMENT_BYTES) == 0:
        return value.raw
    number = ctypes.get_errno()
    if number == errno.ENOENT:
        return None
    raise OSError(number, os.strerror(number))


def map_peek(fd: int, value: bytes) -> None:
    """Looks a value up in a bloom filter: ENOENT when it was never added."""
    room = ctypes.create_string_buffer(value, len(value))
    _call(MAP_LOOKUP_ELEM, _Element(fd, 0, None, ctypes.addressof(room), 0), ELEMENT_BYTES)


def map_update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    """Writes one entry; a queue, a stack and a bloom filter have an empty key."""
    room = ctypes.create_string_buffer(value, len(value))
    element = _Element(fd, 0, key or None, ctypes.addressof(room), flags)
    if _syscall(SYS_BPF, MAP_UPDATE_ELEM, ctypes.byref(element), ELEMENT_BYTES):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def map_delete(fd: int, key: bytes) -> None:
    """Deletes one entry; ENOENT where there is none."""
    _call(MAP_DELETE_ELEM, _Element(fd, 0, key, None, 0), ELEMENT_BYTES)


def map_keys(fd: int, key_bytes: int) -> Iterator[bytes]:
    """Every key, one system call each; a map that changes meanwhile may give one twice or miss it."""
    key: bytes | None = None
    while True:
        following = ctypes.create_string_buffer(key_bytes)
        try:
            _call(MAP_GET_NEXT_KEY, _Element(fd, 0, key, ctypes.addressof(following), 0), ELEMENT_BYTES)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        key = following.raw
        yield key


def map_batches(
    fd: int, key_bytes: int, value_bytes: int, *, chunk: int = 8192, take: bool = False
) -> Iterator[tuple[bytes, bytes, int]]:
    """All entries as (keys, values, count), up to `chunk` entries a system call; `take` deletes them too.

    A hash map hands out whole buckets, so a chunk that is smaller than the fullest bucket grows (ENOSPC).
    """
    command = MAP_LOOKUP_AND_DELETE_BATCH if take else MAP_LOOKUP_BATCH
    cursor_bytes = max(key_bytes, 8)
    cursor: ctypes.Array[ctypes.c_char] | None = None
    while True:
        keys = ctypes.create_string_buffer(key_bytes * chunk)
        values = ctypes.create_string_buffer(value_bytes * chunk)
        following = ctypes.create_string_buffer(cursor_bytes)
        batch = _Batch(_address(cursor), _address(following), _address(keys), _address(values), chunk, fd, 0, 0)
        last = False
        try:
            _call(command, batch, BATCH_BYTES)
        except OSError as error:
            if error.errno == errno.ENOSPC and chunk < 1 << 20:
                chunk *= 2
                continue
            if error.errno == errno.EINTR:
                continue
            if error.errno != errno.ENOENT:
                raise
            last = True
        if batch.count:
            yield keys.raw[: batch.count * key_bytes], values.raw[: batch.count * value_bytes], batch.count
        if last:
            return
        cursor = following


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """Writes `count` entries; StoppedAfter says how many were written before an error."""
    _change_batch(MAP_UPDATE_BATCH, fd, keys, values, count)


def map_delete_batch(fd: int, keys: bytes, count: int) -> None:
    """Deletes `count` entries; StoppedAfter (ENOENT) at the first that is not there."""
    _change_batch(MAP_DELETE_BATCH, fd, keys, b"", count)


def _change_batch(command: int, fd: int, keys: bytes, values: bytes, count: int) -> None:
    key_room = ctypes.create_string_buffer(keys, len(keys))
    value_room = ctypes.create_string_buffer(values, len(values)) if values else None
    batch = _Batch(0, 0, _address(key_room), _address(value_room), count, fd, 0, 0)
    try:
        _call(command, batch, BATCH_BYTES)
    except OSError as error:
        stopped = StoppedAfter(error.errno, error.strerror)
        # A kernel that knows no batches of this map has not looked at the count.
        stopped.count = batch.count if batch.count < count else 0
        raise stopped from error


# ---------------------------------------------------------------- programs


class _TestRun(ctypes.Structure):
    """BPF_PROG_TEST_RUN."""

    _fields_ = (
        ("fd", c_uint32),
        ("retval", c_uint32),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("data_in", c_char_p),
        ("data_out", c_void_p),
        ("repeat", c_uint32),
        ("duration", c_uint32),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
        ("pad", c_uint32),
    )


TEST_RUN_BYTES = ctypes.sizeof(_TestRun)


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
    room_bytes: int = FRAME_ROOM,
) -> TestRun:
    """Runs a program in the kernel on `data`; from the second round on it sees its own output.

    `context_bytes` asks for the context back; with 0, what comes back is `context` as the kernel left it there, which
    SYSCALL programs change. `room_bytes` is how much the frame may grow. With `flags` F_TEST_XDP_LIVE_FRAMES the
    frames are real and go where the program sends them, `batch` at a time; nothing comes back then. Types that take no
    frame want `data` empty and `room_bytes` 0.
    """
    live = bool(flags & F_TEST_XDP_LIVE_FRAMES)
    out = ctypes.create_string_buffer(0 if live else len(data) + room_bytes)
    given = ctypes.create_string_buffer(context, len(context)) if context else None
    returned = ctypes.create_string_buffer(context_bytes) if context_bytes else None
    run = _TestRun(fd, 0, len(data), len(out), data or None, _address(out), repeat)
    run.ctx_size_in, run.ctx_in = len(context), _address(given)
    run.ctx_size_out, run.ctx_out = context_bytes, _address(returned)
    run.flags, run.batch_size = flags, batch
    _run(run)
    left = given.raw if given is not None else b""
    if returned is not None:
        left = returned.raw[: run.ctx_size_out]
    return TestRun(run.retval, ctypes.string_at(out, run.data_size_out), left, run.duration)


def prog_test_runs(fd: int, frames: Iterable[bytes]) -> Iterator[TestRun]:
    """One run for each frame, without contexts: 3 µs each, of which 2 are the kernel's."""
    out = ctypes.create_string_buffer(FRAME_ROOM)
    run = _TestRun(fd, 0, 0, 0, None, 0, 1)
    for frame in frames:
        if len(out) < len(frame) + FRAME_ROOM:
            out = ctypes.create_string_buffer(len(frame) + FRAME_ROOM)
        run.data_in, run.data_size_in = frame, len(frame)
        run.data_out, run.data_size_out = ctypes.addressof(out), len(out)
        _run(run)
        yield TestRun(run.retval, ctypes.string_at(out, run.data_size_out), b"", run.duration)


def _run(run: _TestRun) -> None:
    """A signal that Python handles (SIGWINCH, SIGCHLD) must not end a run; the kernel gives EINTR for each."""
    sizes = run.data_size_out, run.ctx_size_out
    while _syscall(SYS_BPF, PROG_TEST_RUN, ctypes.byref(run), TEST_RUN_BYTES):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
        run.data_size_out, run.ctx_size_out = sizes


def object_info(fd: int, room: int = 320) -> bytes:
    """struct bpf_prog_info, bpf_map_info, bpf_btf_info or bpf_link_info, as long as this kernel fills it."""
    info = ctypes.create_string_buffer(room)
    attributes = bytearray(struct.pack("=IIQ", fd, room, ctypes.addressof(info)))
    bpf(OBJ_GET_INFO_BY_FD, attributes)
    (length,) = struct.unpack_from("=I", attributes, 4)
    return info.raw[:length]


def map_facts(fd: int) -> tuple[int, int, int, int, int]:
    """(type, id, key bytes, value bytes, max entries) of struct bpf_map_info."""
    kind, number, key, value, most = struct.unpack_from("=5I", object_info(fd))
    return kind, number, key, value, most


def map_flags(fd: int) -> int:
    """The flags that a map was created with (BPF_F_NO_PREALLOC, ...)."""
    flags: int = struct.unpack_from("=I", object_info(fd), 20)[0]
    return flags


def map_memory(fd: int) -> int:
    """Bytes of kernel memory that a map takes now (memlock of its fdinfo; before Linux 6.4 an estimate)."""
    facts = Path(f"/proc/thread-self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in facts if line.startswith("memlock:"))


def fd_of_program(program_id: int) -> int:
    """A descriptor of a loaded program."""
    return bpf(PROG_GET_FD_BY_ID, bytearray(struct.pack("=III", program_id, 0, 0)))


def fd_of_map(map_id: int) -> int:
    """A descriptor of a map."""
    return bpf(MAP_GET_FD_BY_ID, bytearray(struct.pack("=III", map_id, 0, 0)))


def enable_stats() -> int:
    """A descriptor; while it is open the kernel counts and times every run of every program (Linux 5.8)."""
    return bpf(ENABLE_STATS, bytearray(struct.pack("=I", 0)))  # BPF_STATS_RUN_TIME


def run_count(fd: int) -> int:
    """How often a program ran while statistics were on (run_cnt of struct bpf_prog_info)."""
    number: int = struct.unpack_from("=Q", object_info(fd), 200)[0]
    return number


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


def link_ifindex(link_fd: int) -> int:
    """The interface of an XDP or TCX link, 0 once it is gone (struct bpf_link_info)."""
    number: int = struct.unpack_from("=I", object_info(link_fd), 16)[0]
    return number


def link_update(link_fd: int, new_prog_fd: int) -> None:
    """Replaces the program of a link: every frame meets either the old one or the new."""
    bpf(LINK_UPDATE, bytearray(struct.pack("=IIII", link_fd, new_prog_fd, 0, 0)))


def link_detach(link_fd: int) -> None:
    """Detaches now, though the descriptor stays open."""
    bpf(LINK_DETACH, bytearray(struct.pack("=I", link_fd)))


def iter_create(link_fd: int) -> int:
    """A file whose reader runs the iterator of the link, in the network namespace of this call."""
    return bpf(ITER_CREATE, bytearray(struct.pack("=II", link_fd, 0)))


def prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int = 0) -> None:
    """The attachment of old, for hooks that have no link (sockmap)."""
    bpf(PROG_ATTACH, bytearray(struct.pack("=IIIII", target_fd, prog_fd, attach_type, flags, 0)))


def prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """Undoes prog_attach."""
    bpf(PROG_DETACH, bytearray(struct.pack("=IIIII", target_fd, prog_fd, attach_type, 0, 0)))


def prog_query(target: int, attach_type: int) -> int:
    """How many programs sit at a hook; `target` is an ifindex or a descriptor."""
    attributes = bytearray(struct.pack("=IIIIQI4xQQQQ", target, attach_type, 0, 0, 0, 0, 0, 0, 0, 0))
    bpf(PROG_QUERY, attributes)
    count: int = struct.unpack_from("=I", attributes, 24)[0]
    return count


def raw_tracepoint_open(name: str, prog_fd: int) -> int:
    """A raw tracepoint's descriptor; with an empty name, that of the BTF hook the program was loaded for."""
    text = ctypes.create_string_buffer(name.encode())
    return bpf(
        RAW_TRACEPOINT_OPEN, bytearray(struct.pack("=QIIQ", ctypes.addressof(text) if name else 0, prog_fd, 0, 0))
    )
