"""A Python on another machine: what pytest-xdist takes as a worker.

    pytest --dist load --tx "popen//python=python -m lab.hosts.worker root@alpha" scenarios/

Everything after the host's name are arguments of Python. The checkout and its virtual environment stand at the same
path there: pytest-xdist gives a worker the paths of its own process. $LAB_SSH is the command that reaches hosts.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

# No question is ever asked, and a host that is gone is noticed within a minute.
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=3"


def command(host: str, arguments: Sequence[str]) -> list[str]:
    """The local command that runs this very Python, in this very folder, on another host."""
    words = [f"LAB_HOST={host}", sys.executable, *arguments]
    remote = f"cd {shlex.quote(str(Path.cwd()))} && exec env {shlex.join(words)}"
    return [*shlex.split(os.environ.get("LAB_SSH") or SSH), "--", host, remote]


def main() -> None:
    """Becomes ssh: its standard input and output are the worker's."""
    host, *arguments = sys.argv[1:]
    argv = command(host, arguments)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main()
