"""What stands on the page, put in order: every template only prints what is prepared here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from typing import Any

from markupsafe import Markup

from lab.model.measurement import Measurement
from lab.model.run import Environment
from lab.report.curves import arms
from lab.report.drawing import safe_svg
from lab.report.figures import (
    Figure,
    headline_figure,
    limit_text,
    metric_name,
    statistic_name,
    summary_value,
    telling_figure,
)
from lab.report.plots import Point, Row, cost_plot, dot_plot
from lab.report.quantity import count, plain, quantity, span
from lab.report.read import Header, Latest, Stored, file_of

GRAVITY = {"passed": 0, "skipped": 1, "failed": 3, "error": 4}
DISTRIBUTION_FROM = 100
"""Samples in an arm from which a distribution says more than dots."""

EVIDENCE_CHARACTERS = 400_000
"""Characters of failures and evidence that one page carries at most."""

HEADLINES = ("added_latency", "rate", "goodput", "cost")
FLOWS_IN_SUBJECT = re.compile(r",?\s*[\d,]+ flows?\b")


def anchor(prefix: str, text: str) -> str:
    """A short name to link to, the same for the same text in every report."""
    return f"{prefix}-{hashlib.sha1(text.encode(errors='replace'), usedforsecurity=False).hexdigest()[:10]}"


def outcome_of(outcomes: Iterable[str]) -> str:
    """The gravest outcome; a word that nobody knows is as grave as a failure."""
    return max(outcomes, key=lambda outcome: GRAVITY.get(outcome, 3), default="passed")


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
    def method(self) -> str:
        """How it was measured, in words."""
        return self.measurement.method.replace("_", " ")

    @property
    def is_distribution(self) -> bool:
        """True when there are samples enough to draw how they spread."""
        return max(map(len, arms(self.measurement).values()), default=0) >= DISTRIBUTION_FROM

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


@dataclass(frozen=True)
class Test:
    """One result as it is shown."""

    latest: Latest
    longest_text: int

    @property
    def key(self) -> str:
        """What the page links to."""
        return anchor("t", self.latest.result.nodeid)

    @property
    def outcome(self) -> str:
        """passed, skipped, failed or error."""
        return self.latest.result.outcome if self.latest.result.outcome in GRAVITY else "error"

    @property
    def is_bad(self) -> bool:
        """True for what a reader must look at."""
        return GRAVITY[self.outcome] >= GRAVITY["failed"]

    @property
    def variant(self) -> str:
        """What stands in brackets in the node id of a parametrised test."""
        return self.latest.result.nodeid.partition("[")[2].removesuffix("]")

    @property
    def label(self) -> str:
        """Title and variant."""
        title = self.latest.result.title or self.latest.result.nodeid
        return f"{title} [{self.variant}]" if self.variant else title

    @property
    def gist(self) -> str:
        """The one line of a failure that says most."""
        lines = [line.strip() for line in self.latest.result.reason.splitlines() if line.strip()]
        told = [line[2:].strip() for line in lines if line.startswith("E ")]
        return (told or lines or [""])[0][:300]

    @property
    def reason(self) -> Markup:
        """The whole failure, with pytest's lines of the error itself set off."""
        return _marked(self.cut(self.latest.result.reason))

    def cut(self, text: object) -> str:
        """Text that fits on the page: the middle of what is too long is left out, and the page says so."""
        whole = text if isinstance(text, str) else repr(text)
        if len(whole) <= self.longest_text:
            return whole
        half = self.longest_text // 2
        left_out = plain(len(whole) - 2 * half)
        run = self.latest.header.id
        return f"{whole[:half]}\n… {left_out} characters left out; all of it is in run {run} …\n{whole[-half:]}"

    def notes(self, kind: str) -> Sequence[Mapping[str, Any]]:
        """What was noted of one kind."""
        return self.latest.result.notes.get(kind, [])

    @property
    def other_notes(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Notes of kinds that have no table of their own here."""
        shown = {"topology", "program", "attachment", "map_assertion", "delivery", "verdict", "evidence"}
        return {kind: notes for kind, notes in self.latest.result.notes.items() if kind not in shown and notes}

    @property
    def topologies(self) -> list[str]:
        """The names of the networks that it ran on."""
        return list(dict.fromkeys(shown(note.get("name", "")) for note in self.notes("topology")))


@dataclass(frozen=True)
class Group:
    """All variants of one test function; most have one."""

    tests: tuple[Test, ...]

    @property
    def title(self) -> str:
        """The sentence of the test."""
        return self.tests[0].latest.result.title or self.tests[0].latest.result.nodeid

    @property
    def outcome(self) -> str:
        """The gravest outcome of its variants."""
        return outcome_of(test.outcome for test in self.tests)

    @property
    def is_bad(self) -> bool:
        """True when a variant failed."""
        return any(test.is_bad for test in self.tests)

    @property
    def duration_s(self) -> float:
        """Of all variants together."""
        return sum(test.latest.result.duration_s for test in self.tests)


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
        """Everything else."""
        return [test for test in self.tests if test.latest.result.kind != "scenario"]

    @property
    def is_program(self) -> bool:
        """False for benchmarks of the lab itself, which load no program and have no scenario."""
        return bool(self.scenarios) or any(test.notes("program") for test in self.tests)

    @property
    def outcome(self) -> str:
        """The gravest outcome of its tests."""
        return outcome_of(test.outcome for test in self.tests)

    @property
    def bad(self) -> list[Test]:
        """What failed."""
        return [test for test in self.tests if test.is_bad]

    @property
    def verdict(self) -> str:
        """12 passed, 1 failed."""
        return tally(self.tests)

    @property
    def scenario_groups(self) -> list[Group]:
        """Scenarios, variants of one function together, failures first."""
        return _groups(self.scenarios)

    @property
    def benchmark_groups(self) -> list[Group]:
        """Benchmarks, variants of one function together, failures first."""
        return _groups(self.benchmarks)

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
        """Measurements of few trials, by metric, costs by flows left out."""
        costs = {each.key for each in self.costs}
        left = [each for each in self.measured if not each.is_distribution and each.key not in costs]
        ordered = sorted(left, key=lambda each: (each.measurement.metric, each.measurement.unit))
        grouped = groupby(ordered, key=lambda each: (each.measurement.metric, each.measurement.unit))
        return [(metric_name(metric), list(several)) for (metric, _), several in grouped]

    @cached_property
    def costs(self) -> list[Measured]:
        """Costs at a stated number of flows."""
        return [each for each in self.measured if each.measurement.metric == "cost" and each.flows is not None]

    @property
    def cost_plots(self) -> list[tuple[Markup, list[Measured]]]:
        """One plot for each unit of cost (there is seldom a second)."""
        by_unit = groupby(
            sorted(self.costs, key=lambda each: each.measurement.unit), lambda each: each.measurement.unit
        )
        return [(_cost_plot(several, unit), several) for unit, group in by_unit for several in [list(group)]]

    @property
    def drawings(self) -> list[Drawing]:
        """The different networks of its tests."""
        seen: dict[str, tuple[Mapping[str, Any], int]] = {}
        for test in self.tests:
            for note in test.notes("topology"):
                drawn = shown(note.get("svg") or note.get("mermaid") or note.get("name", ""))
                seen[drawn] = (note, seen.get(drawn, (note, 0))[1] + 1)
        return [_drawing(note, tests) for note, tests in seen.values()]

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

    def cells(self, metrics: Sequence[str]) -> list[Cell | None]:
        """Its headline numbers, None where nothing of that metric was measured."""
        return [self._cell(metric) for metric in metrics]

    def _cell(self, metric: str) -> Cell | None:
        several = [each for each in self.measured if each.measurement.metric == metric]
        if not several:
            return None
        worst = max(several, key=_badness)
        costs = sorted((each for each in several if each.flows is not None), key=lambda each: each.flows or 0)
        if metric == "cost" and costs:
            dearest: dict[float | None, Measured] = {each.flows: each for each in sorted(costs, key=_badness)}
            return Cell(
                worst,
                worst.telling,
                len(several),
                tuple(_cost(dearest[flows]) for flows in sorted(dearest, key=lambda flows: flows or 0)),
            )
        return Cell(worst, worst.telling, len(several))


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
    others: tuple[Program, ...]

    @cached_property
    def everything(self) -> tuple[Program, ...]:
        """Programs first, then the lab's own benchmarks."""
        return self.programs + self.others

    @property
    def newest(self) -> Header | None:
        """The run that the page is headed with."""
        return next(iter(self.stored.shown_runs), None)

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
    def measured(self) -> list[Measured]:
        """Every measurement on the page."""
        return [each for program in self.everything for each in program.measured]

    @cached_property
    def broken_limits(self) -> list[Measured]:
        """Promises that were not kept."""
        return [each for each in self.measured if each.telling.kept is False]

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
        promised = [each for each in self.measured if each.telling.kept is not None]
        if promised:
            kept = len(promised) - len(self.broken_limits)
            parts.append(f"Limits kept: {kept} of {len(promised)}.")
        return " ".join(parts)

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """The metrics that the overview has columns for, those measured."""
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
        return [latest for latest in self.stored.results if newest and latest.header.id != newest.id]

    @property
    def differences(self) -> list[Difference]:
        """Where the environments of the shown runs are not alike; compare numbers only with care then."""
        return differences([header.environment for header in self.stored.shown_runs])


def page_of(stored: Stored) -> Page:
    """Sorts stored results into programs, in the order of their names."""
    texts = [latest.result.reason for latest in stored.results if latest.result.reason]
    texts += [shown(note) for latest in stored.results for note in latest.result.notes.get("evidence", [])]
    longest = max(2_000, min(40_000, EVIDENCE_CHARACTERS // max(1, len(texts))))
    ordered = sorted(stored.results, key=lambda latest: (latest.result.program, file_of(latest.result)))
    programs = tuple(
        Program(name, tuple(Test(latest, longest) for latest in several))
        for name, several in groupby(ordered, key=lambda latest: latest.result.program)
    )
    return Page(
        stored,
        tuple(program for program in programs if program.is_program),
        tuple(program for program in programs if not program.is_program),
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
        return f"{count(len(page.benchmarks), 'benchmark')} and no scenario" if page.benchmarks else "No results yet"
    passed = sum(test.outcome == "passed" for test in page.scenarios)
    of = f"{count(len(page.scenarios), 'scenario')} of {count(len(page.programs), 'program')}"
    return f"All {of} passed" if passed == len(page.scenarios) else f"{plain(passed)} of {of} passed, none failed"


def tally(tests: Sequence[Test]) -> str:
    """12 passed, 1 failed."""
    numbers = [(sum(test.outcome == outcome for test in tests), outcome) for outcome in GRAVITY]
    words = {"error": "with an error"}
    return ", ".join(f"{plain(number)} {words.get(outcome, outcome)}" for number, outcome in numbers if number)


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


def shown(value: object) -> str:
    """Any noted value as text: mappings and lists the way a person would write them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(each) for each in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return plain(value) if isinstance(value, int | float) else str(value)


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
    if len(several) <= 1:
        samples = next(iter(several.values()), [])
        return [Row(name, samples, head, measurement.interval, limit, promise=_promise(measured.telling))]
    return [
        Row(
            f"{measurement.subject}, {arm}, median",
            samples,
            sorted(samples)[len(samples) // 2],
            None,
            None,
            arm == "with",
        )
        for arm, samples in several.items()
    ]


def _promise(figure: Figure) -> Markup:
    if not figure.limit:
        return Markup("")
    kept = "kept" if figure.kept else "broken"
    return Markup('<span class="promise {}">{} {}: {}</span>').format(kept, figure.statistic, figure.limit, kept)


def _cost_plot(several: Sequence[Measured], unit: str) -> Markup:
    lines: dict[str, list[Point]] = {}
    for each in several:
        measurement = each.measurement
        samples = [sample for samples in arms(measurement).values() for sample in samples]
        value = measurement.summary[measurement.headline]
        point = Point(each.flows or 1, samples, value, measurement.interval)
        lines.setdefault(line_name(each), []).append(point)
    return cost_plot(lines, unit)


def line_name(measured: Measured) -> str:
    """What a cost is of, but for its number of flows: one line of the plot."""
    return FLOWS_IN_SUBJECT.sub("", measured.measurement.subject).strip(" ,") or measured.measurement.program


def _cost(measured: Measured) -> Cost:
    measurement = measured.measurement
    per_packet = "ns" if measurement.unit == "ns/packet" else measurement.unit
    head = measurement.summary[measurement.headline]
    interval = span(measurement.interval, per_packet).rpartition(" ")[0]
    return Cost(plain(measured.flows or 0), quantity(head, per_packet), interval)


def _groups(tests: Sequence[Test]) -> list[Group]:
    by_function: dict[str, list[Test]] = {}
    for test in tests:
        by_function.setdefault(test.latest.result.nodeid.partition("[")[0], []).append(test)
    return sorted((Group(tuple(several)) for several in by_function.values()), key=lambda group: not group.is_bad)


def _drawing(note: Mapping[str, Any], tests: int) -> Drawing:
    svg = note.get("svg")
    return Drawing(
        name=shown(note.get("name", "")),
        svg=safe_svg(svg) if isinstance(svg, str) else None,
        mermaid=shown(note.get("mermaid", "")),
        tests=tests,
    )


def _badness(measured: Measured) -> tuple[float, float]:
    """Near its limit first; without limits the slowest first."""
    value = measured.measurement.summary[measured.measurement.headline]
    slow = -value if measured.measurement.metric in ("rate", "goodput") else value
    return measured.telling.of_limit, slow


def _marked(text: str) -> Markup:
    lines = (
        Markup("<b>{}</b>").format(line) if line.startswith(("E ", ">")) else Markup("{}").format(line)
        for line in text.splitlines()
    )
    return Markup("\n").join(lines)
