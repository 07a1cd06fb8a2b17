"""An interface of this host on loan: asked for, taken into a namespace, given back, each by a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from lab.errors import NetworkError
from lab.kernel import origin
from lab.kernel.nic import Nic
from lab.physical.guard import LARGEST_MESSAGE
from lab.physical.words import error_of, line

WAIT_S = 60.0
"""For another lab to give the interface back: the tests of two workers take turns."""
ANSWER_WITHIN_S = 30.0
_lent: set[str] = set()


@dataclass(frozen=True)
class Wish:
    """How an interface is to be in its namespace; `silent`: it asks nobody for neighbours."""

    name: str
    ifindex: int
    mac: str
    mtu_bytes: int
    silent: bool


class Loan:
    """`nic` is the interface as it was; nothing of it is changed before `take`."""

    def __init__(self, name: str, *, within_s: float = WAIT_S) -> None:
        if name in _lent:
            raise NetworkError(f"{name} is in another network of this process", mend="bring up one after the other")
        self.name = name
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-I", "-m", "lab.physical.guard", str(theirs.fileno()), name]
            nothing = subprocess.DEVNULL
            self._guard = subprocess.Popen(
                argv, pass_fds=[theirs.fileno()], start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing
            )
        origin.process(self._guard.pid)
        _lent.add(name)
        try:
            self.nic = self._nic(within_s, do="offer", within_s=within_s)
        except BaseException:
            self._end()
            raise

    def take(self, netns_fd: int, wish: Wish) -> Nic:
        """Moves it into the namespace; the interface as it is there."""
        return self._nic(0.0, [netns_fd], do="take", wish=vars(wish))

    def give_back(self) -> None:
        """As it was, with its name, MAC, MTU, flags and offloads; NetworkError for what of that failed."""
        try:
            failures = self._ask(0.0, [], do="back").get("failures", [])
        finally:
            self._end()
        if failures:
            raise NetworkError(f"give {self.name} back: {'; '.join(failures)}", mend=f"ip link show {self.name}")

    def _end(self) -> None:
        """The guard gives back what was not given back yet, and ends."""
        self._socket.close()
        self._guard.wait(timeout=ANSWER_WITHIN_S)
        _lent.discard(self.name)

    def _nic(self, more_s: float, descriptors: list[int] | None = None, **words: Any) -> Nic:
        return Nic.from_dict(self._ask(more_s, descriptors or [], **words)["nic"])

    def _ask(self, more_s: float, descriptors: list[int], **words: Any) -> dict[str, Any]:
        self._socket.settimeout(ANSWER_WITHIN_S + more_s)
        try:
            socket.send_fds(self._socket, [line(**words)], descriptors)
            answer = self._socket.recv(LARGEST_MESSAGE)
        except OSError as error:
            raise NetworkError(f"{self.name}: its guard does not answer", kernel=str(error)) from error
        if not answer:
            raise NetworkError(f"{self.name}: its guard ended at once", mend=f"{' '.join(map(str, self._guard.args))}")  # type: ignore[arg-type]
        said: dict[str, Any] = json.loads(answer)
        if "error" in said:
            raise error_of(said["error"])
        return said
