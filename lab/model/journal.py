"""What happened while a scenario ran, noted by every room and read by the test plugin for the report.

Lower rooms never know who listens: `note()` costs one list append inside a `Journal`, and nothing outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Source = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Note:
    """One event: its kind ("topology", "program", "map_assertion", "delivery", "failure", "evidence", ...)."""

    kind: str
    source: Source

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """What was noted; a source that is a function is called when this is first read."""
        return self.source() if callable(self.source) else self.source


@dataclass(frozen=True)
class Step:
    """One thing that the scenario did: its kind ("load", "write", "attach", "send", ...) and the live objects of it."""

    kind: str
    about: Mapping[str, Any]


@dataclass(eq=False)
class Journal:
    """The notes of one scenario, in the order in which they were made.

    `steps` are what it did, for the one who explains a failure and does it again; they are never stored by themselves.
    """

    notes: list[Note] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    clock: Callable[[], int] | None = None
    """What `now()` gives; only a journal that has one keeps steps."""
    left_out: int = 0
    """Steps that were too many."""

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """The data of all notes of one kind."""
        return [note.data for note in self.notes if note.kind == kind]


_open: list[Journal] = []
MOST_STEPS = 20_000


def note(kind: str, data: Source) -> None:
    """Writes one event, as JSON-serialisable data, into the innermost open journal, if there is one.

    Data that is dear to make (a drawing) may be a function: it is called by the reader of the journal, or never.
    """
    if _open:
        _open[-1].notes.append(Note(kind, data))


def step(kind: str, **about: Any) -> None:
    """Keeps what is being done, with the objects themselves, where the innermost journal wants to know: 0.3 µs."""
    if not _open or _open[-1].clock is None:
        return
    if len(_open[-1].steps) < MOST_STEPS:
        _open[-1].steps.append(Step(kind, about))
    else:
        _open[-1].left_out += 1


def now() -> int:
    """Where the recorder of frames stands, so that a step can say which records are its own; 0 where none runs."""
    clock = _open[-1].clock if _open else None
    return clock() if clock else 0


@contextmanager
def journal() -> Iterator[Journal]:
    """Collects the notes made inside the block.

    >>> with journal() as kept:
    ...     note("delivery", {"offered": 3})
    >>> kept.of("delivery")
    [{'offered': 3}]
    """
    kept = Journal()
    _open.append(kept)
    try:
        yield kept
    finally:
        _open.remove(kept)
