"""Findings for a terminal: short, without colour. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lab.failure.finding import Finding

MOST_LINES = 36
MOST_LETTERS = 200


def to_text(found: Sequence[Finding]) -> str:
    """Title and lines of each finding that a terminal shows."""
    lines: list[str] = []
    for each in found:
        if brief := each.brief:
            lines += [each.title, *(f"  {line}" for line in brief)]
    return "\n".join(printable(line) for line in lines[:MOST_LINES])


def printable(line: str) -> str:
    """What came from packets, maps and logs moves no cursor and is not endless."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return clean if len(clean) <= MOST_LETTERS else f"{clean[:MOST_LETTERS]}..."
