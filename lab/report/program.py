"""One program with its tests, its networks, the verifier's figures and its headline numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from markupsafe import Markup

from lab.model.comparison import Comparison
from lab.report.compared import Compared
from lab.report.drawing import safe_svg
from lab.report.figures import (
    Figure,
    is_searched,
    metric_name,
)
from lab.report.measured import Measured, badness, costs_plot, in_lines
from lab.report.outcome import Group, Test, groups, outcome_of, tally
from lab.report.quantity import count, plain, quantity, span
from lab.report.words import anchor, shown


@dataclass(frozen=True)
class Drawing:
    """A topology, drawn, and how many tests ran on it."""

    name: str
    svg: Markup | None
    mermaid: str
    tests: int


@dataclass(frozen=True)
class Cost:
    """One number of flows in the overview."""

    flows: str
    value: str
    interval: str
    noise: str = ""


@dataclass(frozen=True)
class Cell:
    """One headline number of the overview: the worst of its kind, or the costs by number of flows."""

    measured: Measured
    figure: Figure
    of: int
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True)
class Program:
    """One stem with everything that is known of it."""

    name: str
    tests: tuple[Test, ...]

    @property
    def key(self) -> str:
        """What the page links to."""
        return anchor("p", self.name)

    @cached_property
    def scenarios(self) -> list[Test]:
        """In the order of their files, what failed first kept in place."""
        return [test for test in self.tests if test.latest.result.kind == "scenario"]

    @cached_property
    def benchmarks(self) -> list[Test]:
        """Everything else, comparisons left out."""
        return [test for test in self.tests if test.latest.result.kind != "scenario" and not test.is_comparison]

    @property
    def contests(self) -> list[list[Compared]]:
        """Its comparisons, those of the same two contenders together."""
        by_who = sorted(self.comparisons, key=lambda each: each.who)
        return [list(several) for _, several in groupby(by_who, key=lambda each: each.who)]

    @cached_property
    def comparisons(self) -> list[Compared]:
        """Who was compared with whom, in the order of the results."""
        return [
            Compared(Comparison.from_dict(note), test.latest, place)
            for test in self.tests
            for place, note in enumerate(test.notes("comparison"))
        ]

    @property
    def is_program(self) -> bool:
        """False for benchmarks of the lab itself, which load no program and have no scenario."""
        return bool(self.scenarios) or any(test.notes("program") or test.is_comparison for test in self.tests)

    @property
    def is_example(self) -> bool:
        """A step of the ladder in examples/: it teaches, and nobody measures it."""
        tests = [test for test in self.tests if not test.is_comparison]
        return bool(tests) and all(test.latest.result.nodeid.startswith("examples/") for test in tests)

    @property
    def outcome(self) -> str:
        """The gravest outcome of its tests; a skipped one beside passed ones does not count."""
        outcomes = [test.outcome for test in self.tests]
        return outcome_of(outcomes if set(outcomes) == {"skipped"} else set(outcomes) - {"skipped"})

    @property
    def bad(self) -> list[Test]:
        """What failed."""
        return [test for test in self.tests if test.is_bad]

    @property
    def bad_groups(self) -> list[Group]:
        """The test functions of which a variant failed."""
        return [group for group in self.scenario_groups + self.benchmark_groups if group.is_bad]

    @property
    def verdict(self) -> str:
        """12 passed, 1 failed."""
        return tally(self.scenarios + self.benchmarks) or count(len(self.comparisons), "comparison")

    @property
    def scenario_groups(self) -> list[Group]:
        """Scenarios, variants of one function together, failures first."""
        return groups(self.scenarios)

    @property
    def benchmark_groups(self) -> list[Group]:
        """Benchmarks, variants of one function together, failures first."""
        return groups(self.benchmarks)

    @cached_property
    def measured(self) -> list[Measured]:
        """Every measurement, in the order of the tests."""
        return [
            Measured(measurement, test.latest, place)
            for test in self.tests
            for place, measurement in enumerate(test.latest.result.measurements)
        ]

    @property
    def distributions(self) -> list[Measured]:
        """Measurements that are drawn as a distribution."""
        return [each for each in self.measured if each.is_distribution]

    @property
    def few(self) -> list[tuple[str, list[Measured]]]:
        """Measurements of few trials, by metric, that have no plot of their own."""
        drawn = {each.key for each in (*self.distributions, *self.costs, *self.rates)}
        left = [each for each in self.measured if each.key not in drawn]
        ordered = sorted(left, key=lambda each: (each.measurement.metric, each.measurement.unit))
        grouped = groupby(ordered, key=lambda each: (each.measurement.metric, each.measurement.unit))
        return [(metric_name(metric), list(several)) for (metric, _), several in grouped]

    @cached_property
    def costs(self) -> list[Measured]:
        """Costs at a stated number of flows."""
        return [each for each in self.measured if each.is_cost]

    @property
    def rates(self) -> list[Measured]:
        """Rates that were searched for."""
        return [each for each in self.measured if is_searched(each.measurement)]

    @property
    def cost_plots(self) -> list[tuple[Markup, list[Measured]]]:
        """One plot for each unit of cost (there is seldom a second)."""
        by_unit = groupby(
            sorted(self.costs, key=lambda each: each.measurement.unit), lambda each: each.measurement.unit
        )
        return [(costs_plot(several, unit), several) for unit, group in by_unit for several in [in_lines(list(group))]]

    @property
    def drawings(self) -> list[Drawing]:
        """The different networks of its tests, the most used first."""
        seen: dict[str, tuple[Mapping[str, Any], int]] = {}
        for test in self.tests:
            for note in test.notes("topology"):
                drawn = shown(note.get("svg") or note.get("mermaid") or note.get("name", ""))
                seen[drawn] = (note, seen.get(drawn, (note, 0))[1] + 1)
        return sorted((_drawing(note, tests) for note, tests in seen.values()), key=lambda drawing: -drawing.tests)

    @property
    def loaded(self) -> list[dict[str, Any]]:
        """The verifier's figures of each program that was loaded; of equal ones the quickest load."""
        best: dict[str, dict[str, Any]] = {}
        for test in self.tests:
            for note in test.notes("program"):
                entry = dict(note)
                same = shown([entry.get(name) for name in ("name", "section", "instructions", "verified_instructions")])
                held = best.setdefault(same, {**entry, "loads": []})
                if isinstance(entry.get("load_ms"), int | float):
                    held["loads"].append(float(entry["load_ms"]))
        return list(best.values())

    def cells(self, metrics: Sequence[str]) -> list[Cell]:
        """Its headline numbers of these metrics, those that were measured."""
        return [cell for metric in metrics if (cell := self._cell(metric))]

    def _cell(self, metric: str) -> Cell | None:
        several = [each for each in self.measured if each.measurement.metric == metric]
        if not several:
            return None
        worst = max(several, key=badness)
        costs = sorted((each for each in several if each.flows is not None), key=lambda each: each.flows or 0)
        if metric == "cost" and costs:
            dearest: dict[float | None, Measured] = {each.flows: each for each in sorted(costs, key=badness)}
            return Cell(
                worst,
                worst.telling,
                len(several),
                tuple(_cost(dearest[flows]) for flows in sorted(dearest, key=lambda flows: flows or 0)),
            )
        return Cell(worst, worst.telling, len(several))


def _drawing(note: Mapping[str, Any], tests: int) -> Drawing:
    svg = note.get("svg")
    return Drawing(
        name=shown(note.get("name", "")),
        svg=safe_svg(svg) if isinstance(svg, str) else None,
        mermaid=shown(note.get("mermaid", "")),
        tests=tests,
    )


def _cost(measured: Measured) -> Cost:
    measurement = measured.measurement
    per_packet = "ns" if measurement.unit == "ns/packet" else measurement.unit
    head = measurement.summary[measurement.headline]
    interval = span(measurement.interval, per_packet).rpartition(" ")[0]
    return Cost(plain(measured.flows or 0), quantity(head, per_packet), interval, measurement.too_noisy)
