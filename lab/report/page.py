"""What stands on the page, put in order: every template only prints what is prepared here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import groupby

from lab.model.comparison import VERDICTS
from lab.model.run import Environment
from lab.report.calibrated import Calibrated
from lab.report.compared import Compared
from lab.report.figures import (
    metric_name,
)
from lab.report.measured import Measured
from lab.report.outcome import Group, Test, tally
from lab.report.program import Program
from lab.report.quantity import count, plain, quantity
from lab.report.read import Broken, Header, Latest, Stored, is_comparison
from lab.report.trend import Trend, trends
from lab.report.words import shown

EVIDENCE_CHARACTERS = 400_000
"""Characters of failures and evidence that one page carries at most."""

FEWEST_POINTS = 3
"""Runs from which on a figure has a history worth a chart."""

HEADLINES = ("added_latency", "rate", "goodput", "cost", "overhead")


@dataclass(frozen=True)
class Difference:
    """A fact in which the environments of the shown runs are not alike."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    stored: Stored
    programs: tuple[Program, ...]
    examples: tuple[Program, ...]
    others: tuple[Program, ...]
    calibration: Calibrated | None = None

    @cached_property
    def everything(self) -> tuple[Program, ...]:
        """Programs first, then examples, then the lab's own benchmarks."""
        return self.programs + self.examples + self.others

    @cached_property
    def newest(self) -> Header | None:
        """The run that the page is headed with: the newest with tests, or else with comparisons."""
        tested = {test.latest.header.id for test in self.scenarios + self.benchmarks}
        shown = self.stored.shown_runs
        return next((header for header in shown if header.id in tested), next(iter(shown), None))

    @cached_property
    def scenarios(self) -> list[Test]:
        """Of all programs."""
        return [test for program in self.everything for test in program.scenarios]

    @cached_property
    def benchmarks(self) -> list[Test]:
        """Of all programs and of the lab."""
        return [test for program in self.everything for test in program.benchmarks]

    @cached_property
    def bad(self) -> list[Test]:
        """Everything that failed."""
        return [test for program in self.everything for test in program.bad]

    @cached_property
    def bad_groups(self) -> list[Group]:
        """The test functions of which a variant failed."""
        return [group for program in self.everything for group in program.bad_groups]

    @cached_property
    def measured(self) -> list[Measured]:
        """Every measurement on the page."""
        return [each for program in self.everything for each in program.measured]

    @cached_property
    def broken_limits(self) -> list[Measured]:
        """Promises that were not kept."""
        return [each for each in self.measured if each.telling.kept is False]

    @cached_property
    def noisy(self) -> list[Measured]:
        """Figures that must not decide anything, for what disturbed them."""
        return [each for each in self.measured if each.measurement.too_noisy]

    @cached_property
    def compared(self) -> list[tuple[Program, list[Compared]]]:
        """By program: who was compared with whom."""
        return [(program, program.comparisons) for program in self.everything if program.comparisons]

    @cached_property
    def slower(self) -> list[Compared]:
        """What lost its comparison."""
        return [each for _, several in self.compared for each in several if each.comparison.verdict == "slower"]

    @cached_property
    def trends(self) -> dict[str, list[Trend]]:
        """By program: the figures that enough runs hold to be drawn."""
        by_program: dict[str, list[Trend]] = {}
        for trend in trends(self.stored.points):
            if len(trend.points) >= FEWEST_POINTS:
                by_program.setdefault(trend.program, []).append(trend)
        return by_program

    @cached_property
    def changed(self) -> list[Trend]:
        """Figures that are worse than they were before their last change."""
        every = [trend for several in self.trends.values() for trend in several]
        return [trend for trend in every if trend.changes and trend.changes[-1].is_worse]

    @property
    def outcome(self) -> str:
        """passed, failed, or skipped where nothing is known."""
        if self.bad or self.broken_limits:
            return "failed"
        return "passed" if any(test.outcome == "passed" for test in self.scenarios + self.benchmarks) else "skipped"

    @property
    def verdict(self) -> str:
        """The one line that a reader in a hurry takes away."""
        return verdict_line(self)

    @property
    def rest_of_verdict(self) -> str:
        """What the verdict line leaves out."""
        parts = [f"Scenarios: {tally(self.scenarios)}."] if self.scenarios else []
        parts += [f"Benchmarks: {tally(self.benchmarks)}."] if self.benchmarks else []
        promised = [each for each in self.measured if each.telling.limit]
        if promised:
            kept = sum(each.telling.kept is True for each in promised)
            undecided = sum(each.telling.kept is None for each in promised)
            more = f", {undecided} undecided" if undecided else ""
            parts.append(f"Limits kept: {kept} of {len(promised)}{more}.")
        verdicts = Counter(each.comparison.verdict for _, several in self.compared for each in several)
        if verdicts:
            told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in VERDICTS if verdicts[verdict])
            parts.append(f"Comparisons: {told}.")
        return " ".join(parts)

    @property
    def columns(self) -> list[tuple[str, list[str]]]:
        """Of the overview: a name, and the metrics below it. What a program costs a packet or a call shares one."""
        found: list[tuple[str, list[str]]] = []
        for metric, name in self.metrics:
            if metric == "overhead" and found and found[-1][1] == ["cost"]:
                found[-1] = ("Cost, or overhead", ["cost", "overhead"])
            else:
                found.append((name, [metric]))
        return found

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """The headline metrics that were measured, with their names."""
        there = {each.measurement.metric for each in self.measured}
        return [(metric, metric_name(metric)) for metric in HEADLINES if metric in there]

    @property
    def methods(self) -> list[tuple[str, str]]:
        """How the headline numbers were measured, each method once."""
        found = (
            (name, each.method)
            for metric, name in self.metrics
            for each in self.measured
            if each.measurement.metric == metric
        )
        return list(dict.fromkeys(found))

    @property
    def older(self) -> list[Latest]:
        """Shown results that the newest run does not hold."""
        newest = self.newest
        return [
            latest
            for latest in self.stored.results
            if newest and latest.header.id != newest.id and not is_comparison(latest.result)
        ]

    @property
    def differences(self) -> list[Difference]:
        """Where the environments of the shown runs are not alike; what a comparison says is of its own run."""
        used = {latest.header.id for latest in self.stored.results if not is_comparison(latest.result)}
        return differences([header.environment for header in self.stored.shown_runs if header.id in used])

    @property
    def forbidding(self) -> list[Difference]:
        """Differences that forbid to hold numbers against each other: all but that of the commit."""
        return [difference for difference in self.differences if difference.name not in ("commit", "dirty")]


