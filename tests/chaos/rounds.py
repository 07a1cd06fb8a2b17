"""One round: a victim, a misfortune, a moment, and the look at what is left."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab.bench.store import read_run
from lab.errors import StoreError, WaitTimeout
from lab.wait import wait_until
from tests.chaos import misfortunes, remains, room
from tests.chaos.misfortunes import Misfortune
from tests.chaos.victims import PROJECT, VICTIMS, Surroundings

LONGEST_MOMENT_S = 1.6
ENDED_WITHIN_S = 8.0
"""How long a victim may take to end when it is told to."""
GOES_ON_S = 0.8
"""How long one may go on without memory, disk or output, before it is killed."""
GONE_WITHIN_S = 60.0
"""What is left is left for good: the kernel takes namespaces down in one queue for the whole machine."""
PINS = Path("/sys/fs/bpf")


@dataclass
class Told:
    """What came of one round."""

    victim: str
    misfortune: str
    moment_s: float
    left: list[str] = field(default_factory=list)
    caught: Counter[str] = field(default_factory=Counter)
    """What was there at the moment: the looking had something to find."""
    runs: int = 0


class Round:
    """In a room; `folder` is empty and the round's own."""

    def __init__(self, here: room.Room, folder: Path, dice: random.Random, tests: dict[str, tuple[str, ...]]) -> None:
        self._here, self._folder, self._dice = here, folder, dice
        self._where = Surroundings(folder, dice, tests["scenarios"], tests["benchmarks"])

    def run(self) -> Told:
        """A victim's life and what it leaves."""
        victim, kind = self._dice.choice(VICTIMS), self._dice.choice(misfortunes.every())
        told = Told(victim.__name__, kind.__name__, self._dice.uniform(0, LONGEST_MOMENT_S))
        for name in ("tmp", "runs", "pytest"):
            (self._folder / name).mkdir(parents=True)
        mounts, pins = remains.mounts(), remains.below(PINS)
        kernel, misfortune = remains.Kernel(self._here.proc), kind(self._dice)
        misfortune.prepare(self._folder)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            stack.callback(misfortune.end)
            witness = stack.enter_context(remains.Witness())
            self._live(victim, misfortune, witness, told)
            self._look(told, kernel, witness)
        told.left += [f"mount {each}" for each in remains.mounts() - mounts]
        told.left += [f"pin {each}" for each in remains.below(PINS) if each not in pins]
        return told

    def _live(
        self, victim: Callable[[Surroundings], int], misfortune: Misfortune, witness: remains.Witness, told: Told
    ) -> None:
        pid = self._start(victim, misfortune)
        ended = _ended_within(pid, told.moment_s)
        if not ended:
            if self._dice.random() < 0.5:  # the other half is struck in full run
                os.kill(pid, signal.SIGSTOP)
                _, status = os.waitpid(pid, os.WUNTRACED)
                if os.WIFSTOPPED(status):
                    told.caught.update(_there(pid, witness))
                    misfortune.strike(pid)
                    os.kill(pid, signal.SIGCONT)
                else:
                    return
            else:
                misfortune.strike(pid)
            if not _ended_within(pid, ENDED_WITHIN_S if misfortune.signal else GOES_ON_S):
                if misfortune.signal:
                    told.left.append(f"process {pid} goes on {ENDED_WITHIN_S:g} s after signal {misfortune.signal}")
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _start(self, victim: Callable[[Surroundings], int], misfortune: Misfortune) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            _behave_as_a_process_of_its_own(self._folder)
            misfortune.inside()
            status = victim(self._where)
        except KeyboardInterrupt:
            status = 130
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            _leave(status)

    def _look(self, told: Told, kernel: remains.Kernel, witness: remains.Witness) -> None:
        """Some things the kernel takes a moment to let go of; files it does not."""
        for look in (remains.processes, witness.veths, kernel.orphans, remains.cgroups, self._attached):
            told.left += _remaining(look)
        if remains.processes():
            remains.end_processes()
        told.left += [f"file {each}" for each in remains.below(self._folder / "tmp") if not _may_stay(each)]
        told.left += self._runs(told)

    def _attached(self) -> list[str]:
        return [
            each for ifindex in (room.FIRST, room.SECOND) for each in remains.programs_at(self._here.control, ifindex)
        ]

    def _runs(self, told: Told) -> Iterator[str]:
        """Stored runs are whole, and nothing lies beside them."""
        for each in (self._folder / "runs").rglob("*"):
            if each.suffix == ".tmp":
                yield f"file {each}"
            if each.is_dir() or each.parent.name != "runs":  # pytest-benchmark's own, and what was kept of failures
                continue
            try:
                read_run(each)
                told.runs += 1
            except StoreError as error:
                yield f"half a run: {error}"


def _behave_as_a_process_of_its_own(folder: Path) -> None:
    atexit._clear()  # those of the worker
    os.chdir(PROJECT)
    os.environ.update(
        TMPDIR=str(folder / "tmp"), XDG_CACHE_HOME=os.environ["CHAOS_CACHE"], OPENBLAS_NUM_THREADS="1", COLUMNS="120"
    )
    import tempfile

    tempfile.tempdir = None
    nowhere = os.open(os.environ.get("CHAOS_OUTPUT", os.devnull), os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _leave(status: int) -> None:
    """As Python does at its end, but without the frames of the worker below."""
    try:
        with suppress(BaseException):
            threading._shutdown()
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
    finally:
        os._exit(status)


def _ended_within(pid: int, seconds: float) -> bool:
    """A moment is a point in time and no condition: up to then the victim is left in peace."""
    deadline = time.monotonic() + seconds
    while True:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.002)


def _there(pid: int, witness: remains.Witness) -> Counter[str]:
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and each.name != "1"]
    held = remains.held_by(pids)
    return Counter(
        namespaces=witness.watch(pid),
        processes=len(pids) - 1,
        **{f"{kind}s": sum(each == kind for each, _ in held) for kind in remains.GET_NEXT_ID},
    )


def _remaining(look: Callable[[], list[str]]) -> list[str]:
    with suppress(WaitTimeout):
        wait_until(lambda: not look(), within_s=GONE_WITHIN_S, what="nothing to be left")
        return []
    return look()


def _may_stay(path: str) -> bool:
    """Inside of the cache that a round began with nothing but whole files."""
    return "/cache" in path and (
        path.endswith((".bpf.o", ".json", "/cache", "/bpflab", "/swept", "vmlinux.h")) or "/vmlinux-" in path
    )
