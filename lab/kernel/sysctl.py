"""Sysctls of the network namespace that the calling thread is in (/proc/sys/net follows the thread)."""

from __future__ import annotations

import os

from lab.errors import NetworkError


def path(name: str) -> str:
    """The file of "net.ipv4.ip_forward"; with a slash in it the name is taken as it is ("net/ipv4/conf/eth0.1/…")."""
    return "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))


def read(name: str) -> str:
    """The value as text, without its newline."""
    try:
        descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 4096).decode().rstrip("\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refused("read", name, error) from error


def write(name: str, value: str | int) -> None:
    """Sets a value; NetworkError with the kernel's word for a name or a value that it does not take."""
    try:
        descriptor = os.open(path(name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refused(f"write {value!r} to", name, error) from error


def _refused(action: str, name: str, error: OSError) -> NetworkError:
    return NetworkError(f"{action} sysctl {name}: {error.strerror}", kernel=error.strerror or str(error))
