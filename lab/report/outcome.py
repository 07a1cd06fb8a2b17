"""Results as the page shows them: one test, and the variants of one test function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lab.report import failure
from lab.report.quantity import plain
from lab.report.read import Latest, is_comparison
from lab.report.words import anchor, shown

GRAVITY = {"passed": 0, "skipped": 1, "failed": 3, "error": 4}
SHOWN_AS = {"xfailed": "skipped", "xpassed": "passed"}
"""Of tests that are expected to fail; their reason says so."""


def outcome_of(outcomes: Iterable[str]) -> str:
    """The gravest outcome; a word that nobody knows is as grave as a failure."""
    return max(outcomes, key=lambda outcome: GRAVITY.get(outcome, 3), default="passed")


def tally(tests: Sequence[Test]) -> str:
    """12 passed, 1 failed."""
    numbers = [(sum(test.outcome == outcome for test in tests), outcome) for outcome in GRAVITY]
    words = {"error": "with an error"}
    return ", ".join(f"{plain(number)} {words.get(outcome, outcome)}" for number, outcome in numbers if number)


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
        stored = self.latest.result.outcome
        outcome = SHOWN_AS.get(stored, stored)
        return outcome if outcome in GRAVITY else "error"

    @property
    def is_bad(self) -> bool:
        """True for what a reader must look at."""
        return GRAVITY[self.outcome] >= GRAVITY["failed"]

    @property
    def is_comparison(self) -> bool:
        """True for what `lab compare` stored, which is no test."""
        return is_comparison(self.latest.result)

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
        if headline := failure.headline(self.notes("failure")):
            return headline[:300]
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
        shown = {
            "failure",
            "topology",
            "program",
            "attachment",
            "map_assertion",
            "delivery",
            "verdict",
            "evidence",
            "comparison",
        }
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
    def name(self) -> str:
        """The test's function name as words: "only the denied port is dropped"; "" where the title says the same."""
        function = self.tests[0].latest.result.nodeid.partition("[")[0].rpartition("::")[2]
        words = function.removeprefix("test_").replace("_", " ").strip()
        return "" if words in (self.title, self.title.removeprefix("test ")) else words

    @property
    def outcome(self) -> str:
        """The gravest outcome of its variants."""
        return outcome_of(test.outcome for test in self.tests)

    @property
    def is_bad(self) -> bool:
        """True when a variant failed."""
        return any(test.is_bad for test in self.tests)

    @property
    def bad(self) -> list[Test]:
        """The variants that failed."""
        return [test for test in self.tests if test.is_bad]

    @property
    def shown(self) -> Test:
        """The variant that a link to the group leads to: the first that failed, or the first."""
        return (self.bad or self.tests)[0]

    @property
    def label(self) -> str:
        """What failed, in one line: the title, and which or how many of its variants."""
        bad = self.bad
        return bad[0].label if len(bad) == 1 else f"{self.title} ({len(bad)} of {len(self.tests)} variants)"

    @property
    def duration_s(self) -> float:
        """Of all variants together."""
        return sum(test.latest.result.duration_s for test in self.tests)


def _marked(text: str) -> Markup:
    lines = (
        Markup("<b>{}</b>").format(line) if line.startswith(("E ", ">")) else Markup("{}").format(line)
        for line in text.splitlines()
    )
    return Markup("\n").join(lines)


def groups(tests: Sequence[Test]) -> list[Group]:
    """The variants of one function together, what failed first."""
    by_function: dict[str, list[Test]] = {}
    for test in tests:
        by_function.setdefault(test.latest.result.nodeid.partition("[")[0], []).append(test)
    return sorted((Group(tuple(several)) for several in by_function.values()), key=lambda group: not group.is_bad)
