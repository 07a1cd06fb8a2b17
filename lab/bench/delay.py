"""A program that holds each packet for a known time: the cause that a latency method must find again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from lab import instruments
from lab.bench.driver import Driver, driver_for, load_instrument
from lab.bench.inference import Estimate
from lab.bench.isolation import isolated
from lab.errors import MeasurementError
from lab.model import statistics

if TYPE_CHECKING:
    from lab.bpf.program import Program

LONGEST_NS = 100_000
"""Beyond, the verifier has more rounds to follow than it will."""
BATCH_NS = 100_000
TURNS = 20
KNOWN_ROUNDS = 200
"""Of the delay whose time tells what a round takes."""
FRAME = (
    bytes(12)
    + b"\x08\x00"
    + bytes.fromhex("45000020000000004011 0000 0a000001 0a000002 0009 0009 000c0000")
    + bytes(18)
)
"""UDP over IPv4, which the driver asks for; nobody reads it."""


@dataclass(frozen=True)
class Delay:
    """A loaded `program` that holds packets longer than its twin, the `base`, by `true` ns, with a 95 % interval.

    Both are one code, of which the base does a single round: what a program costs that is called once in a while, and
    not in a tight loop as by PROG_RUN, is in both. The speed of a machine shifts by some percent: who wants to know
    more measures again beside what is compared with it.
    """

    program: Program
    base: Program
    true: Estimate
    _driver: Driver
    _slots: dict[str, int]

    def measure(self) -> Estimate:
        """What the delay is just now, by PROG_RUN, in about 10 ms."""
        return _measured(self._driver, self._slots)


@contextmanager
def delayed(ns: float, hook: str = "xdp") -> Iterator[Delay]:
    """A program that holds each packet about `ns` longer than its base, at XDP or (`hook` "tc") at tc.

    0 to 100 µs, in steps of some 10 ns; what it really is, `true` says. MeasurementError for other times and hooks.
    """
    from lab import bpf

    if hook not in ("xdp", "tc"):
        raise MeasurementError(f"delay packets at {hook!r}: there is no such program", mend='"xdp" or "tc"')
    if not 0 <= ns <= LONGEST_NS:
        raise MeasurementError(f"delay packets by {ns} ns: 0 to {LONGEST_NS} are possible")
    with ExitStack() as stack:
        base = stack.enter_context(bpf.load(instruments.path(f"delay_{hook}"), program=f"delay_{hook}", rounds=1))
        driver = stack.enter_context(driver_for(base, FRAME))
        stack.enter_context(isolated())
        rounds = 1 + round(ns / _round_ns(base, driver)) if ns else 1
        program = stack.enter_context(load_instrument("delay", base, rounds=rounds))
        slots = {"with": driver.place(program), "without": driver.place(base)}
        yield Delay(program, base, _measured(driver, slots), driver, slots)


def _round_ns(base: Program, driver: Driver) -> float:
    """What one round more takes."""
    with load_instrument("delay", base, rounds=1 + KNOWN_ROUNDS) as known:
        slots = {"with": driver.place(known), "without": driver.place(base)}
        found = _measured(driver, slots)
        for slot in slots.values():
            driver.clear(slot)
    return found.value / KNOWN_ROUNDS


def _measured(driver: Driver, slots: dict[str, int]) -> Estimate:
    """The median of neighbours, since a median is what it is compared with, and its interval by order statistics."""
    with isolated() as core, core.burst():
        taken = driver.take_turns(slots, driver.rounds_within(list(slots.values()), BATCH_NS), TURNS)
    added = [a - b for a, b in zip(taken["with"], taken["without"], strict=True)]
    return Estimate(median(added), *statistics.median_interval(added), TURNS)
