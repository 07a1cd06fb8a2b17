"""The kernel: what nothing works without, then the features that single programs and scenarios need."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.doctor.check import Check
from lab.doctor.machine import TOOLS
from lab.errors import LabError, NeedsRoot
from lab.kernel import capabilities

if TYPE_CHECKING:
    from lab.features import State

REQUIRED = ("btf",)
"""The features without which no program is loaded; the others are what single scenarios need."""


def look_at_basics() -> Iterator[Check]:
    """What every scenario needs of the kernel."""
    yield _system_call()
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
        if error.errno == errno.EPERM and not capabilities.lacking():
            return Check(name, "no", True, gives, words, "outside of a container, or in one with --privileged")
        return Check(name, "unknown", True, gives, words)
    return Check(name, "yes", True, gives, "made a map and closed it")


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
    """Every feature that the lab knows how to ask for, required ones first; the tools among them stand above.

    Only what is known to be missing is mended: without root nothing can be told, and that is said once, above.
    """
    from lab import features

    above = {tool.command for tool in TOOLS}
    states = [state for state in features.probe() if state.name not in above]
    for state in sorted(states, key=lambda state: state.name not in REQUIRED):
        mend = state.mend if state.answer == "no" else ""
        yield Check(state.name, state.answer, state.name in REQUIRED, state.feature.gives, _seen(state), mend)


def _seen(state: State) -> str:
    """What the probe saw; of what is missing, also since when it exists."""
    since = state.feature.since
    return ", ".join(words for words in (state.detail, "" if state.there or not since else f"since {since}") if words)
