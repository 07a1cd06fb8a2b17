"""Drawings of a topology: Mermaid text, and one SVG element that fits light and dark pages. Pure.

A namespace is a rounded box with its name and its interfaces; a veth is a line between two interfaces. Namespaces that
forward or switch are drawn in the accent colour. Chains run from left to right; a hub has up to six leaves on its
right, more of them on both sides.

A page may set --lab-accent, --lab-wire and --lab-card; without them the drawing takes its colours from currentColor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.net.layout import InterfaceSpec
    from lab.net.topology import Topology

PAD, ROW, HEAD, GAP_X, GAP_Y = 12, 15, 26, 78, 14
CHARACTER, SMALL_CHARACTER = 7.9, 6.4  # widths of the two monospaced sizes, in pixels
LEAVES_ON_ONE_SIDE = 6
LEAVES_SHOWN = 20

_STYLE = (
    ".lab-topology text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:currentColor}"
    ".lab-topology .lab-ns{font-size:13px;font-weight:600}.lab-topology .lab-if{font-size:11.5px}"
    ".lab-topology .lab-ad{font-size:10.5px;opacity:.7}"
    ".lab-topology .lab-tag{font-size:10px;fill:var(--lab-accent,#3b8ae0)}"
    ".lab-box{fill:var(--lab-card,currentColor);fill-opacity:var(--lab-card-opacity,.035);"
    "stroke:currentColor;stroke-opacity:.32}"
    ".lab-hub{stroke:var(--lab-accent,#3b8ae0);stroke-opacity:1;stroke-width:1.5}"
    ".lab-bar{fill:var(--lab-accent,#3b8ae0);fill-opacity:.14;stroke:var(--lab-accent,#3b8ae0);stroke-opacity:.55}"
    ".lab-wire{fill:none;stroke:var(--lab-wire,currentColor);stroke-opacity:.55;stroke-width:1.5}"
    ".lab-pin{fill:var(--lab-wire,currentColor)}"
)


def to_mermaid(topology: Topology) -> str:
    """A flowchart: a subgraph for each namespace, a node for each interface, an edge for each veth."""
    lines = ["flowchart LR"]
    for number, spec in enumerate(topology.namespaces):
        lines.append(f'  subgraph n{number}["{spec.name}"]')
        for each in topology.layout.of_namespace.get(spec.name, ()):
            label = "<br/>".join([each.short_name, *(str(address) for address in each.addresses)])
            lines.append(f'    i{each.ifindex}["{label}"]')
        lines.append("  end")
    indexes = {each.name: each.ifindex for each in topology.interfaces}
    lines += [f"  i{indexes[veth.a]} --- i{indexes[veth.b]}" for veth in topology.veths]
    for each in topology.interfaces:
        below = each.master or (each.peer if each.kind in ("vlan", "vxlan") else "")
        if below:
            lines.append(f"  i{each.ifindex} -.- i{indexes[below]}")
    return "\n".join(lines) + "\n"


def to_svg(topology: Topology) -> str:
    """One SVG element with nothing from outside; of more than 20 leaves the first 20, and how many there are."""
    drawing = Drawing(topology)
    title = escape(f"{topology.name}: {', '.join(spec.name for spec in topology.namespaces[:8])}")
    width, height = drawing.size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lab-topology" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" style="max-width:100%;height:auto">'
        f"<title>{title}</title><style>{_STYLE}</style>{''.join(drawing.parts())}</svg>"
    )


@dataclass
class Box:
    """A namespace on the page: `right` names the interfaces at its right side, `column` is the width of its column."""

    name: str
    tag: str
    rows: list[InterfaceSpec]
    loopback: tuple[str, ...]
    right: set[str] = field(default_factory=set)
    x: float = 0
    y: float = 0
    column: float = 0

    @property
    def width(self) -> float:
        """In pixels; that of its column where that is wider."""
        longest = [CHARACTER * (len(self.name) + 2) + SMALL_CHARACTER * len(self.tag)]
        longest += [SMALL_CHARACTER * len(text) for each in self.rows for text in lines_of(each)]
        longest += [SMALL_CHARACTER * (len(text) + 3) for text in self.loopback]
        return max(self.column, round(2 * PAD + max(longest) + 8))

    @property
    def height(self) -> float:
        """In pixels."""
        rows = sum(len(lines_of(each)) for each in self.rows) + len(self.loopback)
        return HEAD + ROW * rows + 6 * len(self.rows) + (4 if rows else 2)

    @property
    def end(self) -> float:
        """Where its right side is."""
        return self.x + self.width

    def pin(self, name: str) -> float:
        """The height at which an interface's wire leaves."""
        at = self.y + HEAD
        for each in self.rows:
            if each.name == name:
                return at + 9
            at += ROW * len(lines_of(each)) + 6
        return self.y + self.height / 2


