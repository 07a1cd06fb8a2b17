"""Network namespaces without names: made, entered and held by file descriptors (namespaces(7), setns(2)).

A namespace belongs to the calling thread here, never to the process: other threads stay where they are.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from lab.errors import NeedsRoot, NetworkError
from lab.kernel import origin
from lab.wait import wait_until

CLONE_NEWNET = 0x40000000
SIOCGSKNS = 0x894C  # linux/sockios.h: the namespace of a socket, as a descriptor
# For the program's own files, sockets and maps beside the namespaces.
SPARE_DESCRIPTORS = 256

_libc = ctypes.CDLL(None, use_errno=True)


def open_current() -> int:
    """A new descriptor of the calling thread's namespace; the caller closes it."""
    return origin.descriptor(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))


def open_of_socket(sock: socket.socket) -> int:
    """A new descriptor of the namespace that `sock` was opened in; the caller closes it."""
    descriptor = fcntl.ioctl(sock, SIOCGSKNS)
    os.set_inheritable(descriptor, False)
    return descriptor


def enter(netns_fd: int) -> None:
    """Moves the calling thread into the namespace."""
    if _libc.setns(netns_fd, CLONE_NEWNET):
        raise _refused("enter a network namespace")


def unshare() -> None:
    """Moves the calling thread into a new, empty namespace.

    Dying namespaces count against user.max_net_namespaces until the kernel has swept them: that is waited for.
    """

    def made() -> bool:
        if not _libc.unshare(CLONE_NEWNET):
            return True
        if ctypes.get_errno() not in (errno.ENOSPC, errno.EUSERS):
            raise _refused("make a network namespace")
        return False

    if not made():
        wait_until(made, within_s=10, what="room for a namespace below /proc/sys/user/max_net_namespaces")


@contextmanager
def restored() -> Iterator[None]:
    """Whatever namespaces are entered inside the block, the thread ends where it began."""
    home = open_current()
    try:
        yield
    finally:
        try:
            _return_to(home)
        finally:
            os.close(home)


def _return_to(home: int) -> None:
    """Without CAP_SYS_ADMIN nothing can be entered, but then the thread has never left."""
    try:
        enter(home)
    except NeedsRoot:
        here = open_current()
        try:
            if identity(here) != identity(home):
                raise
        finally:
            os.close(here)


@contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """The block runs in the namespace; the thread is back afterwards, also upon an exception."""
    with restored():
        enter(netns_fd)
        yield


def identity(netns_fd: int) -> tuple[int, int]:
    """Device and inode: equal for two descriptors of one namespace, and for no others that live now."""
    status = os.fstat(netns_fd)
    return status.st_dev, status.st_ino


def allow_descriptors(number: int) -> None:
    """Raises the soft limit of open files so that `number` more fit; NetworkError where the hard limit forbids it."""
    lowest_free = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = lowest_free + number + SPARE_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise NetworkError(
            f"open {number} more files: the hard limit of this process is {hard}",
            mend=f"ulimit -Hn {wanted}, or fewer namespaces",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _refused(what: str) -> NeedsRoot | NetworkError:
    code = ctypes.get_errno()
    words = os.strerror(code)
    if code == errno.EPERM:
        return NeedsRoot(f"{what}: it needs CAP_SYS_ADMIN", kernel=words, mend="run it as root (sudo)")
    return NetworkError(f"{what}: {words}", kernel=words)
