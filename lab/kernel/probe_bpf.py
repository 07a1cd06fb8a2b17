"""Does this kernel have it: maps, kinds of programs, and hooks away from interfaces. Probes as in probe_net."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.kernel import bpf, capabilities, libbpf, mounts, perf_event, tracefs
from lab.kernel.bpf import MapSpec
from lab.kernel.cgroup import Cgroup
from lab.kernel.perf_event import Event
from lab.kernel.probe_net import Absent, absent_on, loaded
from lab.kernel.scratch import Scratch
from lab.kernel.tiny_program import TinyProgram, instruction, returning

HASH, SOCKMAP, RINGBUF, BLOOM_FILTER = 1, 15, 27, 30  # enum bpf_map_type
SOCKET_FILTER, KPROBE, TRACEPOINT, SOCK_OPS, SK_MSG = 1, 2, 5, 13, 16  # enum bpf_prog_type
SK_REUSEPORT, TRACING, SK_LOOKUP = 21, 26, 30
CGROUP_SOCK_OPS, SK_MSG_VERDICT, RAW_TP, FENTRY, SK_LOOKUP_HOOK, KPROBE_MULTI = 3, 7, 23, 24, 36, 42
CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT = 18, 10
SO_ATTACH_REUSEPORT_EBPF = 52
SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, BPF_FUNC_SETSOCKOPT = 6, 1008, 49
ENOTSUPP = 524  # the kernel's own, which it should never let out
FUNCTION = "bpf_fentry_test1"
"""The kernel has it for tests like these; it runs only under BPF_PROG_RUN of a tracing program."""
SETTING_CALLBACKS = b"".join(
    (
        instruction(0x62, dst=10, offset=-4),  # u32 flags = 0, on the stack
        instruction(0xB7, dst=2, immediate=SOL_TCP),
        instruction(0xB7, dst=3, immediate=TCP_BPF_SOCK_OPS_CB_FLAGS),
        instruction(0xBF, dst=4, src=10),
        instruction(0x07, dst=4, immediate=-4),  # &flags
        instruction(0xB7, dst=5, immediate=4),
        instruction(0x85, immediate=BPF_FUNC_SETSOCKOPT),
        instruction(0x15, offset=2),  # if it was done
        returning(0),
        returning(1),
    )
)
"""Of connect4: refuses the connect() where the socket's callbacks cannot be set."""


