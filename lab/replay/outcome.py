"""What came of a step, then and now; and what says nothing, because it is other at each replay. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"(\d+)")
LARGE_DIGITS = 6
"""Of a time in ns or jiffies, and of most random numbers; counters that change are something else."""


@dataclass(frozen=True)
class Outcome:
    """One thing that the scenario did, what came of it then, and what comes of it now."""

    what: str
    then: str
    now: str

    @property
    def is_same(self) -> bool:
        """As at the failure."""
        return self.then == self.now


def steady(first: Sequence[Outcome], second: Sequence[Outcome]) -> tuple[list[Outcome], list[str]]:
    """Those that two replays agree on, and remarks on the others: a verdict by chance, a number of the kernel's own."""
    kept, remarks = [], []
    for each, other in zip(first, second, strict=False):
        if each.now == other.now:
            kept.append(each)
        else:
            remarks.append(f"{each.what}: it is other at each replay, and not compared")
    return kept, remarks


def compared(what: str, then: str, now: str, second: str) -> Outcome | None:
    """What a map held, with a * for each large number that two replays do not agree on; None where more differs.

    >>> compared("map clock", "0: {ns: 123456, step: 4}", "0: {ns: 234567, step: 5}", "0: {ns: 345678, step: 5}")
    Outcome(what='map clock', then='0: {ns: *, step: 4}', now='0: {ns: *, step: 5}')
    """
    before, here, other = map(NUMBER.split, (then, now, second))
    if len(here) != len(other):
        return None
    changing = [place for place, pair in enumerate(zip(here, other, strict=True)) if pair[0] != pair[1]]
    if not all(_is_large(here[place]) and _is_large(other[place]) for place in changing):
        return None
    for tokens in (before, here) if len(before) == len(here) else ():
        for place in changing:
            tokens[place] = "*"
    return Outcome(what, "".join(before), "".join(here))


def _is_large(token: str) -> bool:
    return token.isdecimal() and len(token) >= LARGE_DIGITS
