"""The kernel: what nothing works without, then the features that single programs and scenarios need."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from lab.doctor.check import Check
from lab.doctor.machine import lacking_capabilities
from lab.errors import LabError, NeedsRoot


def look_at_basics() -> Iterator[Check]:
    """What every scenario needs of the kernel."""
    yield _system_call()
    yield _btf()
    yield _namespaces()


def _system_call() -> Check:
    """Makes a map of one entry and closes it."""
    from lab.kernel import bpf

    name, gives = "BPF system call", "every program and map"
    array = 2  # BPF_MAP_TYPE_ARRAY
    try:
        os.close(bpf.map_create(bpf.MapSpec(array, 4, 4, 1, name="lab_doctor")))
    except OSError as error:
        words = error.strerror or str(error)
        if error.errno == errno.ENOSYS:
            return Check(name, "no", True, gives, words, "a kernel with CONFIG_BPF_SYSCALL=y")
        if error.errno == errno.EPERM and not lacking_capabilities():
            return Check(name, "no", True, gives, words, "outside of a container, or in one with --privileged")
        return Check(name, "unknown", True, gives, words)
    return Check(name, "yes", True, gives, "made a map and closed it")


def _btf() -> Check:
    path = Path("/sys/kernel/btf/vmlinux")
    gives = "the kernel's types, for CO-RE"
    if path.is_file():
        return Check("kernel BTF", "yes", True, gives, str(path))
    return Check("kernel BTF", "no", True, gives, f"{path} is missing", "a kernel with CONFIG_DEBUG_INFO_BTF=y")


def _namespaces() -> Check:
    """Makes one and leaves it; only root can tell."""
    from lab.kernel import netns

    gives = "every topology"
    try:
        with netns.restored():
            netns.unshare()
    except NeedsRoot as error:
        return Check("network namespaces", "unknown", True, gives, error.kernel)
    except LabError as error:
        return Check("network namespaces", "no", True, gives, error.kernel, error.mend)
    except FileNotFoundError as error:
        return Check("network namespaces", "no", True, gives, str(error), "a kernel with CONFIG_NET_NS=y, and /proc")
    return Check("network namespaces", "yes", True, gives, "made one and left it")


def look_at_features() -> Iterator[Check]:
    """Every feature that the lab knows how to ask for; nothing here is required by itself."""
    return iter(())
