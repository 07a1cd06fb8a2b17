"""Files that are there whole or not at all, and of which nothing else is ever left, whenever the process dies.

The content is written into a file without a name (O_TMPFILE, open(2)) and flushed to the disk before it gets one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
"""What file systems say that have no O_TMPFILE (overlayfs before Linux 6.6, NFS)."""


def write(target: Path, content: bytes) -> None:
    """Whoever opens `target` reads the old content or the new, whole; OSError when it could not be written.

    Its folder is made where it is missing. The file and its name are on the disk when this returns.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _nameless(folder, target) as descriptor:
            _write_all(descriptor, content)
            os.fsync(descriptor)
            _name(descriptor, folder, target)
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _nameless(folder: int, target: Path) -> Iterator[int]:
    """A new file; where the file system cannot do without a name it has a hidden one."""
    try:
        descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno not in NO_NAMELESS:
            raise
        hidden = _hidden(target)
        descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder)
    else:
        hidden = ""
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        if hidden:
            with suppress(OSError):  # it has its name by now
                os.unlink(hidden, dir_fd=folder)


def _name(descriptor: int, folder: int, target: Path) -> None:
    """Only where there is a file of that name already does it pass through a hidden one, for one system call."""
    source = f"/proc/self/fd/{descriptor}"
    try:
        os.link(source, target.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        hidden = _hidden(target)
        with suppress(FileExistsError):  # nameless it never was
            os.link(source, hidden, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
        try:
            os.rename(hidden, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(hidden, dir_fd=folder)
            raise


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _hidden(target: Path) -> str:
    return f".{target.name}.{os.getpid()}.tmp"
