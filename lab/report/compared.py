"""Comparisons as the page shows them: who met whom on what, the verdict, and what the verdict stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.model.comparison import Comparison
from lab.report.quantity import MINUS, quantity, seconds, span
from lab.report.read import Latest
from lab.report.words import anchor


@dataclass(frozen=True)
class Compared:
    """A comparison and the run that it is from."""

    comparison: Comparison
    latest: Latest
    place: int

    @property
    def key(self) -> str:
        """Its name on the page and in the page's data."""
        return anchor("c", f"{self.latest.result.nodeid} {self.place}")

    @property
    def who(self) -> str:
        """B against A, as `lab compare A B` was asked."""
        return f"{self.comparison.b} against {self.comparison.a}"

    @property
    def has_ratio(self) -> bool:
        """False where A costs nothing that could be measured, so that only the difference tells."""
        return self.comparison.base > 0

    @property
    def verdict(self) -> str:
        """ "3.1 % slower", "no difference", "inconclusive"."""
        comparison = self.comparison
        if comparison.verdict not in ("slower", "faster"):
            return comparison.verdict
        size = change(comparison.ratio[0]) if self.has_ratio else self.difference
        return f"{size.lstrip(f'+{MINUS}')} {comparison.verdict}"

    @property
    def interval(self) -> str:
        """Of the ratio as changes: "+2.9 to +3.3 %"; of the difference where there is no ratio."""
        _, low, high = self.comparison.ratio
        if not self.has_ratio:
            return span(self.comparison.difference[1:], self.comparison.unit)
        decimals = max(_decimals(low), _decimals(high))
        ends = (_signed((end - 1) * 100, decimals) for end in (low, high))
        return f"{' to '.join(ends)} %"

    @property
    def confidence(self) -> str:
        """ "99.99 %"."""
        return f"{100 * self.comparison.confidence:g} %"

    @property
    def difference(self) -> str:
        """B - A in the unit of the metric, with its sign."""
        value = self.comparison.difference[0]
        return ("+" if value > 0 else "") + quantity(value, self.comparison.unit)

    @property
    def base(self) -> str:
        """What A costs."""
        return quantity(self.comparison.base, self.comparison.unit)

    @property
    def repetitions(self) -> int:
        """How often both were made afresh."""
        return max((len(trial.samples) for trial in self.comparison.trials), default=0)

    @property
    def too_noisy(self) -> str:
        """Why nothing can be said, or ""."""
        return str(self.comparison.noise.get("sentence", ""))

    @property
    def noise(self) -> Mapping[str, Any]:
        """What disturbed it."""
        return self.comparison.noise

    @property
    def method(self) -> str:
        """How they were compared, in words."""
        return self.comparison.method.replace("_", " ")

    @property
    def to_be_sure(self) -> str:
        """ "about 12 s more would settle it", "" where it is settled."""
        left = self.comparison.to_be_sure_s
        if not left or self.comparison.verdict != "inconclusive":
            return ""
        return f"about {seconds(round(left))} more would settle it" if left < 3600 else "an hour more would not do"


def change(ratio: float) -> str:
    """A ratio as a change: 1.031 is "+3.1 %"."""
    return f"{_signed((ratio - 1) * 100, _decimals(ratio))} %"


def _decimals(ratio: float) -> int:
    """For two significant digits of the change, two decimals at most, whole percents from 10 % on."""
    percent = abs(ratio - 1) * 100
    return 0 if percent >= 9.95 else 1 if percent >= 0.995 else 2


def _signed(percent: float, decimals: int) -> str:
    text = f"{percent:+.{decimals}f}"
    return text.removeprefix("+").removeprefix("-") if not float(text) else text.replace("-", MINUS)
