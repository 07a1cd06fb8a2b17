"""Plots that are drawn once, as SVG: trials as dots, and cost against the number of flows as a line.

Horizontal places are percentages and everything else pixels, so that a plot fits any width and its words stay readable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from lab.report.curves import thinned
from lab.report.quantity import plain, quantity, scale, span

MOST_DOTS = 300
COLOURS = 5
"""Of lines; a sixth begins again with the first, and its name and its points tell it apart."""
ROW_HEIGHT = 30
LINE_HEIGHT = 210


@dataclass(frozen=True)
class Row:
    """Trials that share a line of a dot plot; all numbers in the plot's unit."""

    label: str
    samples: Sequence[float]
    value: float
    interval: tuple[float, float] | None
    limit: float | None
    accent: bool = True
    promise: str | Markup = ""
    confidence: str = "95 %"


@dataclass(frozen=True)
class Point:
    """One number of flows on a line of a cost plot."""

    flows: float
    samples: Sequence[float]
    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A span of values and the round numbers in it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 100 at the high end."""
        return round((value - self.low) / (self.high - self.low) * 100, 3)


def axis(values: Sequence[float], *, from_zero: bool = False) -> Axis:
    """An axis around `values` that ends on round numbers; it starts at zero where that hides nothing."""
    low, high = min(values), max(values)
    if from_zero or 0 < low < 0.6 * high:
        low = min(0.0, low)
    gap = (high - low) or abs(high) * 0.1 or 1.0
    step = _round_step(gap / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = last if last > first else first + 1
    ticks = tuple(round(index * step, 9) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def dot_plot(rows: Sequence[Row], unit: str) -> Markup:
    """Every trial a dot, the headline a tick, its interval a bar, the limit a dashed line."""
    values = [value for row in rows for value in (*row.samples, row.value, *(row.interval or ()))]
    across = axis(values + [row.limit for row in rows if row.limit is not None])
    drawn = Markup("").join(_dot_row(row, across, unit) for row in rows)
    return Markup('<div class="dots">{}{}</div>').format(drawn, _dot_axis(across, unit))


def _dot_row(row: Row, across: Axis, unit: str) -> Markup:
    middle = ROW_HEIGHT / 2
    marks = [Markup('<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(middle)]
    if row.limit is not None:
        marks.append(_tall("limit", across.share(row.limit), f"limit {quantity(row.limit, unit)}"))
    dots = thinned(row.samples, MOST_DOTS)
    for index, sample in enumerate(dots):
        marks.append(
            Markup('<circle cx="{}%" cy="{}" r="3.5"><title>trial {}: {}</title></circle>').format(
                across.share(sample), middle + (index * 7 % 5 - 2) * 2, index + 1, quantity(sample, unit)
            )
        )
    if row.interval:
        ends = (across.share(end) for end in row.interval)
        marks.append(Markup('<line class="interval" x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(*ends, middle, middle))
    marks.append(_tall("value", across.share(row.value), quantity(row.value, unit)))
    interval = ""
    if row.interval:
        interval = Markup(' <span class="fine">{}: {}</span>').format(row.confidence, span(row.interval, unit))
    return Markup(
        '<div class="dot-row{}"><p><span>{}</span> <b>{}</b>{}{}</p>'
        '<svg height="{}" role="img" aria-label="{}: {} trials">{}</svg></div>'
    ).format(
        "" if row.accent else " bare",
        row.label,
        quantity(row.value, unit),
        interval,
        row.promise,
        ROW_HEIGHT,
        row.label,
        len(row.samples),
        Markup("").join(marks),
    )


def _tall(kind: str, share: float, title: str) -> Markup:
    return Markup('<line class="{0}" x1="{1}%" x2="{1}%" y1="2" y2="{2}"><title>{3}</title></line>').format(
        kind, share, ROW_HEIGHT - 2, title
    )


def _dot_axis(across: Axis, unit: str) -> Markup:
    shown = scale(unit, across.high or across.low)
    labels = Markup("").join(
        Markup('<text x="{}%" y="14" text-anchor="{}">{}</text>').format(
            across.share(tick), _anchor(across, tick), shown.tick(tick)
        )
        for tick in across.ticks
    )
    return Markup(
        '<svg class="axis" height="34" aria-hidden="true">{}<text x="50%" y="30" text-anchor="middle">{}</text></svg>'
    ).format(labels, shown.unit)


def _anchor(across: Axis, tick: float) -> str:
    return {across.ticks[0]: "start", across.ticks[-1]: "end"}.get(tick, "middle")


def cost_plot(lines: dict[str, list[Point]], unit: str) -> Markup:
    """Cost against the number of flows, logarithmic across, from zero upwards."""
    points = [point for line in lines.values() for point in line]
    up = axis([value for point in points for value in (*point.samples, point.value, *point.interval)], from_zero=True)
    flows = sorted({point.flows for point in points})
    across = Axis(math.log(flows[0]), math.log(flows[-1]) if len(flows) > 1 else math.log(flows[0]) + 1, ())
    shown = scale(unit, up.high)
    marks = [_level(up, tick, shown.tick(tick)) for tick in up.ticks]
    marks += [_column(across, number) for number in flows]
    for index, (label, line) in enumerate(lines.items()):
        marks.append(_line(index, label, sorted(line, key=lambda point: point.flows), (across, up), unit))
    marks += _marks(points, (across, up), unit)
    marks.append(Markup('<text class="name" x="-46" y="-12">{}</text>').format(shown.unit))
    return Markup(
        '{}<div class="cost"><svg height="{}" role="img" aria-label="cost by number of flows">{}</svg></div>'
    ).format(_line_names(list(lines)), LINE_HEIGHT + 40, Markup("").join(marks))


def _line_names(labels: list[str]) -> Markup:
    """Which colour is which line; a single line needs no telling."""
    if len(labels) < 2:
        return Markup("")
    names = Markup("").join(
        Markup('<li class="line-{}">{}</li>').format(index % COLOURS, label) for index, label in enumerate(labels)
    )
    return Markup('<ul class="line-names">{}</ul>').format(names)


def _height(up: Axis, value: float) -> float:
    return round(LINE_HEIGHT * (1 - up.share(value) / 100), 2)


def _level(up: Axis, tick: float, label: str) -> Markup:
    return Markup(
        '<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>'
        '<text x="-8" y="{0}" dy="4" text-anchor="end">{1}</text>'
    ).format(_height(up, tick), label)


def _column(across: Axis, flows: float) -> Markup:
    share = across.share(math.log(flows))
    return Markup(
        '<text x="{}%" y="{}" text-anchor="middle">{}</text><text x="{}%" y="{}" text-anchor="middle">{}</text>'
    ).format(share, LINE_HEIGHT + 20, plain(flows), share, LINE_HEIGHT + 35, "flow" if flows == 1 else "flows")


def _line(index: int, label: str, line: list[Point], axes: tuple[Axis, Axis], unit: str) -> Markup:
    across, up = axes
    places = [(across.share(math.log(point.flows)), _height(up, point.value)) for point in line]
    strokes = Markup("").join(
        Markup('<line class="stroke" x1="{}%" y1="{}" x2="{}%" y2="{}"/>').format(*start, *end)
        for start, end in pairwise(places)
    )
    dots = Markup("").join(_cost_point(point, place, up, unit) for point, place in zip(line, places, strict=True))
    return Markup('<g class="line line-{}"><title>{}</title>{}{}</g>').format(index % COLOURS, label, strokes, dots)


def _cost_point(point: Point, place: tuple[float, float], up: Axis, unit: str) -> Markup:
    x, y = place
    trials = Markup("").join(
        Markup('<circle class="trial" cx="{}%" cy="{}" r="2.5"/>').format(x, _height(up, sample))
        for sample in thinned(point.samples, 50)
    )
    low, high = (_height(up, end) for end in point.interval)
    title = f"{plain(point.flows)} flows: {quantity(point.value, unit)}, 95 %: {span(point.interval, unit)}"
    return Markup(
        '{}<line class="interval" x1="{}%" x2="{}%" y1="{}" y2="{}"/>'
        '<circle cx="{}%" cy="{}" r="4.5"><title>{}</title></circle>'
    ).format(trials, x, x, low, high, x, y, title)


def _marks(points: Sequence[Point], axes: tuple[Axis, Axis], unit: str) -> Iterator[Markup]:
    """The value beside the dearest and the cheapest point of each number of flows: more would overlap."""
    across, up = axes
    for flows in {point.flows for point in points}:
        several = sorted(point.value for point in points if point.flows == flows)
        for value, offset in {several[0]: 20, several[-1]: -10}.items():
            yield Markup('<text class="mark" x="{}%" y="{}" dy="{}" text-anchor="middle">{}</text>').format(
                across.share(math.log(flows)), _height(up, value), offset, quantity(value, unit).partition(" ")[0]
            )
