"""Why a scenario failed, as its "failure" note has it: a note that is not whole shows what there is of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.failure.finding import Finding


@dataclass(frozen=True)
class Explained:
    """What the page says of one failure."""

    findings: tuple[Finding, ...]
    replay: str = ""
    folder: str = ""
    remarks: tuple[str, ...] = ()
    """What a replay cannot do again."""


def explained(note: Mapping[str, Any]) -> Explained:
    """The findings that can be read."""
    found, rows = [], note.get("findings")
    for each in rows if isinstance(rows, list) else ():
        try:
            found.append(Finding.from_dict(each))
        except (KeyError, TypeError, ValueError):
            continue
    said = note.get("remarks")
    remarks = tuple(map(str, said)) if isinstance(said, list) else ()
    return Explained(tuple(found), str(note.get("replay") or ""), str(note.get("folder") or ""), remarks)


def headline(notes: Sequence[Mapping[str, Any]]) -> str:
    """The sentence that says most, "" where no failure was explained."""
    return str(notes[0].get("headline") or "") if notes else ""
