"""A series of contests: every program that two trees have, each against itself in the other tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab.bench.decision import Decision
from lab.contest.contest import Wanted, hold
from lab.contest.named import bcc_is_not_compared
from lab.contest.tree import Change, Tree, changes
from lab.errors import LabError, NotComparable
from lab.model.comparison import Comparison

Told = Callable[[str, Decision, float, float], object]
Done = Callable[[str, Comparison], object]
"""Called with the stem and each of its comparisons, as soon as it is there."""
ALONE = {"new": "new: there is nothing to compare it with", "gone": "no longer there"}


@dataclass(frozen=True)
class Outcome:
    """What came of a program: its comparisons, or `why_not`. An `error` should have been a comparison."""

    change: Change
    comparisons: tuple[Comparison, ...] = ()
    why_not: str = ""
    error: LabError | None = None

    @property
    def stem(self) -> str:
        """The program's."""
        return self.change.stem

    def slower_by(self, share: float) -> list[Comparison]:
        """Those by which B is slower by more than this share, for certain."""
        return [each for each in self.comparisons if each.is_slower_by(share)]


def hold_all(
    a: Tree, b: Tree, wanted: Wanted, *, unchanged: bool, told: Told = lambda *_: None, done: Done = lambda *_: None
) -> Iterator[Outcome]:
    """What came of each program that is not the same in both trees, or, with `unchanged`, of every one."""
    for change in changes(a, b):
        if unchanged or change.kind != "same":
            yield _outcome(change, a, b, wanted, told, done)


def _outcome(change: Change, a: Tree, b: Tree, wanted: Wanted, told: Told, done: Done) -> Outcome:
    if change.kind in ALONE:
        return Outcome(change, why_not=ALONE[change.kind])
    found: list[Comparison] = []
    try:
        first, second = a.named(change.stem), b.named(change.stem)
        if first.is_bcc or second.is_bcc:
            raise bcc_is_not_compared(change.stem)
        for each in hold(first, second, wanted, lambda title, *rest: told(f"{change.stem}: {title}", *rest)):
            found.append(each)
            done(change.stem, each)
    except NotComparable as reason:
        return Outcome(change, tuple(found), why_not=f"not compared: {reason.what.partition(': ')[2] or reason.what}")
    except LabError as error:
        return Outcome(change, tuple(found), why_not=f"could not be compared: {error.what}", error=error)
    return Outcome(change, tuple(found))
