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
    """One event: its kind ("topology", "program", "map_assertion", "delivery", "measurement", "evidence")."""

    kind: str
    source: Source

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """What was noted; a source that is a function is called when this is first read."""
        return self.source() if callable(self.source) else self.source


@dataclass(eq=False)
class Journal:
    """The notes of one scenario, in the order in which they were made."""

    notes: list[Note] = field(default_factory=list)

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """The data of all notes of one kind."""
        return [note.data for note in self.notes if note.kind == kind]


_open: list[Journal] = []


def note(kind: str, data: Source) -> None:
    """Writes one event, as JSON-serialisable data, into the innermost open journal, if there is one.

    Data that is dear to make (a drawing) may be a function: it is called by the reader of the journal, or never.
    """
    if _open:
        _open[-1].notes.append(Note(kind, data))


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
