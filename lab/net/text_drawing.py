"""A topology as lines of text, for a terminal: the boxes and columns of the drawing, in characters. Pure.

┌ client ────────────┐     ┌ server ────────────┐
│ eth0               ├─────┤ eth0               │
│   10.0.0.1/24      │     │   10.0.0.2/24      │
└────────────────────┘     └────────────────────┘
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.net.drawing import Box, Drawing, lines_of

if TYPE_CHECKING:
    from lab.net.topology import Topology

UP, RIGHT, DOWN, LEFT = 1, 2, 4, 8
LINES = {
    UP: "╵", RIGHT: "╶", DOWN: "╷", LEFT: "╴", UP | DOWN: "│", LEFT | RIGHT: "─",
    DOWN | RIGHT: "┌", DOWN | LEFT: "┐", UP | RIGHT: "└", UP | LEFT: "┘",
    UP | DOWN | RIGHT: "├", UP | DOWN | LEFT: "┤", DOWN | LEFT | RIGHT: "┬", UP | LEFT | RIGHT: "┴",
    UP | DOWN | LEFT | RIGHT: "┼",
}  # fmt: skip
GAP = 5


def to_text(topology: Topology) -> str:
    """Boxes from left to right and a line for each veth; a veth that is not between neighbours stands below."""
    return "\n".join(_Page(Drawing(topology)).lines()) + "\n"


class _Page:
    """A grid of characters: text, and lines that join where they meet."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._text: dict[tuple[int, int], str] = {}
        self._strokes: dict[tuple[int, int], int] = {}
        self._pins: dict[str, tuple[int, int, int]] = {}
        """Of each interface: its row, and the left and the right side of its box."""
        self._column = {box.name: number for number, column in enumerate(drawing.columns) for box in column}
        self._below: list[str] = []
        wires = self._wires()
        self._place_boxes(wires)
        for wires_of_gap in wires:
            self._place_wires(wires_of_gap)

    def lines(self) -> Iterator[str]:
        """The page, row by row."""
        cells = self._text.keys() | self._strokes.keys()
        for y in range(max(y for _, y in cells) + 1):
            row = (self._text.get((x, y)) or LINES.get(self._strokes.get((x, y), 0), " ") for x in range(self._width))
            yield "".join(row).rstrip()
        yield from self._below
        if self._drawing.hidden:
            yield f"and {self._drawing.hidden} more like these"

    def _wires(self) -> list[list[tuple[str, str]]]:
        """For each gap between columns its veths, the left end first."""
        gaps: list[list[tuple[str, str]]] = [[] for _ in self._drawing.columns]
        for veth in self._drawing.veths:
            a, b = sorted((veth.a, veth.b), key=lambda end: self._column[end.partition("/")[0]])
            first, last = (self._column[end.partition("/")[0]] for end in (a, b))
            if last - first == 1:
                gaps[first].append((a, b))
            else:
                self._below.append(f"{a} ── {b}")
        return gaps

    def _place_boxes(self, wires: list[list[tuple[str, str]]]) -> None:
        columns = self._drawing.columns
        heights = [sum(len(_rows(box)) + 2 for box in column) for column in columns]
        left = 0
        for column, height, crossing in zip(columns, heights, wires, strict=True):
            width, top = max(_width(box) for box in column), (max(heights) - height) // 2
            for box in column:
                self._place_box(box, left, top, left + width - 1)
                top += len(_rows(box)) + 2
            self._width = left + width
            left += width + (GAP if len(crossing) < 2 else len(crossing) + GAP - 1)

    def _place_box(self, box: Box, left: int, top: int, right: int) -> None:
        rows = _rows(box)
        bottom = top + len(rows) + 1
        self._line((left, top), (right, top))
        self._line((left, bottom), (right, bottom))
        self._line((left, top), (left, bottom))
        self._line((right, top), (right, bottom))
        tag = f" {box.tag} " if box.tag else ""
        self._write(left + 2, top, f" {box.name} ")
        self._write(right - 1 - len(tag), top, tag)
        for y, (interface, text) in enumerate(rows, top + 1):
            self._write(right - 1 - len(text) if interface in box.right else left + 2, y, text)
            self._pins.setdefault(interface, (y, left, right))

    def _place_wires(self, wires: list[tuple[str, str]]) -> None:
        """Each has a lane of its own to change rows in, so that no two run over each other."""
        by_row = sorted(wires, key=lambda wire: (self._pins[wire[1]][0], self._pins[wire[0]][0]))
        for number, (a, b) in enumerate(by_row):
            (y1, _, x1), (y2, x2, _) = self._pins[a], self._pins[b]
            lane = x1 + 2 + (number if y1 > y2 else len(wires) - 1 - number)
            self._line((x1, y1), (lane, y1))
            self._line((lane, y1), (lane, y2))
            self._line((lane, y2), (x2, y2))

    def _line(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """A straight one; where lines meet they join."""
        (x1, y1), (x2, y2) = sorted((start, end))
        for x in range(x1, x2):
            self._stroke((x, y1), RIGHT)
            self._stroke((x + 1, y1), LEFT)
        for y in range(y1, y2):
            self._stroke((x1, y), DOWN)
            self._stroke((x1, y + 1), UP)

    def _stroke(self, cell: tuple[int, int], way: int) -> None:
        self._strokes[cell] = self._strokes.get(cell, 0) | way

    def _write(self, x: int, y: int, text: str) -> None:
        for number, character in enumerate(text):
            self._text[x + number, y] = character


def _rows(box: Box) -> list[tuple[str, str]]:
    """Of each row the interface's full name ("" for the loopback's) and the text."""
    rows = [
        (each.name, f"  {text}" if number else text) for each in box.rows for number, text in enumerate(lines_of(each))
    ]
    return rows + [("", f"lo {text}") for text in box.loopback]


def _width(box: Box) -> int:
    heading = len(box.name) + (len(box.tag) + 2 if box.tag else 0)
    return max([heading, *(len(text) for _, text in _rows(box)), 1]) + 5
