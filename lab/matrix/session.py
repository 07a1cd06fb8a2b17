"""The same tests on this kernel and on others, at once: one controller of pytest a kernel, one verdict.

A controller is a process of its own, so whatever happens to one machine, the others' results stand. It talks to its
machine as pytest-xdist talks to any worker, and stores a run; a line for each test comes back through a pipe.
"""

from __future__ import annotations

import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from lab.bench.store import new_id, read_run
from lab.errors import LabError, NeedsRoot
from lab.kernel.process import dying_with_the_lab, kill
from lab.matrix.kernel import Kernel
from lab.matrix.worker import LOST
from lab.model.run import Result, Run

HOST = "host"
OPTIONS = ("-p", "no:randomly", "-p", "no:cacheprovider", "-q", "--lab-leaks=off")
"""pytest-randomly would shuffle each kernel's tests otherwise, and several would write one cache."""
DONE = (0, 1, 5)
"""Exit status of pytest that ran to its end: all passed, some failed, no test found."""
CUT = "interrupted before it was done"
GRACE_S = 20.0
"""So long a controller that was interrupted has to store what it knows: pytest-xdist gives its worker ten seconds."""


@dataclass
class Lane:
    """One kernel's part of a session, in a folder of its own."""

    name: str
    release: str
    folder: Path
    kernel: Kernel | None = None
    """None: the kernel of this machine."""
    status: int | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    run: Run | None = None
    lost: str = ""
    """Why its machine was lost; "" where it was not."""

    @property
    def results(self) -> tuple[Result, ...]:
        """What was stored of it."""
        return self.run.results if self.run else ()

    @property
    def complaint(self) -> str:
        """Why it has no results though no machine was lost; "" where it has."""
        return "" if self.run or self.lost else f"pytest ended with status {self.status}: {self.folder / 'pytest.txt'}"


@dataclass(frozen=True)
class Matrix:
    """A session that has ended."""

    id: str
    folder: Path
    lanes: tuple[Lane, ...]
    interrupted: bool = False
    """By a person or a build server: what had ended by then is there."""

    @property
    def status(self) -> int:
        """0: all passed or was skipped. 1: something failed. 2: nothing failed, but a kernel has not answered."""
        if any(result.outcome in ("failed", "error", "xpassed") for lane in self.lanes for result in lane.results):
            return 1
        return 2 if any(lane.lost or lane.complaint for lane in self.lanes) else 0

    def ran_nowhere(self) -> dict[str, str]:
        """Tests that every kernel skipped, with one of the reasons."""
        ran = {result.nodeid for lane in self.lanes for result in lane.results if result.outcome != "skipped"}
        every = [result for lane in self.lanes for result in lane.results]
        return {result.nodeid: result.reason for result in every if result.nodeid not in ran}


def run(
    kernels: Sequence[Kernel],
    arguments: Sequence[str],
    project: Path,
    *,
    host: bool = True,
    at_once: int | None = None,
    told: Callable[[Lane, str, str], None] = lambda lane, nodeid, outcome: None,
    worker: str = f"{sys.executable} -m lab.matrix.worker",
) -> Matrix:
    """Runs pytest with `arguments` on each kernel; `told` hears of each test that ended.

    `at_once` machines run beside each other (default: one a CPU). `worker` is the command that boots one, which is
    given the path of a kernel.
    """
    if os.geteuid():
        raise NeedsRoot("run the scenarios: namespaces and BPF programs need root", mend="sudo lab matrix")
    if kernels and find_spec("xdist") is None:
        raise LabError("run the matrix: pytest-xdist is not installed", mend="pip install 'pytest-xdist>=3.6'")
    started = datetime.now(UTC)
    folder = project / "reports" / "matrix" / new_id(started)
    lanes = [Lane(HOST, platform.release(), folder / HOST)] if host else []
    lanes += [Lane(kernel.name, kernel.release, folder / kernel.release, kernel) for kernel in kernels]
    if not lanes:
        raise LabError("run the matrix: no kernel", mend="lab matrix --fetch 6.1 --fetch 6.12")
    with _Controllers(lambda lane: _start(lane, arguments, project, worker), told) as controllers:
        try:
            controllers.follow(lanes, at_once or os.cpu_count() or 1)
        except KeyboardInterrupt:
            controllers.cut_short(lanes)
    return Matrix(folder.name, folder, tuple(lanes), controllers.interrupted)


