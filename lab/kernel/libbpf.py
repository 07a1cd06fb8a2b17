"""The system's libbpf by ctypes: reading objects, CO-RE relocation, loading. The rest is bpf(2) itself."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from typing import Any

from lab.errors import FeatureMissing

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
PERF_SAMPLE = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_uint32)
PERF_LOST = ctypes.CFUNCTYPE(None, c_void_p, c_int, ctypes.c_uint64)


class ObjectOpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts, as far as libbpf 1.0 has it."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("attach_prog_fd", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log_buf", c_void_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint32),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "libbpf_set_print": (c_void_p, (_PRINT,)),
    "libbpf_version_string": (c_char_p, ()),
    "bpf_object__open_mem": (c_void_p, (c_void_p, c_size_t, POINTER(ObjectOpenOptions))),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__btf_fd": (c_int, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__type": (c_int, (c_void_p,)),
    "bpf_program__set_type": (c_int, (c_void_p, c_int)),
    "bpf_program__expected_attach_type": (c_int, (c_void_p,)),
    "bpf_program__set_expected_attach_type": (c_int, (c_void_p, c_int)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__set_log_buf": (c_int, (c_void_p, c_void_p, c_size_t)),
    "bpf_program__set_log_level": (c_int, (c_void_p, c_uint32)),
    "bpf_program__set_flags": (c_int, (c_void_p, c_uint32)),
    "bpf_program__flags": (c_uint32, (c_void_p,)),
    "bpf_program__insn_cnt": (c_size_t, (c_void_p,)),
    "bpf_program__insns": (c_void_p, (c_void_p,)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__set_pin_path": (c_int, (c_void_p, c_char_p)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map__set_initial_value": (c_int, (c_void_p, c_void_p, c_size_t)),
    "ring_buffer__new": (c_void_p, (c_int, SAMPLE, c_void_p, c_void_p)),
    "ring_buffer__consume": (c_int, (c_void_p,)),
    "ring_buffer__poll": (c_int, (c_void_p, c_int)),
    "ring_buffer__free": (None, (c_void_p,)),
    "perf_buffer__new": (c_void_p, (c_int, c_size_t, PERF_SAMPLE, PERF_LOST, c_void_p, c_void_p)),
    "perf_buffer__poll": (c_int, (c_void_p, c_int)),
    "perf_buffer__consume": (c_int, (c_void_p,)),
    "perf_buffer__free": (None, (c_void_p,)),
    "libbpf_num_possible_cpus": (c_int, ()),
}

_said = threading.local()


@cache
def library() -> ctypes.CDLL:
    """libbpf.so.1, its functions typed; FeatureMissing where it is not installed."""
    try:
        found = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise FeatureMissing(
            "load a program: libbpf.so.1 is not installed", kernel=str(error), mend="apt-get install libbpf1"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def vsnprintf(text: bytes, arguments: int) -> str:
    """The C library's formatting of a va_list, which a libbpf print callback is given."""
    buffer = ctypes.create_string_buffer(8192)
    libc = ctypes.CDLL(None)
    libc.vsnprintf.argtypes = (c_char_p, c_size_t, c_char_p, c_void_p)
    libc.vsnprintf(buffer, len(buffer), text, arguments)
    return buffer.value.decode(errors="replace")


def _listener(level: int, text: bytes, arguments: int) -> int:
    if level < 2 and hasattr(_said, "lines"):  # LIBBPF_WARN and LIBBPF_INFO
        _said.lines.append(vsnprintf(text, arguments).rstrip().removeprefix("libbpf: "))
    return 0


_callback = _PRINT(_listener)
"""Kept here: libbpf keeps the address only."""


def listen() -> list[str]:
    """From now on what libbpf says on this thread is kept in the list that comes back, and not printed.

    Registered anew before each use: importing bcc takes the one callback over.
    """
    _said.lines = []
    library().libbpf_set_print(_callback)
    lines: list[str] = _said.lines
    return lines


@contextmanager
def signals_later() -> Iterator[None]:
    """Ctrl-C in the block is met at its end: an exception inside of a callback from C would be forgotten."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    kept = {each: handler for each, handler in handlers.items() if callable(handler)}
    try:
        for each in kept:
            signal.signal(each, lambda number, _: came.append(number))
        yield
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def error_of(result: int | None) -> int:
    """The errno of a failed call: libbpf gives -errno, or NULL with errno set."""
    return -result if result else ctypes.get_errno() or errno.EINVAL


def sentence(number: int) -> str:
    """The C library's words for an errno, with its name."""
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    return int(library().libbpf_num_possible_cpus())
