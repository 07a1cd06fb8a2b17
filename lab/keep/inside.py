"""A shell or a command in a kept namespace: what `ip`, `tcpdump` and `bpftool` show there is the namespace's.

/sys is mounted anew, for /sys/class/net is that of the namespace in which it was mounted (sysfs(5)); what was mounted
below it (bpffs, cgroup2, tracefs) is put back. All of it in a mount namespace of this process alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lab.errors import LabError
from lab.kernel import mounts, netns

PROMPT = "({}) \\w # "


def enter(netns_fd: int) -> None:
    """Moves this process into the namespace, its /sys with it; there is no way back."""
    netns.enter(netns_fd)
    mounts.sys_of_this_namespace()


def become(kept: str, namespace: str, netns_fd: int, argv: Sequence[str]) -> NoReturn:
    """This process becomes the command, or a shell where there is none, inside the namespace."""
    enter(netns_fd)
    environment = {**os.environ, "LAB_KEPT": kept, "LAB_NAMESPACE": namespace}
    command = list(argv) or _shell(namespace, environment)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise LabError(f"shell: {command[0]}: {error.strerror}", mend="lab shell NAME NAMESPACE COMMAND …") from error


def _shell(namespace: str, environment: dict[str, str]) -> list[str]:
    """The user's own, with the namespace's name in its prompt: bash sets its own last, so it gets a file to read."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    prompt = PROMPT.format(namespace)
    environment["PS1"] = prompt
    if Path(shell).name != "bash" or not os.isatty(0):
        return [shell]
    commands = f"[ -f ~/.bashrc ] && . ~/.bashrc\nPS1='{prompt}'\n"
    descriptor = os.memfd_create("prompt", 0)
    os.write(descriptor, commands.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return [shell, "--rcfile", f"/dev/fd/{descriptor}", "-i"]
