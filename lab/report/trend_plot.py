"""A small chart of one trend: its figures from old to new, and where its level changed."""

from __future__ import annotations

from itertools import pairwise

from markupsafe import Markup

from lab.report.plots import Axis, axis
from lab.report.quantity import Scale, scale
from lab.report.trend import Change, Trend

HEIGHT = 84
MOST = 100
"""Runs that are drawn; older ones are counted for the changes, and left out here."""


def trend_plot(trend: Trend) -> Markup:
    """An SVG as wide as its place: a line, a dot at each change and at the newest run, a dashed line at each change."""
    first = max(0, len(trend.figures) - MOST)
    figures = trend.figures[first:]
    up = axis(figures)
    changes = [change for change in trend.changes if change.place >= first]
    shown = Scale(1, "") if trend.is_relative else scale(trend.newest.unit, trend.newest.figure)
    marks = [_level(up, tick, shown.tick(tick)) for tick in (up.low, up.high)]
    marks += [_change(change, _across(change.place - 0.5 - first, len(figures))) for change in changes]
    marks.append(_line(figures, up))
    ends = sorted({*(change.place - first for change in changes), len(figures) - 1})
    marks += [
        Markup('<circle cx="{}%" cy="{}" r="3.5"><title>{}</title></circle>').format(
            _across(place, len(figures)), _height(up, figures[place]), trend.points[first + place].commit
        )
        for place in ends
    ]
    name = f"{trend.metric}, {trend.subject}: {len(figures)} runs"
    return Markup('<div class="trend-plot"><svg height="{}" role="img" aria-label="{}">{}</svg></div>').format(
        HEIGHT + 4, name, Markup("").join(marks)
    )


def _across(place: float, count: int) -> float:
    return round(100 * place / max(1, count - 1), 2)


def _height(up: Axis, figure: float) -> float:
    return round(HEIGHT * (1 - up.share(figure) / 100), 1) + 2


def _level(up: Axis, tick: float, label: str) -> Markup:
    return Markup(
        '<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>'
        '<text x="-8" y="{0}" dy="4" text-anchor="end">{1}</text>'
    ).format(_height(up, tick), label)


def _change(change: Change, across: float) -> Markup:
    return Markup('<line class="change{}" x1="{x}%" x2="{x}%" y1="2" y2="{}"><title>{}</title></line>').format(
        " worse" if change.is_worse else "", HEIGHT + 2, change.verdict, x=across
    )


def _line(figures: list[float], up: Axis) -> Markup:
    """Places across are shares of the width, which a path cannot have: each stroke is a line of its own."""
    places = [(_across(place, len(figures)), _height(up, figure)) for place, figure in enumerate(figures)]
    return Markup("").join(
        Markup('<line class="stroke" x1="{}%" y1="{}" x2="{}%" y2="{}"/>').format(*start, *end)
        for start, end in pairwise(places)
    )
