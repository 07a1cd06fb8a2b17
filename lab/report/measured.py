"""Measurements as the page shows them, and the plots drawn of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from lab.model.measurement import Measurement
from lab.model.statistics import quantile
from lab.report.bills import sentence as bill_sentence
from lab.report.curves import arms
from lab.report.figures import (
    Figure,
    headline_figure,
    is_searched,
    limit_text,
    metric_name,
    quantile_interval,
    statistic_name,
    summary_value,
    telling_figure,
)
from lab.report.plots import Point, Row, cost_plot, dot_plot
from lab.report.read import Latest
from lab.report.words import anchor

DISTRIBUTION_FROM = 100
"""Samples in an arm from which a distribution says more than dots."""

FLOWS_IN_SUBJECT = re.compile(r",?\s*[\d,]+ flows?\b")


@dataclass(frozen=True)
class Measured:
    """A measurement, the test that made it and the run that it is from."""

    measurement: Measurement
    latest: Latest
    place: int

    @property
    def key(self) -> str:
        """Its name in the page's data."""
        return anchor("m", f"{self.latest.result.nodeid} {self.place}")

    @property
    def telling(self) -> Figure:
        """The figure with the promise, or the headline."""
        return telling_figure(self.measurement)

    @property
    def headline(self) -> Figure:
        """The figure that the interval was stored for."""
        return headline_figure(self.measurement)

    @property
    def name(self) -> str:
        """What was measured, in words."""
        return metric_name(self.measurement.metric)

    @property
    def method(self) -> str:
        """How it was measured, in words."""
        return self.measurement.method.replace("_", " ")

    @property
    def noise(self) -> Mapping[str, Any]:
        """What disturbed it."""
        return self.measurement.noise

    @property
    def bill(self) -> str:
        """What a packet pays for, in words, or ""."""
        return bill_sentence(self.measurement)

    @property
    def is_distribution(self) -> bool:
        """True when there are samples enough to draw how they spread; some metrics have plots of their own."""
        if self.is_cost or self.is_overhead or is_searched(self.measurement):
            return False
        return max(map(len, arms(self.measurement).values()), default=0) >= DISTRIBUTION_FROM

    @property
    def is_overhead(self) -> bool:
        """True for what an attachment adds to a call: of interest is each attachment, not each batch."""
        return self.measurement.metric == "overhead"

    @property
    def is_cost(self) -> bool:
        """True for a cost at a stated number of flows."""
        return self.measurement.metric == "cost" and self.flows is not None

    @property
    def has_arms(self) -> bool:
        """True when it compares, so that its figure is not simply that of its trials."""
        return len(arms(self.measurement)) > 1 and not self.is_overhead

    @property
    def flows(self) -> float | None:
        """The number of flows that every trial of a cost had, or None."""
        numbers = {trial.facts.get("flows") for trial in self.measurement.trials}
        only = numbers.pop() if len(numbers) == 1 else None
        return only if isinstance(only, int | float) and only >= 1 else None

    @property
    def statistics(self) -> list[tuple[str, str]]:
        """Names and values of the whole summary."""
        return [(statistic_name(name), summary_value(self.measurement, name)) for name in self.measurement.summary]

    @property
    def limit(self) -> str:
        """The promise as a sentence, "" without one."""
        limit = self.measurement.limit
        return f"{statistic_name(limit.statistic)} {limit_text(limit, self.measurement.unit)}" if limit else ""


def dots(several: Sequence[Measured]) -> Markup:
    """The dot plot of measurements that share a metric and a unit."""
    rows = [row for each in several for row in _rows(each)]
    return dot_plot(rows, several[0].measurement.unit) if rows else Markup("")


def _rows(measured: Measured) -> list[Row]:
    measurement = measured.measurement
    limit = measurement.limit.value if measurement.limit else None
    several = arms(measurement)
    head = measurement.summary[measurement.headline]
    name = f"{measurement.subject or measurement.program}, {statistic_name(measurement.headline)}"
    if not measured.has_arms:
        samples = _added(measurement) if measured.is_overhead else next(iter(several.values()), [])
        return [Row(name, samples, head, measurement.interval, limit, promise=_promise(measured.telling))]
    return [_arm_row(measurement, arm, samples) for arm, samples in several.items()]


def _arm_row(measurement: Measurement, arm: str, samples: list[float]) -> Row:
    """An arm's own median; the limit is drawn where the headline is about this arm and not about a difference."""
    head, limit = measurement.summary[measurement.headline], measurement.limit
    own = arm == "with" and min(samples) <= head <= max(samples)
    return Row(
        label=f"{measurement.subject}, {arm}, median",
        samples=samples,
        value=quantile(samples, 0.5),
        interval=quantile_interval(samples, 0.5),
        limit=limit.value if limit and own else None,
        accent=arm == "with",
    )


def _promise(figure: Figure) -> Markup:
    """What was promised and whether it was kept, and why that cannot be told."""
    told = Markup("")
    if figure.limit:
        told += Markup(' <span class="promise {0}">{1} {2}: {0}</span>').format(
            figure.verdict, figure.statistic, figure.limit
        )
    if figure.noise:
        told += Markup(' <span class="noise">{}</span>').format(figure.noise)
    return told


def costs_plot(several: Sequence[Measured], unit: str) -> Markup:
    """The cost plot of costs that share a unit."""
    lines: dict[str, list[Point]] = {}
    for each in several:
        measurement = each.measurement
        samples = _added(measurement)
        value = measurement.summary[measurement.headline]
        point = Point(each.flows or 1, samples, value, measurement.interval)
        lines.setdefault(line_name(each), []).append(point)
    return cost_plot(lines, unit)


def _added(measurement: Measurement) -> list[float]:
    """What each load, or each attachment, added to the floor beside it; without a floor the samples as they are."""
    several = arms(measurement)
    own, floor = several.get("with", []), several.get("without", [])
    parts = {trial.facts.get("loads", trial.facts.get("blocks")) for trial in measurement.trials}
    number = parts.pop() if len(parts) == 1 else None
    if len(own) != len(floor):
        return own
    added = [a - b for a, b in zip(own, floor, strict=True)]
    if not isinstance(number, int) or not 0 < number <= len(added):
        return added
    turns = len(added) // number
    return [median(added[start : start + turns]) for start in range(0, turns * number, turns)]


def in_lines(several: Sequence[Measured]) -> list[Measured]:
    """Those of one line of the plot together, from few flows to many."""
    lines = list(dict.fromkeys(map(line_name, several)))
    return sorted(several, key=lambda each: (lines.index(line_name(each)), each.flows or 0))


def line_name(measured: Measured) -> str:
    """What a cost is of, but for its number of flows: one line of the plot."""
    return FLOWS_IN_SUBJECT.sub("", measured.measurement.subject).strip(" ,") or measured.measurement.program


def badness(measured: Measured) -> tuple[float, float]:
    """To sort by: near its limit first; without limits the slowest first."""
    value = measured.measurement.summary[measured.measurement.headline]
    slow = -value if measured.measurement.metric in ("rate", "goodput") else value
    return measured.telling.of_limit, slow
