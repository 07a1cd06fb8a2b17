"""A `lab` command that runs inside a namespace of the test, as on a machine of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAB = (sys.executable, "-m", "lab.cli")


class Door:
    """A `lab` command that runs inside a namespace."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def attached(self) -> str:
        """The line that says so; by then it is."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def line(self) -> str:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Its status and all that it still said on both."""
        self.process.send_signal(number)
        said, errors = self.process.communicate(timeout=20)
        return self.process.returncode, said + errors


@contextmanager
def door(namespace: Any, project: Path, *words: str) -> Iterator[Door]:
    process = namespace.popen(
        [*LAB, *words], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    try:
        yield Door(process)
    finally:
        process.kill()
        process.communicate()