@contextmanager
def made(spec: MapSpec) -> Iterator[int]:
    """The map's descriptor, for the length of the block; Absent when the kernel knows no such type."""
    with absent_on(errno.EINVAL):
        descriptor = bpf.map_create(spec)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def ringbuf(_scratch: Scratch) -> None:
    """A map of type ringbuf."""
    with made(MapSpec(RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"))):
        pass


def bloom(_scratch: Scratch) -> None:
    """A map of type bloom_filter."""
    with made(MapSpec(BLOOM_FILTER, 0, 4, 1)):
        pass


def dynptr_xdp(_scratch: Scratch) -> None:
    """The kfunc that makes a dynptr of an XDP frame."""
    _named("function", "bpf_dynptr_from_xdp")


def stray_reset(_scratch: Scratch) -> None:
    """The tracepoint tells of resets without a socket, too ("trace: tcp: fully support trace_tcp_send_reset").

    Seen by a type that came in the same version: to see such a reset takes a program that others' resets find, too.
    """
    _named("type", "sk_rst_reason")


def reset_reason(_scratch: Scratch) -> None:
    """The reasons that close() has for a reset; the tracepoint tells reasons since 6.10, these came in 6.12."""
    _named("enumerator", "SK_RST_REASON_TCP_ABORT_ON_LINGER")


def _named(kind: str, name: str) -> None:
    """A name in the kernel's types."""
    try:
        there = f"\0{name}\0".encode() in Path("/sys/kernel/btf/vmlinux").read_bytes()
    except FileNotFoundError:
        raise Absent("the kernel has no BTF") from None
    if not there:
        raise Absent(f"no {kind} {name}")


def batch(_scratch: Scratch) -> None:
    """BPF_MAP_UPDATE_BATCH on a hash map."""
    with made(MapSpec(HASH, 4, 4, 1)) as table, absent_on(errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP):
        bpf.map_update_batch(table, bytes(4), bytes(4), 1)


def sockmap(_scratch: Scratch) -> None:
    """A sockmap, with a program that judges messages on it."""
    judge = TinyProgram(SK_MSG, returning(1), SK_MSG_VERDICT)
    with made(MapSpec(SOCKMAP, 4, 4, 1)) as table, absent_on(errno.EINVAL, errno.EOPNOTSUPP), loaded(judge) as program:
        bpf.prog_attach(table, program, SK_MSG_VERDICT)


def cgroup2(_scratch: Scratch) -> None:
    """cgroup v2, mounted: without a mount there is no folder to attach to."""
    if mounts.mounted("cgroup2") is None:
        known = "cgroup2" in Path("/proc/filesystems").read_text().split()
        raise Absent("not mounted" if known else "the kernel has no cgroup2")


def sock_ops(scratch: Scratch) -> None:
    """Programs of type sock_ops, and cgroups that hold them; a query of the root, because attaching there is felt."""
    cgroup2(scratch)
    with mounts.folder("cgroup2") as root, absent_on(errno.EINVAL), loaded(TinyProgram(SOCK_OPS, returning(1))):
        bpf.prog_query(root, CGROUP_SOCK_OPS)


def late_callbacks(scratch: Scratch) -> None:
    """bpf_setsockopt() of a socket's callbacks: a connect() to nowhere, refused where the kernel cannot do it."""
    cgroup2(scratch)
    hook = TinyProgram(CGROUP_SOCK_ADDR, SETTING_CALLBACKS, CGROUP_INET4_CONNECT)
    with loaded(hook) as program, Cgroup() as group, scratch.inside():
        link = bpf.link_create(program, group.cgroup_fd, CGROUP_INET4_CONNECT)
        try:
            with group.entered(), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                answer = client.connect_ex(("127.0.0.1", 9))
        finally:
            os.close(link)
    if answer == errno.EPERM:
        raise Absent("bpf_setsockopt() does not know TCP_BPF_SOCK_OPS_CB_FLAGS")


def sk_lookup(scratch: Scratch) -> None:
    """A bpf_link on a network namespace."""
    with absent_on(errno.EINVAL), loaded(TinyProgram(SK_LOOKUP, returning(1), SK_LOOKUP_HOOK)) as program:
        os.close(bpf.link_create(program, scratch.netns_fd, SK_LOOKUP_HOOK))


def sk_reuseport(scratch: Scratch) -> None:
    """A program that chooses the socket of a group (4.19)."""
    with absent_on(errno.EINVAL, errno.ENOPROTOOPT), loaded(TinyProgram(SK_REUSEPORT, returning(1))) as program:
        with scratch.inside():
            group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with group:
            group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            group.bind(("0.0.0.0", 0))
            group.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, program)


def tp_btf(_scratch: Scratch) -> None:
    """A program at a tracepoint that almost never fires, typed by the kernel's BTF."""
    _trace("xdp_exception", RAW_TP)


def fentry(scratch: Scratch) -> None:
    """A program at the entry of a function.

    EPERM is an answer only where the same caller may trace otherwise, so tp_btf is tried first.
    """
    tp_btf(scratch)
    with absent_on(errno.EPERM):
        _trace(FUNCTION, FENTRY)


def _trace(name: str, attach_type: int) -> None:
    btf(None)
    libbpf.listen()
    found = libbpf.library().libbpf_find_vmlinux_btf_id(name.encode(), attach_type)
    if found < 0:
        with absent_on(errno.ENOENT, errno.ESRCH):
            raise OSError(-found, f"no {name} in the kernel's BTF")
    tracer = TinyProgram(TRACING, returning(0), attach_type, attach_btf_id=found)
    with absent_on(errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP), loaded(tracer) as program:
        os.close(bpf.raw_tracepoint_open("", program))


def kprobe(_scratch: Scratch) -> None:
    """An event at a function's entry, not enabled."""
    sources = Path("/sys/bus/event_source/devices")
    if sources / "kprobe" not in sources.iterdir():
        raise Absent(f"{sources}/kprobe is missing")
    kind, _ = perf_event.probe_type("kprobe")
    name = ctypes.create_string_buffer(FUNCTION.encode())
    with loaded(TinyProgram(KPROBE)) as program:
        event = Event(kind, 0, config1=ctypes.addressof(name)).open()
        try:
            perf_event.set_program(event, program)
        finally:
            os.close(event)


def kprobe_multi(_scratch: Scratch) -> None:
    """A bpf_link on a list of functions."""
    name = ctypes.create_string_buffer(FUNCTION.encode())
    names = (ctypes.c_void_p * 1)(ctypes.addressof(name))
    extra = struct.pack("=IIQQQ", 0, 1, ctypes.addressof(names), 0, 0)
    tracer = TinyProgram(KPROBE, expected_attach_type=KPROBE_MULTI)
    with absent_on(errno.EINVAL, errno.EOPNOTSUPP), loaded(tracer) as program:
        os.close(bpf.link_create(program, 0, KPROBE_MULTI, extra=extra))


def tracepoint(_scratch: Scratch) -> None:
    """A program at a tracepoint of tracefs that almost never fires; not enabled."""
    with absent_on(errno.ENOENT, errno.ENODEV):
        number = tracefs.event_id("xdp", "xdp_exception")
    with loaded(TinyProgram(TRACEPOINT)) as program:
        event = Event(perf_event.PERF_TYPE_TRACEPOINT, number).open()
        try:
            perf_event.set_program(event, program)
        finally:
            os.close(event)


def bpf_stats(_scratch: Scratch) -> None:
    """BPF_ENABLE_STATS: on for as long as the descriptor is open, here a few µs."""
    with absent_on(errno.EINVAL):
        os.close(bpf.bpf(bpf.ENABLE_STATS, bytearray(4)))


def btf(_scratch: Scratch | None) -> None:
    """The kernel's own types."""
    if not Path("/sys/kernel/btf/vmlinux").is_file():
        raise Absent("/sys/kernel/btf/vmlinux is missing")


def jit(_scratch: Scratch) -> None:
    """Whether a program that was loaded has machine code; the sysctl is to be seen in the first namespace only."""
    with loaded(TinyProgram(SOCKET_FILTER)) as program:
        (jited_bytes,) = struct.unpack_from("=I", bpf.object_info(program), 16)
    if not jited_bytes and capabilities.lacking():
        raise PermissionError(errno.EPERM, "the kernel tells only root how long the machine code is")
    if not jited_bytes:
        raise Absent("programs are interpreted")
