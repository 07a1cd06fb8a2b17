"""A cgroup v2 folder of the lab's own, for programs that see the sockets of the processes in it.

Folders outlive the process that made them, so each is named by its owner (PID namespace, PID, start time), and those
whose owner is dead are swept when the next one is made. The folder takes no controllers: nothing is limited.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.errors import FeatureMissing, LabError, NeedsRoot
from lab.kernel import mounts, origin
from lab.wait import wait_until

CGROUP2_SUPER_MAGIC = 0x63677270  # linux/magic.h
NAME = re.compile(r"bpflab-(\d+)-(\d+)-(\d+)-\d+")

_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count(1)


def is_version_2(descriptor: int) -> bool:
    """Whether the descriptor is a folder (or file) of cgroup2."""
    found = ctypes.create_string_buffer(256)
    if _libc.fstatfs(descriptor, found):
        return False
    return ctypes.c_long.from_buffer(found).value == CGROUP2_SUPER_MAGIC


def root() -> Path:
    """Where cgroup2 is mounted; FeatureMissing where it is not."""
    place = mounts.mounted("cgroup2")
    if place is None:
        raise FeatureMissing(
            "make a cgroup: cgroup2 is not mounted", mend="mount -t cgroup2 none /sys/fs/cgroup, or a kernel with it"
        )
    return Path(place)


class Cgroup:
    """A new cgroup, empty; a lab.model.target.CgroupTarget. Use it as a context manager.

    with Cgroup() as group, program.attach(group), group.entered():
        connection = net["client"].socket(socket.AF_INET)     # a socket belongs to the cgroup it was made in
    """

    def __init__(self) -> None:
        sweep()
        self.path = root() / _name()
        self.name = f"cgroup {self.path.name}"
        try:
            self.path.mkdir()
        except PermissionError as error:
            raise NeedsRoot(f"make {self.path}", kernel=error.strerror or "", mend="run it as root (sudo)") from error
        except OSError as error:
            raise LabError(f"make {self.path}", kernel=error.strerror or "") from error
        self.cgroup_fd = origin.descriptor(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def add(self, pid: int) -> None:
        """Moves a process here, with all its threads; sockets it has already stay where they were."""
        _move(pid, self.path)

    @contextmanager
    def entered(self) -> Iterator[Self]:
        """This process, with all its threads, is inside for the length of the block, and then where it was."""
        home = root() / _own_path().lstrip("/")
        _move(0, self.path)
        try:
            yield self
        finally:
            _move(0, home)

    def close(self) -> None:
        """Removes it; what was attached to it ends. LabError while a process is inside; a second call does nothing."""
        if self.cgroup_fd < 0:
            return
        os.close(self.cgroup_fd)
        self.cgroup_fd = -1
        try:
            wait_until(lambda: _remove(self.path), within_s=2, what=f"{self.path.name} without processes")
        except LabError as error:
            raise LabError(
                f"remove {self.path}: processes {', '.join(_processes(self.path)) or 'that end'} are inside",
                mend="end them, or leave group.entered(), first",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cgroup {self.path.name}>"


def sweep() -> None:
    """Removes the folders of labs that are dead; those of other PID namespaces cannot be judged, and stay."""
    for folder in root().glob("bpflab-*"):
        named = NAME.fullmatch(folder.name)
        if named and int(named[1]) == _pid_namespace() and _start_time(named[2]) != named[3]:
            _remove(folder)


def _name() -> str:
    pid = os.getpid()
    return f"bpflab-{_pid_namespace()}-{pid}-{_start_time(str(pid))}-{next(_serial)}"


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start_time(pid: str) -> str:
    """In clock ticks since boot, field 22 of /proc/PID/stat; "" when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")  # a process may call itself anything
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[19]


def _own_path() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    raise FeatureMissing("find this process's cgroup: the kernel has no cgroup2", mend="a kernel since 4.5 with it")


def _move(pid: int, folder: Path) -> None:
    try:
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        what = f"move process {pid or os.getpid()} into {folder}"
        raise LabError(what, kernel=error.strerror or "", mend="a process that lives, and root") from error


def _remove(folder: Path) -> bool:
    with suppress(FileNotFoundError):
        try:
            folder.rmdir()
        except OSError:
            return False
    return True


def _processes(folder: Path) -> list[str]:
    with suppress(OSError):
        return (folder / "cgroup.procs").read_text().split()
    return []
