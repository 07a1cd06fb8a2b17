"""What befalls a victim, at a random moment or from its start."""

from __future__ import annotations

import os
import random
import resource
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from lab.wait import wait_until

MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
MIB = 1 << 20


@dataclass
class Misfortune:
    """Nothing yet."""

    dice: random.Random
    signal: ClassVar[int] = 0
    """What it is told at its moment; 0: nothing, and it ends by itself or is killed in the end."""

    def prepare(self, folder: Path) -> None:
        """By the worker, before the victim is there."""

    def inside(self) -> None:
        """By the victim, before it begins."""

    def strike(self, pid: int) -> None:
        """At its moment."""
        if self.signal:
            with suppress(ProcessLookupError):
                os.kill(pid, self.signal)

    def end(self) -> None:
        """By the worker, when the victim is dead."""


class Killed(Misfortune):
    """SIGKILL."""

    signal = signal.SIGKILL


class Terminated(Misfortune):
    """SIGTERM."""

    signal = signal.SIGTERM


class Interrupted(Misfortune):
    """SIGINT, as of Ctrl-C."""

    signal = signal.SIGINT


class OutOfAddresses(Misfortune):
    """RLIMIT_AS: malloc and mmap fail somewhere."""

    def inside(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + self.dice.randrange(300 * MIB)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


class OutOfMemory(Misfortune):
    """A memory cgroup that is too small: the kernel's own allocations fail, or its OOM killer comes."""

    def prepare(self, folder: Path) -> None:
        self._group = MEMORY_CGROUPS / f"{folder.parent.name}-{folder.name}"
        self._group.mkdir()
        (self._group / "memory.limit_in_bytes").write_text(str(self.dice.randrange(4 * MIB, 80 * MIB)))

    def inside(self) -> None:
        (self._group / "cgroup.procs").write_text("0")

    def end(self) -> None:
        self._group.rmdir()


class FullDisk(Misfortune):
    """Cache, runs and temporary folder on a tiny tmpfs."""

    def prepare(self, folder: Path) -> None:
        from tests.chaos import room

        self._places = [folder / name for name in ("tmp", "runs")]
        for each in self._places:
            room.mount("tmpfs", str(each), "tmpfs", options=f"size={self.dice.randrange(16, 600)}k")

    def end(self) -> None:
        """The mounts are the worker's: they are looked into first, and taken away behind that."""
        from tests.chaos import room

        for each in self._places:
            room.unmount(each)


class ClosedOutput(Misfortune):
    """Standard output and error are a pipe whose reader goes away."""

    def prepare(self, folder: Path) -> None:
        self._reader, self._writer = os.pipe()

    def inside(self) -> None:
        os.dup2(self._writer, 1)
        os.dup2(self._writer, 2)
        os.close(self._reader)

    def strike(self, pid: int) -> None:
        os.close(self._reader)
        self._reader = -1

    def end(self) -> None:
        os.close(self._writer)
        if self._reader >= 0:
            os.close(self._reader)


def sweep(folder: Path) -> None:
    """What rounds that were broken off left of memory cgroups; their processes are dead or dying."""
    groups = list(MEMORY_CGROUPS.glob(f"{folder.name}-*"))
    for each in groups:
        wait_until(partial(_removed, each), within_s=5, what=f"the end of {each.name}")


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def every() -> tuple[type[Misfortune], ...]:
    """Those that this machine can bring about."""
    found = (Killed, Terminated, Interrupted, OutOfAddresses, FullDisk, ClosedOutput)
    return (*found, OutOfMemory) if (MEMORY_CGROUPS / "memory.limit_in_bytes").exists() else found
