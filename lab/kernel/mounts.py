"""Where pseudo file systems are, and how to look into one that is mounted nowhere (fsopen(2), Linux 5.2)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432  # the same on every architecture
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 1
CLONE_FS, CLONE_NEWNS = 0x200, 0x20000
MS_RDONLY, MS_BIND, MS_REC, MS_PRIVATE = 1, 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def mounted(kind: str) -> str | None:
    """The first place where a file system of this kind is mounted, None when it is nowhere."""
    return next((place for _, place, found in _table() if found == kind), None)


@contextmanager
def folder(kind: str) -> Iterator[int]:
    """A descriptor of the root of the file system, wherever it is mounted, or else mounted for nobody else to see."""
    place = mounted(kind)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if place else detached(kind)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def detached(kind: str) -> int:
    """A mount without a place in the tree: it is gone with its descriptor. OSError where the kernel has none."""
    context = _call(FSOPEN, kind.encode(), FSOPEN_CLOEXEC)
    try:
        _call(FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(FSMOUNT, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)


def set_apart(kind: str, place: str) -> None:
    """The calling thread gets a working directory of its own and, where `kind` is mounted nowhere, mounts of its own.

    There is no way back: for a thread that ends soon. The mount at `place` is seen by this thread alone.
    """
    if _libc.unshare(CLONE_FS):
        raise OSError(ctypes.get_errno(), "unshare the working directory")
    if mounted(kind) is None and not _libc.unshare(CLONE_NEWNS):
        nothing = ctypes.c_void_p()
        if not _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, nothing):
            _libc.mount(kind.encode(), place.encode(), kind.encode(), MS_RDONLY, nothing)  # where it may


def sys_of_this_namespace() -> None:
    """The calling process gets mounts of its own, and there a /sys that shows its present network namespace.

    What was mounted below the old /sys is bound into the new one. There is no way back. OSError where it is refused.
    """
    _checked(_libc.unshare(CLONE_NEWNS), "unshare the mounts")
    _checked(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make the mounts private")
    below = [place for _, place, _ in _table() if place.startswith("/sys/")]
    # Each is held by a descriptor while the new /sys covers the old one.
    held = {place: os.open(place, os.O_PATH | os.O_CLOEXEC) for place in below}
    _checked(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "mount /sys")
    for place, descriptor in held.items():
        with suppress(OSError):  # a place that only the old one had
            _checked(_libc.mount(f"/proc/self/fd/{descriptor}".encode(), place.encode(), None, MS_BIND, None), place)
        os.close(descriptor)


def _table() -> list[tuple[str, str, str]]:
    """(source, place, kind) of each mount that the calling thread sees."""
    with open("/proc/thread-self/mounts", encoding="utf-8", errors="surrogateescape") as table:  # noqa: PTH123
        rows = [line.split(" ")[:3] for line in table]
    return [(source, place.encode().decode("unicode_escape"), kind) for source, place, kind in rows]


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
