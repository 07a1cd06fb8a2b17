"""What runs on the other host: it brings up one half of a pair there, and sends and counts as it is told.

`python -m lab.physical.agent`, started by lab.physical.host over ssh. Requests and answers are lines of JSON. It ends
at the end of its standard input, whatever it is about: the guard of its interface gives that back.
"""

from __future__ import annotations

import json
import os
import queue
import select
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import IO, Any

from lab.errors import NetworkError
from lab.net.cable import Cable
from lab.physical.half import Half
from lab.physical.loan import Loan
from lab.physical.words import error_as_dict, line
from lab.replay.script import topology_from_dict

MARK = b"bpflab "
"""Before each answer."""
SILENCE_S = 60.0
"""After so long without a word, nobody is there any more: the other side says something every 15 s."""


class Agent:
    """Its methods are what may be asked for; what they take and give is JSON."""

    def __init__(self) -> None:
        self._loan: Loan | None = None
        self._half: Half | None = None

    def offer(self, interface: str, within_s: float) -> dict[str, Any]:
        """What the interface is, before anything of it is changed."""
        self.down()
        self._loan = Loan(interface, within_s=within_s)
        return self._loan.nic.as_dict()

    def up(self, topology: dict[str, Any], node: str) -> dict[str, Any]:
        """Brings up the namespace `node`; the interface as it is there."""
        assert self._loan is not None
        loan, self._loan = self._loan, None
        half = Half(replace(topology_from_dict(topology), cable=Cable(loan.name, "", "", node)), node)
        half.borrow(loan)
        self._half = half.up()
        return self.look()

    def down(self) -> None:
        """Everything as it was."""
        with ExitStack() as stack:
            if self._loan is not None:
                stack.callback(self._loan.give_back)
            if self._half is not None:
                stack.callback(self._half.close)
            self._loan = self._half = None

    def await_carrier(self) -> None:
        """Returns when frames pass."""
        self._there.await_carrier()

    def look(self) -> dict[str, Any]:
        """What the interface is now."""
        return self._there.look().as_dict()

    def whisper(self, frame: str) -> None:
        """Sends one frame."""
        with self._there.packet_socket(self._there.end.name) as sender:
            sender.send(bytes.fromhex(frame))

    def counters(self) -> dict[str, int]:
        """Of the interface."""
        return asdict(self._there.interface(self._there.end.name).counters())

    def is_up(self) -> bool:
        """Whether the interface has a carrier."""
        return self._there.interface(self._there.end.name).is_up()

    def offloads(self) -> dict[str, bool]:
        """Of the interface."""
        return self._there.interface(self._there.end.name).offloads()

    @property
    def _there(self) -> Half:
        if self._half is None:
            raise NetworkError("its half of the network is down")
        return self._half


def main() -> None:
    """Says what this host is, and serves until the input ends."""
    from lab.hosts.about import about

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    answers.write(MARK + line(about=about()))
    answers.flush()
    threading.Thread(target=_serve, args=(Agent(), requests, answers), daemon=True).start()
    rest = b""
    while select.select([0], [], [], SILENCE_S)[0]:
        more = os.read(0, 1 << 20)
        if not more:
            break
        *whole, rest = (rest + more).split(b"\n")
        for each in filter(None, whole):
            requests.put(each)
    sys.stderr.flush()
    os._exit(0)  # nobody waits for what is under way


def _serve(agent: Agent, requests: queue.SimpleQueue[bytes], answers: IO[bytes]) -> None:
    while True:
        answers.write(MARK + _answer(agent, json.loads(requests.get())))
        answers.flush()


def _answer(agent: Agent, asked: dict[str, Any]) -> bytes:
    try:
        return line(gives=getattr(agent, asked["do"])(**asked["words"]))
    except Exception as error:
        return line(error=error_as_dict(error))


if __name__ == "__main__":
    main()
