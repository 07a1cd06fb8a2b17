"""How a rate came about: what the search found, what was offered without pacing, and what was lost at which load."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from lab.model.measurement import Measurement
from lab.model.statistics import median_interval, quantile
from lab.report.figures import SEARCHED, limit_text, statistic_name
from lab.report.plots import Row, axis, dot_plot
from lab.report.quantity import plain, quantity, scale
from lab.report.sound import numbers

GOALS = ("ndr_pps", "pdr_pps")
UNPACED = {"mrr": "mrr_pps", "path": "path_pps", "generator": "generator_pps"}
"""Arms of trials without pacing, and the figure of the summary that each gives."""
HEIGHT = 120
OFF_THE_SCALE = 3
"""Times the fastest of the others: a generator that is so much faster limits nothing, and would squeeze them all."""


def rate_rows(measurement: Measurement) -> Markup:
    """NDR, PDR and MRR below each other, then the same path and the generator without the program."""
    rows = [_searched(measurement, name) for name in GOALS if name in measurement.summary]
    rows += _unpaced(measurement, "mrr") + _unpaced(measurement, "path")
    generator = _unpaced(measurement, "generator")
    most = OFF_THE_SCALE * max(row.value for row in rows)
    beyond = [
        Markup('<p class="fine">{}: {}, off the scale</p>').format(row.label, quantity(row.value, measurement.unit))
        for row in generator
        if row.value > most
    ]
    return dot_plot(rows if beyond else rows + generator, measurement.unit) + Markup("").join(beyond)


def _searched(measurement: Measurement, name: str) -> Row:
    limit = measurement.limit if measurement.limit and measurement.limit.statistic == name else None
    value = measurement.summary[name]
    none = name == "ndr_pps" and not value
    return Row(
        label=f"{statistic_name(name)}{': none, frames are lost at every rate' if none else ''}",
        samples=(),
        value=value,
        interval=measurement.interval if name == measurement.headline else None,
        limit=limit.value if limit else None,
        confidence=SEARCHED,
        promise=f" limit {limit_text(limit, measurement.unit)}" if limit else "",
    )


def _unpaced(measurement: Measurement, arm: str) -> list[Row]:
    """A row of the trials of one arm, none where there are no such trials."""
    return [
        Row(
            label=f"{statistic_name(UNPACED[arm])}, median of {plain(len(trial.samples))} trials",
            samples=trial.samples,
            value=quantile(trial.samples, 0.5),
            interval=median_interval(trial.samples),
            limit=None,
            accent=arm == "mrr",
        )
        for trial in measurement.trials
        if trial.arm == arm and trial.samples
    ]


@dataclass(frozen=True)
class Load:
    """One trial of the search: what was to be offered a second, and the share that was lost or not sent in time."""

    pps: float
    lost: float


def losses(measurement: Measurement) -> Markup:
    """Every trial of the search as a dot: load across, loss upwards; nothing where the trials do not tell."""
    loads = _loads(measurement)
    if not loads:
        return Markup("")
    across = axis([each.pps for each in loads])
    up = axis([100 * each.lost for each in loads] + [0.5], from_zero=True)
    shown = scale(measurement.unit, across.high)
    marks = [
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>'
            '<text x="-8" y="{0}" dy="4" text-anchor="end">{1} %</text>'
        ).format(_height(up.share(tick)), f"{tick:g}")
        for tick in (up.ticks[0], up.ticks[-1])
    ]
    marks += [
        Markup('<text x="{}%" y="{}" text-anchor="middle">{}</text>').format(
            across.share(tick), HEIGHT + 22, shown.tick(tick)
        )
        for tick in across.ticks
    ]
    marks += [
        Markup('<circle class="{}" cx="{}%" cy="{}" r="4"><title>{}</title></circle>').format(
            "lossy" if each.lost else "lossless",
            across.share(each.pps),
            _height(up.share(100 * each.lost)),
            f"{quantity(each.pps, measurement.unit)} intended, {plain(round(100 * each.lost, 3))} % lost or late",
        )
        for each in loads
    ]
    return Markup(
        '<h4>Lost, or not sent in time, at which load <span class="fine">{}, each dot a trial of the search</span></h4>'
        '<div class="losses"><svg height="{}" role="img" aria-label="loss by load">{}</svg></div>'
    ).format(shown.unit, HEIGHT + 28, Markup("").join(marks))


def _height(share: float) -> float:
    return round(HEIGHT * (1 - share / 100), 1) + 4


def _loads(measurement: Measurement) -> list[Load]:
    """Frames that were not sent in time count as lost, as the search has it (`lab.bench.search`)."""
    facts = next((trial.facts for trial in measurement.trials if trial.arm == "with"), {})
    columns = [numbers(facts.get(name)) for name in ("intended_pps", "intended_s", "offered", "received", "cpu_s")]
    if not columns[0] or len({len(column) for column in columns}) > 1:
        return []
    return [
        Load(pps, _lost(pps * seconds, seconds, (offered, received), cpu_s))
        for pps, seconds, offered, received, cpu_s in zip(*columns, strict=True)
        if pps * seconds > 0
    ]


def _lost(intended: float, seconds: float, frames: tuple[float, float], cpu_s: float) -> float:
    offered, received = frames
    in_time = min(intended, intended * seconds / cpu_s) if cpu_s > 0 else intended
    return max(0.0, round((intended - in_time + max(0.0, offered - received)) / intended, 6))
