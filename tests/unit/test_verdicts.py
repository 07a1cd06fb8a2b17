"""The table of a series of comparisons, in the words of a terminal and of a build server's page."""

from __future__ import annotations

from lab.contest.series import Outcome
from lab.contest.tree import Change
from lab.contest.verdicts import change, markdown, rows, sentence
from lab.errors import BuildError
from tests.unit import sample_numbers as numbers

WORDS = ("@main", "@")
CHANGED = Change("filter", "changed", ("bpf/filter.bpf.c",))


def slower(**fields):
    given = {"verdict": "slower", "ratio": (1.06, 1.04, 1.08), "base": 100.0, "subject": "a|b, 1 flow", **fields}
    return numbers.comparison(**given)


def test_only_what_is_beyond_the_limit_for_certain_is_bold() -> None:
    """6 %, at least 4 %: slower for certain than 3 %, but not than 5 %; a bar in a name does not end its cell."""
    outcomes = [Outcome(CHANGED, (slower(),))]
    row = "| filter | a\\|b, 1 flow | 100.0 ns | +6.0 % (+4.0 to +8.0) |"
    assert f"{row} **slower** |" in markdown(outcomes, WORDS, 0.03)
    assert f"{row} slower |" in markdown(outcomes, WORDS, 0.05)
    assert f"{row} slower |" in markdown(outcomes, WORDS, None)


def test_the_sentence_counts_programs() -> None:
    """Not their workloads; a program that is the same was compared because it was asked for."""
    same = Outcome(Change("other", "same"), (slower(ratio=(1.0, 0.99, 1.01), verdict="no difference"),))
    outcomes = [Outcome(CHANGED, (slower(), slower())), same]
    assert sentence(outcomes, WORDS, 0.03) == (
        "1 program differs between @main and @, 1 more was compared; 1 is slower by more than 3 % for certain"
    )
    assert sentence([same], WORDS, 0.03).endswith("none is slower by more than 3 % for certain")
    assert sentence([], WORDS, 0.03) == "no program differs between @main and @"


def test_an_error_is_a_row_with_its_words_below() -> None:
    """After what had been compared by then."""
    error = BuildError("compile it: clang refused", kernel="expected ';'")
    outcomes = [Outcome(CHANGED, (slower(),), "could not be compared: compile it: clang refused", error)]
    assert [row[-1] for row in rows(outcomes)] == ["slower", "could not be compared: compile it: clang refused"]
    assert sentence(outcomes, WORDS, None).endswith("; 1 could not be compared")
    assert markdown(outcomes, WORDS, None).endswith("```\ncompile it: clang refused\n  kernel: \"expected ';'\"\n```\n")


def test_a_change_of_what_costs_nothing_has_no_percents() -> None:
    """Its difference, in its unit; large changes have no decimals."""
    assert change(slower(base=0.0, difference=(1.0, 0.5, 1.5))) == "+1.00 ns/packet (+0.50 to +1.50)"
    assert change(slower(ratio=(6.0, 5.5, 6.5))) == "+500 % (+450 to +550)"
