"""A forest plot: comparisons below each other, each with its interval, on one axis around "no difference"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lab.report.compared import Compared, change
from lab.report.plots import Axis, axis

HEIGHT = 26
MARK = 9
LEAST_RATIO, MOST_RATIO = 0.05, 20.0
"""What lies beyond is drawn at the edge; its interval stands beside it in words."""
LINEAR_UP_TO = 1.5
"""Ratios up to this, and down to its inverse, are drawn as percents on a straight axis, beyond as factors."""
FACTORS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Scale:
    """Where a ratio lies across: straight in percents, or logarithmic in factors."""

    axis: Axis
    is_linear: bool

    def across(self, ratio: float) -> float:
        """Percents of the width."""
        held = min(MOST_RATIO, max(LEAST_RATIO, ratio))
        share = self.axis.share((held - 1) * 100 if self.is_linear else math.log(held))
        return min(100.0, max(0.0, share))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and their names."""
        if self.is_linear:
            return [(self.axis.share(tick), change(1 + tick / 100) if tick else "equal") for tick in self.axis.ticks]
        return [(self.axis.share(tick), _factor(math.exp(tick))) for tick in self.axis.ticks]


def forest(several: Sequence[Compared]) -> Markup:
    """A row for each comparison that has a ratio: what, where it lies, and the verdict in words."""
    shared = _scale([each for each in several if each.has_ratio])
    rows = Markup("").join(_row(each, shared) for each in several)
    return Markup('<div class="forest">{}{}</div>').format(rows, _axis(shared))


def _scale(several: Sequence[Compared]) -> Scale:
    ends = [end for each in several for end in (*each.comparison.ratio, *_band(each))] or [0.99, 1.01]
    low, high = max(LEAST_RATIO, min(ends)), min(MOST_RATIO, max(ends))
    if high <= LINEAR_UP_TO and low >= 1 / LINEAR_UP_TO:
        return Scale(axis([(low - 1) * 100, (high - 1) * 100, 0.0]), True)
    first = max((index for index, factor in enumerate(FACTORS) if factor <= min(low, 1)), default=0)
    last = min((index for index, factor in enumerate(FACTORS) if factor >= max(high, 1)), default=len(FACTORS) - 1)
    ticks = tuple(math.log(factor) for factor in FACTORS[first : last + 1])
    return Scale(Axis(ticks[0], ticks[-1], ticks), False)


def _band(each: Compared) -> tuple[float, float]:
    """The ratios that count as no difference."""
    small = each.comparison.negligible / each.comparison.base
    return 1 - small, 1 + small


def _row(each: Compared, shared: Scale) -> Markup:
    drawn = _drawn(each, shared) if each.has_ratio else Markup("")
    return Markup(
        '<div class="forest-row {}" id="{}"><p class="forest-who">{}</p>'
        '<svg height="{}" role="img" aria-label="{}">{}</svg>'
        '<p class="forest-verdict"><b>{}</b> <span class="fine">{}: {}</span>{}</p></div>'
    ).format(
        each.comparison.verdict.replace(" ", "-"),
        each.key,
        each.comparison.subject,
        HEIGHT,
        f"{each.who}, {each.comparison.subject}: {each.verdict}, {each.interval}",
        drawn,
        each.verdict,
        each.confidence,
        each.interval,
        _doubt(each),
    )


def _doubt(each: Compared) -> Markup:
    said = each.too_noisy or each.to_be_sure
    return Markup(' <span class="noise">{}</span>').format(said) if said else Markup("")


def _drawn(each: Compared, shared: Scale) -> Markup:
    middle = HEIGHT / 2
    ratio, low, high = (shared.across(end) for end in each.comparison.ratio)
    narrow, wide = (shared.across(end) for end in _band(each))
    return Markup(
        '<rect class="band" x="{}%" width="{}%" y="0" height="{}"/>'
        '<line class="equal" x1="{e}%" x2="{e}%" y1="0" y2="{}"/>'
        '<line class="reach" x1="{}%" x2="{}%" y1="{m}" y2="{m}"/>'
        '<svg x="{}%" y="{}" overflow="visible"><rect class="mark" x="{}" width="{s}" height="{s}">'
        "<title>{}</title></rect></svg>"
    ).format(
        narrow,
        round(wide - narrow, 3),
        HEIGHT,
        HEIGHT,
        low,
        high,
        ratio,
        middle - MARK / 2,
        -MARK / 2,
        f"{each.verdict}, {each.confidence}: {each.interval}",
        e=shared.across(1),
        m=middle,
        s=MARK,
    )


def _axis(shared: Scale) -> Markup:
    last = len(shared.ticks) - 1
    labels = Markup("").join(
        Markup('<text x="{}%" y="14" text-anchor="{}">{}</text>').format(
            place, {0: "start", last: "end"}.get(index, "middle"), name
        )
        for index, (place, name) in enumerate(shared.ticks)
    )
    return Markup(
        '<div class="forest-row forest-axis"><span></span><svg class="axis" height="34" aria-hidden="true">{}'
        '<text x="0%" y="30">← faster</text><text x="100%" y="30" text-anchor="end">slower →</text></svg>'
        "<span></span></div>"
    ).format(labels)


def _factor(ratio: float) -> str:
    return "equal" if abs(ratio - 1) < 1e-9 else f"{ratio:g} times"