class _Controllers:
    """The processes that are running, each with the pipe through which it tells what happens."""

    def __init__(
        self, start: Callable[[Lane], tuple[subprocess.Popen[bytes], int]], told: Callable[[Lane, str, str], None]
    ) -> None:
        self._start = start
        self._told = told
        self._pipes = selectors.DefaultSelector()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.interrupted = False

    def __enter__(self) -> _Controllers:
        return self

    def __exit__(self, *_: object) -> None:
        """Whoever still runs is ended, and its machine."""
        self._pipes.close()
        for pipe, process in self._processes.items():
            os.close(pipe)
            kill(process)

    def follow(self, lanes: Sequence[Lane], at_once: int) -> None:
        """Until all have ended. The host runs beside the machines: it is done when the first of them have booted."""
        waiting = list(lanes)
        while waiting or self._processes:
            while waiting and (waiting[0].kernel is None or self._machines() < at_once):
                process, pipe = self._start(waiting[0])
                self._processes[pipe] = process
                self._pipes.register(pipe, selectors.EVENT_READ, (waiting.pop(0), bytearray()))
            self._listen()

    def cut_short(self, lanes: Sequence[Lane]) -> None:
        """Lets those that run store what they know; a second interrupt ends them at once."""
        self.interrupted = True
        unfinished = [lane for lane in lanes if lane.status is None]
        for process in self._processes.values():
            process.send_signal(signal.SIGINT)
        until = time.monotonic() + GRACE_S
        with suppress(KeyboardInterrupt):
            while self._processes and time.monotonic() < until:
                self._listen(until - time.monotonic())
        for pipe, process in self._processes.items():
            kill(process)
            _finish(self._pipes.get_key(pipe).data[0], process)
        for lane in unfinished:
            if lane.status not in DONE:
                lane.lost = CUT

    def _listen(self, within_s: float | None = None) -> None:
        for key, _ in self._pipes.select(within_s):
            if not _heard(key, self._told):
                self._pipes.unregister(key.fd)
                os.close(key.fd)
                _finish(key.data[0], self._processes.pop(key.fd))

    def _machines(self) -> int:
        return sum(1 for key in self._pipes.get_map().values() if key.data[0].kernel)


def _start(lane: Lane, arguments: Sequence[str], project: Path, worker: str) -> tuple[subprocess.Popen[bytes], int]:
    """The controller of a lane, and where it tells what happens."""
    lane.folder.mkdir(parents=True)
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"--lab-runs={lane.folder}", f"--lab-tell={writing}"]
    if lane.kernel:
        place = f"popen//python={worker} {_path(lane.kernel)}"
        command += ["-p", "xdist", "--dist=each", "--max-worker-restart=0", "--tx", place]
    with (lane.folder / "pytest.txt").open("wb") as said:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=project,
            env={**os.environ, "LAB_VM_FOLDER": str(lane.folder)} if lane.kernel else None,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[writing],
            process_group=0,  # with its machine; and Ctrl-C in a terminal reaches it by way of us, once
            preexec_fn=_interruptible(dying_with_the_lab()),
        )
    os.close(writing)
    return process, reading


def _interruptible(first: Callable[[], None]) -> Callable[[], None]:
    """What a shell started in the background (`make matrix &`) ignores SIGINT, and so would a child of it."""

    def prepare() -> None:
        first()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return prepare


def _path(kernel: Kernel) -> str:
    """As `lab.matrix.kernel.find` takes it."""
    return str(kernel.vmlinuz if kernel.vmlinuz.name.startswith("vmlinuz-") else kernel.modules)


def _heard(key: selectors.SelectorKey, told: Callable[[Lane, str, str], None]) -> bool:
    """Whole lines are passed on; False at the end."""
    lane, rest = key.data
    said = os.read(key.fd, 1 << 16)
    rest += said
    *lines, left = bytes(rest).split(b"\n")
    rest[:] = left
    for line in lines:
        outcome, _, nodeid = line.decode().partition(" ")
        lane.outcomes[outcome] += 1
        told(lane, nodeid, outcome)
    return bool(said)


def _finish(lane: Lane, process: subprocess.Popen[bytes]) -> None:
    lane.status = process.wait()
    stored = sorted(_stored(lane.folder))
    lane.run = read_run(stored[-1]) if stored else None
    told = lane.folder / LOST
    lane.lost = told.read_text().strip() if told.is_file() else ""


def _stored(folder: Path) -> Iterator[Path]:
    return folder.glob("*T*-*.json")