def page_of(stored: Stored, calibration: Calibrated | Broken | None = None) -> Page:
    """Sorts stored results into programs and tests, in the order of their names: shuffled runs look alike."""
    if isinstance(calibration, Broken):
        stored, calibration = replace(stored, broken=(*stored.broken, calibration)), None
    texts = [latest.result.reason for latest in stored.results if latest.result.reason]
    texts += [shown(note) for latest in stored.results for note in latest.result.notes.get("evidence", [])]
    longest = max(2_000, min(40_000, EVIDENCE_CHARACTERS // max(1, len(texts))))
    ordered = sorted(stored.results, key=lambda latest: (latest.result.program, latest.result.nodeid))
    programs = tuple(
        Program(name, tuple(Test(latest, longest) for latest in several))
        for name, several in groupby(ordered, key=lambda latest: latest.result.program)
    )
    return Page(
        stored,
        tuple(program for program in programs if program.is_program and not program.is_example),
        tuple(program for program in programs if program.is_example),
        tuple(program for program in programs if not program.is_program and not program.is_example),
        calibration,
    )


def verdict_line(page: Page) -> str:
    """All 48 scenarios of 4 programs passed; or what did not."""
    bad_scenarios = sum(test.is_bad for test in page.scenarios)
    bad_benchmarks = len(page.bad) - bad_scenarios
    wrong = [f"{bad_scenarios} of {count(len(page.scenarios), 'scenario')} failed"] if bad_scenarios else []
    wrong += [f"{bad_benchmarks} of {count(len(page.benchmarks), 'benchmark')} failed"] if bad_benchmarks else []
    wrong += [f"{count(len(page.broken_limits), 'limit')} broken"] if page.broken_limits else []
    if wrong:
        return ", ".join(wrong)
    if not page.scenarios:
        return _without_scenarios(page)
    passed = sum(test.outcome == "passed" for test in page.scenarios)
    of = f"{count(len(page.scenarios), 'scenario')} of {count(len(page.programs), 'program')}"
    of += f" and {count(len(page.examples), 'example')}" if page.examples else ""
    return f"All {of} passed" if passed == len(page.scenarios) else f"{plain(passed)} of {of} passed, none failed"


def _without_scenarios(page: Page) -> str:
    if page.benchmarks:
        return f"{count(len(page.benchmarks), 'benchmark')} and no scenario"
    compared = sum(len(several) for _, several in page.compared)
    return count(compared, "comparison") if compared else "No results yet"


def differences(environments: Sequence[Environment]) -> list[Difference]:
    """The facts in which environments are not alike."""
    flat = [_flat(environment) for environment in environments]
    names = dict.fromkeys(name for facts in flat for name in facts)
    found = [(name, tuple(dict.fromkeys(facts.get(name, "absent") for facts in flat))) for name in names]
    return [Difference(name, values) for name, values in found if len(values) > 1]


def environment_facts(environment: Environment) -> list[tuple[str, str]]:
    """Every fact of an environment by its name."""
    return list(_flat(environment).items())


def _flat(environment: Environment) -> dict[str, str]:
    plain_facts = {field.name: getattr(environment, field.name) for field in fields(environment)}
    tools, settings = plain_facts.pop("tools"), plain_facts.pop("settings")
    plain_facts["memory"] = quantity(plain_facts.pop("memory_bytes"), "bytes")
    plain_facts["commit"] = plain_facts["commit"][:12] or "unknown"
    plain_facts["dirty"] = "yes" if plain_facts["dirty"] else "no"
    return {name: str(value) for name, value in {**plain_facts, **tools, **settings}.items()}