def lines_of(interface: InterfaceSpec) -> list[str]:
    """Its name, then an address a line."""
    return [interface.short_name, *(str(address) for address in interface.addresses)]


def _home(interface: str) -> str:
    return interface.partition("/")[0]


class Drawing:
    """Boxes in columns, and the wires between them."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._shown, self.hidden = _shown(topology)
        self.veths = [veth for veth in topology.veths if {_home(veth.a), _home(veth.b)} <= self._shown]
        self._boxes = {
            name: self._box(name) for name in (spec.name for spec in topology.namespaces) if name in self._shown
        }
        self.columns = self._in_columns()
        self._margin = 0.0
        self._place()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height, in pixels."""
        boxes = self._boxes.values()
        bottom = max(box.y + box.height for box in boxes) + (22 if self.hidden else 0)
        return max(box.end for box in boxes) + 3 + self._margin, bottom + 2

    def _box(self, name: str) -> Box:
        spec = next(each for each in self._topology.namespaces if each.name == name)
        wired = {end for veth in self.veths for end in (veth.a, veth.b)}
        own = [
            each
            for each in self._topology.layout.of_namespace.get(name, ())
            if each.kind not in ("veth", "physical") or each.name in wired
        ]
        bridges = [each for each in own if each.kind == "bridge"]
        tag = "bridge" if bridges else "router" if spec.forwarding else ""
        return Box(name, tag, bridges + [each for each in own if each.kind != "bridge"], spec.loopback)

    def _wired_to(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {name: [] for name in self._boxes}
        for veth in self.veths:
            found[_home(veth.a)].append(_home(veth.b))
            found[_home(veth.b)].append(_home(veth.a))
        return found

    def _in_columns(self) -> list[list[Box]]:
        """Breadth first from the first namespace, a column for each distance; many leaves stand on both sides."""
        wires = self._wired_to()
        placed: set[str] = set()
        columns: list[list[str]] = []
        for start in self._boxes:
            level, depth = ([] if start in placed else [start]), 0
            while level:
                placed.update(level)
                if depth == len(columns):
                    columns.append([])
                columns[depth] += level
                level = list(dict.fromkeys(far for name in level for far in wires[name] if far not in placed))
                depth += 1
        if len(columns) == 2 and len(columns[0]) == 1 and len(columns[1]) > LEAVES_ON_ONE_SIDE:
            columns = [columns[1][0::2], columns[0], columns[1][1::2]]
        return [[self._boxes[name] for name in column] for column in columns]

    def _place(self) -> None:
        heights = [sum(box.height for box in column) + GAP_Y * (len(column) - 1) for column in self.columns]
        tallest, x = max(heights), 2.0
        for column, height in zip(self.columns, heights, strict=True):
            y = 2 + (tallest - height) / 2
            widest = max(box.width for box in column)
            for box in column:
                box.column, box.x, box.y = widest, x, y
                y += box.height + GAP_Y
            x += widest + GAP_X
        self._turn_texts()

    def _turn_texts(self) -> None:
        """Where wires leave to both sides, what goes to the right stands at the right."""
        sides: dict[str, dict[str, int]] = {name: {} for name in self._boxes}
        for veth in self.veths:
            one, other = self._boxes[_home(veth.a)], self._boxes[_home(veth.b)]
            way = (other.x + other.width / 2 > one.x + one.width / 2) - (
                other.x + other.width / 2 < one.x + one.width / 2
            )
            sides[one.name][veth.a] = way
            sides[other.name][veth.b] = -way
            if way == 0:
                self._margin = 30.0
        for name, ways in sides.items():
            if {1, -1} <= set(ways.values()):
                self._boxes[name].right = {interface for interface, way in ways.items() if way == 1}

    def parts(self) -> Iterator[str]:
        """Boxes, then the wires between them with a pin at each end."""
        for box in self._boxes.values():
            yield from self._draw(box)
        for veth in self.veths:
            yield self._wire(veth.a, veth.b)
        if self.hidden:
            width, height = self.size
            text = f"and {self.hidden} more like these"
            yield f'<text class="lab-ad" x="{width / 2:g}" y="{height - 6:g}" text-anchor="middle">{text}</text>'

    def _wire(self, a: str, b: str) -> str:
        one, other = self._boxes[_home(a)], self._boxes[_home(b)]
        if one.x + one.width / 2 > other.x + other.width / 2:
            one, other, a, b = other, one, b, a
        y1, y2, x1, x2 = one.pin(a), other.pin(b), one.end, other.x
        bend = (x2 - x1) / 2
        left, right = x1 + bend, x2 - bend
        if x2 < x1:  # in one column: around the right side
            x2 = other.end
            left = right = max(x1, x2) + 38
        path = f"M{x1:g} {y1:g}C{left:g} {y1:g} {right:g} {y2:g} {x2:g} {y2:g}"
        pins = "".join(f'<circle class="lab-pin" cx="{x:g}" cy="{y:g}" r="3"/>' for x, y in ((x1, y1), (x2, y2)))
        return f'<path class="lab-wire" d="{path}"/>{pins}'

    def _draw(self, box: Box) -> Iterator[str]:
        hub = " lab-hub" if box.tag else ""
        size = f'x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}"'
        yield f'<rect class="lab-box{hub}" {size} rx="9"/>'
        yield f'<text class="lab-ns" x="{box.x + PAD:g}" y="{box.y + 18:g}">{escape(box.name)}</text>'
        if box.tag:
            yield f'<text class="lab-tag" x="{box.end - PAD:g}" y="{box.y + 17:g}" text-anchor="end">{box.tag}</text>'
        y = box.y + HEAD
        for each in box.rows:
            yield from self._draw_interface(box, each, y)
            y += ROW * len(lines_of(each)) + 6
        for text in box.loopback:
            yield f'<text class="lab-ad" x="{box.x + PAD:g}" y="{y + 11:g}">lo {escape(text)}</text>'
            y += ROW

    def _draw_interface(self, box: Box, each: InterfaceSpec, y: float) -> Iterator[str]:
        lines = lines_of(each)
        if each.kind == "bridge":
            size = f'width="{box.width - 12:g}" height="{ROW * len(lines) + 5:g}"'
            yield f'<rect class="lab-bar" x="{box.x + 6:g}" y="{y - 1:g}" {size} rx="5"/>'
        x, anchor = (box.end - PAD, ' text-anchor="end"') if each.name in box.right else (box.x + PAD, "")
        for row, text in enumerate(lines):
            style = "lab-ad" if row else "lab-if"
            yield f'<text class="{style}" x="{x:g}" y="{y + 13 + ROW * row:g}"{anchor}>{escape(text)}</text>'


def _shown(topology: Topology) -> tuple[set[str], int]:
    """The namespaces to draw and how many are left out: beyond 20, those with one veth that are alike."""
    names = [spec.name for spec in topology.namespaces]
    veths = Counter(_home(end) for veth in topology.veths for end in (veth.a, veth.b))
    leaves = [name for name in names if veths[name] <= 1]
    left_out = set(leaves[LEAVES_SHOWN:])
    return set(names) - left_out, len(left_out)
