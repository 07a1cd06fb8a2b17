"""System calls by name, from the machine's headers."""

from __future__ import annotations

import ctypes
import os

from lab.bpf.syscalls import names, numbers


def test_a_name_has_the_number_that_the_kernel_answers_to() -> None:
    """syscall(numbers()["getppid"]) gives what getppid() does."""
    libc = ctypes.CDLL(None)

    assert libc.syscall(numbers()["getppid"]) == os.getppid()
    assert libc.syscall(numbers()["getuid"]) == os.getuid()


def test_every_call_of_the_network_is_there_and_back() -> None:
    """Numbers and names are each other's inverse, and hundreds."""
    assert {"socket", "connect", "accept4", "sendto", "close", "io_uring_enter"} <= numbers().keys()
    assert len(names()) == len(numbers()) > 250
    assert all(names()[number] == name for name, number in numbers().items())
