"""Whether someone wants to look at what a failed `with` block leaves behind; by default it is taken down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_failures: tuple[type[BaseException], ...] = ()
_left: list[Left] = []


@dataclass(frozen=True)
class Left:
    """What stays, and what would have been done with it."""

    thing: object
    end: Callable[[], object]


def want(*failures: type[BaseException]) -> None:
    """From now on a block that ends by one of these leaves its thing as it is; with none, the default again."""
    global _failures
    _failures = failures


def leave(thing: object, end: Callable[[], object], error: BaseException | None) -> bool:
    """Whether `thing` is to stay at the end of its block; `end` is then the business of whoever asks what is `left`."""
    if not isinstance(error, _failures):
        return False
    _left.append(Left(thing, end))
    return True


def left() -> list[Left]:
    """What stayed since the last call, in the order of the blocks' ends."""
    found = list(_left)
    _left.clear()
    return found
