"""What came of a series of contests, in one table: for a terminal, and as Markdown for a build server's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lab.contest.series import Outcome
from lab.model.comparison import Comparison

HEADINGS = ("program", "what", "A", "B against A", "verdict")
TO_BE_SURE = "A verdict is given only where the whole {confidence} interval supports it."


def rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """A row a comparison, in the columns of HEADINGS; a program that has none has one that says why."""
    for outcome in outcomes:
        for each in outcome.comparisons:
            yield (outcome.stem, each.subject, _base(each), change(each), each.verdict)
        if outcome.why_not:
            yield (outcome.stem, "", "", "", outcome.why_not)


def change(comparison: Comparison) -> str:
    """ "+3.1 % (+2.9 to +3.3)"; in its unit where A costs nothing that could be measured."""
    if comparison.base > 0:
        value, low, high = (100 * (each - 1) for each in comparison.ratio)
        decimals = 1 if max(abs(low), abs(high)) < 100 else 0
        return f"{value:+.{decimals}f} % ({low:+.{decimals}f} to {high:+.{decimals}f})"
    value, low, high = comparison.difference
    return f"{value:+.2f} {comparison.unit} ({low:+.2f} to {high:+.2f})"


def sentence(outcomes: Sequence[Outcome], words: tuple[str, str], threshold: float | None) -> str:
    """ "3 programs differ between @main and @; 1 is slower by more than 5 % for certain; 1 could not be compared"."""
    a, b = words
    if not outcomes:
        return f"no program differs between {a} and {b}"
    same = sum(each.change.kind == "same" for each in outcomes)
    differ = f"{_counted(len(outcomes) - same, 'program differs', 'programs differ')} between {a} and {b}"
    found = [f"{differ}, {_counted(same, 'more was', 'more were')} compared" if same else differ]
    if threshold is not None:
        slower = sum(bool(each.slower_by(threshold)) for each in outcomes)
        found.append(
            f"{slower or 'none'} {'are' if slower > 1 else 'is'} slower by more than {100 * threshold:g} % for certain"
        )
    if broken := sum(each.error is not None for each in outcomes):
        found.append(f"{broken} could not be compared")
    return "; ".join(found)


def markdown(outcomes: Sequence[Outcome], words: tuple[str, str], threshold: float | None) -> str:
    """The sentence and the table; what is beyond the threshold in bold."""
    lines = [f"### lab compare: {sentence(outcomes, words, threshold)}", ""]
    if outcomes:
        lines += [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
        lines += [_line(_emphasised(outcome, row, threshold)) for outcome in outcomes for row in rows([outcome])]
    confidences = {each.confidence for outcome in outcomes for each in outcome.comparisons}
    lines += ["", TO_BE_SURE.format(confidence=f"{100 * max(confidences):g} %")] if confidences else []
    lines += [f"\n```\n{each.error}\n```" for each in outcomes if each.error]
    return "\n".join(lines) + "\n"


def _emphasised(outcome: Outcome, row: tuple[str, ...], threshold: float | None) -> Sequence[str]:
    beyond = {each.subject for each in outcome.slower_by(threshold)} if threshold is not None else set()
    return [*row[:-1], f"**{row[-1]}**"] if outcome.error or row[1] in beyond else row


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _base(comparison: Comparison) -> str:
    return f"{comparison.base:.1f} {comparison.unit.partition('/')[0]}"


def _counted(number: int, one: str, more: str) -> str:
    return f"{number or 'no'} {one if number == 1 else more}"
