"""What a measurement says in words: its headline, its interval, its limit and whether that was kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.model import statistics
from lab.model.measurement import Limit, Measurement
from lab.report.curves import arms
from lab.report.quantity import plain, quantity, span
from lab.report.sound import numbers

METRICS = {
    "added_latency": "Added latency",
    "added_round_trip": "Added round trip",
    "rate": "Rate",
    "cost": "Cost",
    "goodput": "Goodput",
    "overhead": "Overhead",
}
STATISTICS = {
    "p50": "median",
    "p999": "p99.9",
    "p9999": "p99.99",
    "n": "samples",
    "aa_p50": "two bare paths differ by (median)",
    "hook_p50": "of it the hook (median)",
    "program_p50": "of it the program (median)",
    "p50_with": "median with",
    "p50_without": "median without",
    "p99_with": "p99 with",
    "p99_without": "p99 without",
    "p999_with": "p99.9 with",
    "p999_without": "p99.9 without",
    "share_below_10us": "share below 10 µs",
    "mean": "mean",
    "ndr_pps": "no-drop rate",
    "pdr_pps": "rate with 0.5 % loss",
    "mrr_pps": "received without pacing",
    "path_pps": "path without the program",
    "generator_pps": "generator into a sink",
}
SEARCHED = "searched down to"
"""Beside the bounds of a search: the highest load that kept its goal, and the lowest that did not."""
HALF_WIDTH = 1.96
"""Standard deviations to each side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Figure:
    """One number with all that it needs to be believed.

    `noise` says why it must not decide anything, and then `kept` is None; so it is where the interval has the limit
    within it. `confidence` says what the interval is: it holds the truth so often, or a search narrowed the figure
    down to it.
    """

    statistic: str
    value: str
    interval: str
    limit: str
    kept: bool | None
    of_limit: float
    noise: str = ""
    confidence: str = "95 %"

    @property
    def verdict(self) -> str:
        """kept, broken, undecided, or "" without a promise."""
        words = {True: "kept", False: "broken", None: "undecided"}
        return words[self.kept] if self.limit else ""

    @property
    def sentence(self) -> str:
        """One line without colour: p99 1.21 µs (95 %: 1.18 to 1.25 µs), limit below 10 µs: kept."""
        told = self.verdict.upper() if self.kept is False else self.verdict
        verdict = f", limit {self.limit}: {told}" if self.limit else ""
        interval = f" ({self.confidence}: {self.interval})" if self.interval else ""
        return f"{self.statistic} {self.value}{interval}{verdict}{f'; {self.noise}' if self.noise else ''}"


def metric_name(metric: str) -> str:
    """The metric's name as a heading."""
    return METRICS.get(metric) or metric.replace("_", " ").capitalize() or "Measurement"


def statistic_name(statistic: str) -> str:
    """The statistic's name as people say it: p50 is the median."""
    return STATISTICS.get(statistic) or statistic.replace("_", " ")


def telling_figure(measurement: Measurement) -> Figure:
    """The figure that the author promised something about, or else the headline."""
    limit = measurement.limit
    if limit is None or limit.statistic not in measurement.summary:
        return _figure(measurement, measurement.headline, None)
    return _figure(measurement, limit.statistic, limit)


def headline_figure(measurement: Measurement) -> Figure:
    """The figure that the instrument is best at."""
    limit = measurement.limit if measurement.limit and measurement.limit.statistic == measurement.headline else None
    return _figure(measurement, measurement.headline, limit)


def summary_value(measurement: Measurement, statistic: str) -> str:
    """One figure of the summary with its unit; shares and counts have units of their own."""
    value = measurement.summary[statistic]
    if statistic == "n":
        return plain(value)
    if statistic.startswith("share"):
        return f"{value * 100:.3f}".rstrip("0").rstrip(".") + " %"
    return quantity(value, measurement.unit)


def interval_of(measurement: Measurement, statistic: str) -> tuple[float, float] | None:
    """The 95 % interval of a figure: as stored for the headline, from the raw trials for another quantile."""
    if statistic == measurement.headline:
        return measurement.interval
    if stored := _stored_interval(measurement, statistic):
        return stored
    fraction = statistics.QUANTILES.get(statistic)
    samples = arms(measurement)
    if fraction is None or "with" not in samples:
        return None
    low, high = quantile_interval(samples["with"], fraction)
    if "without" not in samples:
        return low, high
    bare_low, bare_high = quantile_interval(samples["without"], fraction)
    return low - bare_high, high - bare_low


def _stored_interval(measurement: Measurement, statistic: str) -> tuple[float, float] | None:
    """Of latencies: over fresh networks, which is more than the samples of one network can tell."""
    for trial in measurement.trials:
        intervals = trial.facts.get("intervals")
        ends = numbers(intervals.get(statistic)) if isinstance(intervals, Mapping) else []
        if len(ends) == 2:
            return ends[0], ends[1]
    return None


def quantile_interval(samples: Sequence[float], fraction: float) -> tuple[float, float]:
    """The 95 % interval of a quantile by order statistics, whatever the distribution (Conover, 1999, section 3.2)."""
    ordered = sorted(samples)
    count = len(ordered)
    reach = HALF_WIDTH * math.sqrt(count * fraction * (1 - fraction))
    low = math.floor(count * fraction - reach)
    high = math.ceil(count * fraction + reach)
    return ordered[max(0, low - 1)], ordered[min(count - 1, high)]


def is_searched(measurement: Measurement) -> bool:
    """True for a rate that was searched for, whose parts are known: a plain rate is drawn like any other figure."""
    return any(name in measurement.summary for name in ("ndr_pps", "pdr_pps")) and bool(measurement.trials)


def limit_text(limit: Limit, unit: str) -> str:
    """The promise: below 10 µs."""
    return f"{'below' if limit.below else 'above'} {quantity(limit.value, unit)}"


def _figure(measurement: Measurement, statistic: str, limit: Limit | None) -> Figure:
    value = measurement.summary[statistic]
    interval = interval_of(measurement, statistic)
    return Figure(
        statistic=statistic_name(statistic),
        value=summary_value(measurement, statistic),
        interval=span(interval, measurement.unit) if interval else "",
        limit=limit_text(limit, measurement.unit) if limit else "",
        kept=_kept(limit, interval or (value, value)) if limit and not measurement.too_noisy else None,
        of_limit=_share_of_limit(value, limit) if limit else 0.0,
        noise=measurement.too_noisy,
        confidence=SEARCHED if is_searched(measurement) else "95 %",
    )


def _kept(limit: Limit, interval: tuple[float, float]) -> bool | None:
    """Decided by the interval, as every verdict of the lab."""
    low, high = map(limit.holds_for, interval)
    return low if low == high else None


def _share_of_limit(value: float, limit: Limit) -> float:
    """How much of what the limit allows is used: over 1.0 it is broken."""
    top, bottom = (value, limit.value) if limit.below else (limit.value, value)
    return max(0.0, top / bottom) if bottom > 0 else 1.0
