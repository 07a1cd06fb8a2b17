"""Floods that start on this host, as the agent makes them for the other one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from itertools import count

from lab import bpf, instruments
from lab.bench.isolation import isolated
from lab.bpf.attach import receivers
from lab.model.journal import journal
from lab.physical.half import Half
from lab.traffic.flood import Amount, AnyFlood, Floods
from lab.traffic.mixed_flood import FrameMix, MixedFlood

SHORT_S = 0.5
"""Of a flood in real time: a longer one would be throttled by the kernel, once a second."""
LEAST_PPS = 1e6


class Sources:
    """The floods of one network, kept ready, and what counts the frames that the driver takes of them."""

    def __init__(self, half: Half) -> None:
        self._source = half.interface(half.end.name)
        self._stack = ExitStack()
        self._floods: dict[int, AnyFlood] = {}
        self._numbers = count()
        namespace = os.fstat(half[half.node].netns_fd).st_ino
        with journal():  # the lab's own program is no news
            leaving = bpf.load(instruments.path("leave"), interface=self._source.ifindex, namespace=namespace)
            self._stack.callback(leaving.close)
            self._stack.enter_context(leaving.attach())
        self._leaving = leaving.globals
        # For as long as there are floods: a driver may take its link down for a second when a first program comes.
        receivers.pass_at(self._source, self._stack)

    def ready(self, parts: Sequence[tuple[bytes, int]], flows: int, via: str) -> int:
        """The number of a flood that is loaded; the oldest goes when there are too many."""
        if len(self._floods) >= Floods.MOST:
            self._floods.pop(next(iter(self._floods))).close()
        number = next(self._numbers)
        self._floods[number] = self._made(parts, flows, via)
        return number

    def send(self, number: int, amount: Amount) -> dict[str, float]:
        """Frames made, taken by the driver (offered) and refused by it; CPU and wall time in s that this took.

        From one core that is held for it: a generator that waits for its CPU is late, and bursts afterwards.
        """
        flood = self._floods[number]
        before = self._counted()
        with isolated() as core, core.burst() if _is_short(amount) else nullcontext():
            start = time.monotonic()
            made, cpu_s = flood.offer(amount)
            duration_s = time.monotonic() - start
        taken, refused = (now - then for now, then in zip(self._counted(), before, strict=True))
        if flood.via != "live":
            taken, refused = made, 0
        return {"made": made, "offered": taken, "refused": refused, "cpu_s": cpu_s, "duration_s": duration_s}

    def close(self) -> None:
        """Gives everything back."""
        while self._floods:
            self._floods.popitem()[1].close()
        self._stack.close()

    def _counted(self) -> tuple[int, int]:
        return int(self._leaving["taken"]), int(self._leaving["refused"])

    def _made(self, parts: Sequence[tuple[bytes, int]], flows: int, via: str) -> AnyFlood:
        from lab.traffic.flood import FLOODS

        if len(parts) > 1:
            return MixedFlood(self._source, FrameMix(tuple(parts)), flows=flows)
        return FLOODS[via](self._source, parts[0][0], flows=flows)


def _is_short(amount: Amount) -> bool:
    return (amount.seconds or (amount.count or 0) / (amount.rate_pps or LEAST_PPS)) <= SHORT_S
