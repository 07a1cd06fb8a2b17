"""A Python on another host that brings up the other half of a pair: lab.physical.agent, at the other end of ssh.

One a host and process, and kept until the process ends: reaching a host takes most of a second. The agent goes when
the connection does, and also when nothing has come over it for a minute.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from lab.bench.environment import read_environment
from lab.errors import LabError, NetworkError
from lab.hosts.host import ANSWER_WITHIN_S, check, silent
from lab.hosts.worker import command
from lab.kernel import belongings, netns, process
from lab.physical.agent import MARK, SILENCE_S
from lab.physical.words import error_of, line
from lab.project import find_project

BEAT_S = SILENCE_S / 4


class Host:
    """Reached; LabError when it cannot be, or has another commit, or lacks rights."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the host
        self._buffer = b""
        self._process = self._started()
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="lab-beat", daemon=True)
        try:
            self.about: dict[str, Any] = self._answer(ANSWER_WITHIN_S)["about"]
            check(name, self.about, read_environment(find_project(Path.cwd())))
        except BaseException:
            self.close()
            raise
        self._beats.start()

    @property
    def alive(self) -> bool:
        """Whether there is somebody to ask."""
        return self._process.poll() is None and not self._ended.is_set()

    def ask(self, what: str, answer_within_s: float = 30.0, **words: Any) -> Any:
        """What the agent's method `what` gives; its errors are raised here, with the host's name before them."""
        with self._lock:
            try:
                self._write(line(do=what, words=words))
                answer = self._answer(answer_within_s)
            except BaseException:  # Ctrl-C too: a later answer would be taken for that of another question
                self.close()
                raise
        if "error" in answer:
            raise error_of(answer["error"], f"host {self.name}: ")
        return answer["gives"]

    def close(self) -> None:
        """The agent gives everything back and ends."""
        self._ended.set()
        process.kill(self._process)
        if self._beats.is_alive() and self._beats is not threading.current_thread():
            self._beats.join()
        for each in (self._process.stdin, self._process.stdout, self._complaints):
            if each is not None:
                each.close()

    def _started(self) -> subprocess.Popen[bytes]:
        argv, pipe = command(self.name, ["-m", "lab.physical.agent"]), subprocess.PIPE
        home = netns.open_current()
        try:
            return process.spawn(home, argv, stdin=pipe, stdout=pipe, stderr=self._complaints, bufsize=0)
        except FileNotFoundError as error:
            self._complaints.close()
            mend = "apt-get install openssh-client"
            raise LabError(f"host {self.name}: {argv[0]} is not installed", mend=mend) from error
        finally:
            os.close(home)

    def _write(self, message: bytes) -> None:
        assert self._process.stdin is not None
        try:
            with self._writing:
                rest = memoryview(message)
                while rest:
                    rest = rest[self._process.stdin.write(rest) :]
        except OSError as error:
            raise self._lost() from error

    def _answer(self, within_s: float) -> dict[str, Any]:
        """The next line that is the agent's: a login may print what it likes before."""
        deadline = time.monotonic() + within_s
        while True:
            said = self._line(deadline, within_s)
            if said.startswith(MARK):
                answer: dict[str, Any] = json.loads(said[len(MARK) :])
                return answer

    def _line(self, deadline: float, within_s: float) -> bytes:
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise NetworkError(f"host {self.name}: no answer within {within_s:g} s")
            more = os.read(source, 1 << 16)
            if not more:
                raise self._lost()
            self._buffer += more
        said, _, self._buffer = self._buffer.partition(b"\n")
        return said

    def _lost(self) -> LabError:
        status = self._process.wait(timeout=ANSWER_WITHIN_S)
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace")
        return silent(self.name, status, said)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._write(b"\n")
            except LabError:
                return


_hosts: dict[str, Host] = {}


def reach(name: str) -> Host:
    """The agent of this process on that host, now or from an earlier network."""
    found = _hosts.get(name)
    if found is not None and found.alive:
        return found
    leave(name)
    with belongings.for_life():
        _hosts[name] = Host(name)
    atexit.register(leave, name)
    return _hosts[name]


def leave(name: str) -> None:
    """Ends the agent on that host, if there is one."""
    found = _hosts.pop(name, None)
    if found is not None:
        found.close()


def _forget() -> None:
    """A fork must not speak over its parent's connection."""
    _hosts.clear()


os.register_at_fork(after_in_child=_forget)
