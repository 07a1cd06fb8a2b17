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

from lab.bpf.attach import receivers
from lab.errors import NetworkError
from lab.net.cable import Cable
from lab.physical.departures import Departures
from lab.physical.half import Half
from lab.physical.loan import Loan
from lab.physical.sources import Sources
from lab.physical.words import error_as_dict, line
from lab.replay.script import topology_from_dict
from lab.traffic import iperf3
from lab.traffic.exchange import Harvest
from lab.traffic.flood import Amount

MARK = b"bpflab "
"""Before each answer."""
SILENCE_S = 60.0
"""After so long without a word, nobody is there any more: the other side says something every 15 s."""


class Agent:
    """Its methods are what may be asked for; what they take and give is JSON."""

    def __init__(self) -> None:
        self._loan: Loan | None = None
        self._half: Half | None = None
        self._streams: Departures | None = None
        self._harvest: Harvest | None = None
        self._sources: Sources | None = None
        self._hearing, self._iperf3, self._receiving = ExitStack(), ExitStack(), ExitStack()

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
            for undo in (self.streams_end, self.exchange_end, self.iperf3_end, self.receive_end, self._sources_end):
                stack.callback(undo)
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

    def streams_begin(self) -> None:
        """A `net.send` begins."""
        self.streams_end()
        self._streams = Departures(self._there)

    def streams_connect(self, index: int, stream: dict[str, Any]) -> None:
        """One of its streams starts here."""
        self._under_way.connect(index, stream)

    def streams_listen(self, index: int, stream: dict[str, Any]) -> None:
        """One of its streams ends here."""
        self._under_way.listen(index, stream)

    def streams_start(self) -> None:
        """All that start here."""
        self._under_way.start()

    def streams_look(self) -> dict[str, Any]:
        """How far it is."""
        return self._under_way.look()

    def streams_stop(self) -> None:
        """Offers no more."""
        self._under_way.stop()

    def streams_end(self) -> None:
        """Gives the sockets back."""
        if self._streams is not None:
            self._streams.close()
            self._streams = None

    def exchange_begin(self) -> None:
        """From now on frames are kept that come in."""
        self.exchange_end()
        self._harvest = self._hearing.enter_context(self._there.exchanger.listening())

    def exchange_send(self, frames: list[str]) -> int:
        """How many left."""
        return self._there.exchanger.send([bytes.fromhex(each) for each in frames], self._there.end.name)

    def exchange_gather(self, within_s: float, count: int | None) -> list[str]:
        """All that came until now."""
        assert self._harvest is not None
        self._harvest.gather(within_s, count)
        return [each.hex() for each in self._harvest.frames[self._there.end.name]]

    def exchange_end(self) -> None:
        """Keeps nothing more."""
        self._hearing.close()
        self._harvest = None

    def iperf3_serve(self, port: int) -> None:
        """A server listens."""
        self.iperf3_end()
        started = self._iperf3.enter_context(iperf3.ended())
        started.append(iperf3.serve(self._there[self._there.node], port))

    def iperf3_call(self, target: str, options: dict[str, Any]) -> dict[str, Any]:
        """One run of a client; its JSON."""
        wanted = iperf3.Iperf3Options(**options)
        with iperf3.ended() as started:
            started.append(iperf3.call(self._there[self._there.node], target, wanted))
            return dict(iperf3.answer(started[0], wanted))

    def iperf3_end(self) -> None:
        """No server listens any more."""
        self._iperf3.close()

    def flood_ready(self, parts: list[tuple[str, int]], flows: int, via: str) -> int:
        """A flood's number: frames, and how many of each in a round."""
        if self._sources is None:
            self._sources = Sources(self._there)
        return self._sources.ready([(bytes.fromhex(raw), number) for raw, number in parts], flows, via)

    def flood(self, key: int, amount: dict[str, Any]) -> dict[str, float]:
        """Sends so much."""
        assert self._sources is not None
        return self._sources.send(key, Amount(**amount))

    def receive_begin(self) -> str:
        """Takes what XDP sends over, where the other interface could not otherwise: a veth in the cable's place."""
        self.receive_end()
        return receivers.pass_at(self._there.interface(self._there.end.name), self._receiving)

    def receive_end(self) -> None:
        """No more."""
        self._receiving.close()

    def counters(self) -> dict[str, int]:
        """Of the interface."""
        return asdict(self._there.interface(self._there.end.name).counters())

    def is_up(self) -> bool:
        """Whether the interface has a carrier."""
        return self._there.interface(self._there.end.name).is_up()

    def offloads(self) -> dict[str, bool]:
        """Of the interface."""
        return self._there.interface(self._there.end.name).offloads()

    def _sources_end(self) -> None:
        if self._sources is not None:
            self._sources.close()
            self._sources = None

    @property
    def _under_way(self) -> Departures:
        if self._streams is None:
            raise NetworkError("no stream is under way")
        return self._streams

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
