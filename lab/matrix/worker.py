"""A Python that runs in a machine with another kernel: what pytest-xdist takes as a worker.

    pytest --dist each --tx "popen//python=python -m lab.matrix.worker 6.1" scenarios/

Everything after the kernel's name are arguments of Python. The console's text is in $LAB_VM_FOLDER (or
reports/matrix/<release>), and beside it a file `lost` with the reason when the machine hung, panicked or died.
LAB_VM_SILENCE_S says after how many seconds without a beat it is taken to hang.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from lab.effort import EFFORT
from lab.errors import LabError
from lab.matrix.acceleration import accelerator
from lab.matrix.kernel import find
from lab.matrix.machine import Machine, start
from lab.matrix.watch import SILENCE_S, watch
from lab.project import find_project
from lab.wait import PATIENCE

LOST, CONSOLE = "lost", "console.txt"
SLOW = {PATIENCE: "10", EFFORT: "0.1"}
"""Emulated, all takes some ten times as long."""


def main() -> int:
    """Boots, waits for the end, gives 0 or, of a machine that was lost, 1."""
    name, *arguments = sys.argv[1:]
    try:
        kernel = find([name])[0]
        folder = Path(os.environ.get("LAB_VM_FOLDER") or find_project(Path.cwd()) / "reports/matrix" / kernel.release)
        folder.mkdir(parents=True, exist_ok=True)
        way = accelerator(kernel)
        variables = {"LAB_VM": way.name, "PYTHONDONTWRITEBYTECODE": "1"} | (SLOW if way.name == "tcg" else {})
        argv = [sys.executable, *arguments]
        machine = start(kernel, argv, folder / CONSOLE, accelerator=way.name, variables=variables)
    except LabError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    return _follow(machine, folder)


def _follow(machine: Machine, folder: Path) -> int:
    _let_go_of_the_worker()
    (folder / "pid").write_text(str(os.getpid()))

    def end(number: int, frame: FrameType | None) -> None:
        machine.process.kill()

    signal.signal(signal.SIGTERM, end)
    silence_s = float(os.environ.get("LAB_VM_SILENCE_S") or SILENCE_S)
    reason = watch(machine, folder / CONSOLE, silence_s=silence_s)
    if not reason:
        return 0
    (folder / LOST).write_text(f"{reason}\n")
    print(f"worker: the machine was lost: {reason}; its console: {folder / CONSOLE}", file=sys.stderr)
    return 1


def _let_go_of_the_worker() -> None:
    """Standard input and output are the machine's alone: its end must be seen by whoever talks to it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
