"""Assertions about maps: they wait, they tell the difference, they are noted."""

from __future__ import annotations

import threading

import pytest

from lab.bpf.matcher import MapAssertionError
from lab.errors import LabError
from lab.model.journal import journal

FLOW = {"source": "10.0.0.1", "dest": "10.0.0.2", "sport": 1000, "dport": 80, "protocol": 6}


@pytest.fixture
def maps(bpf):
    return bpf.load("maps").maps


def failure(matcher, *arguments) -> str:
    with pytest.raises(AssertionError) as caught:
        matcher(*arguments)
    assert isinstance(caught.value, LabError)
    return str(caught.value)


def test_what_holds_passes_at_once(maps):
    """equals, has, lacks and holds on a map that is as promised."""
    maps["numbers"].update({1: 10, 2: 20})
    numbers = maps["numbers"].eventually(0)
    numbers.equals({1: 10, 2: 20})
    numbers.has(1, 10)
    numbers.lacks(3)
    numbers.holds(lambda entries: len(entries) == 2, "two entries")


def test_an_assertion_waits_for_what_comes_later(maps):
    """The entry is written while the assertion looks."""
    later = threading.Timer(0.05, maps["numbers"].__setitem__, [1, 10])
    later.start()
    try:
        maps["numbers"].eventually(within_s=10).equals({1: 10})
    finally:
        later.join()


def test_a_difference_names_missing_different_and_unexpected_entries(maps):
    """One line each; structs field by field."""
    maps["flows"].update({tuple(FLOW.values()): (3, 180), ("10.0.0.9", "10.0.0.2", 1, 80, 6): (1, 60)})
    expected = {tuple(FLOW.values()): {"packets": 4, "bytes": 180}, ("10.0.0.8", 0, 1, 80, 6): (1, 60)}
    assert failure(maps["flows"].eventually(0).equals, expected) == (
        "map flows: equals did not hold within 0 s\n"
        "    different   {source: 167772161, dest: 167772162, sport: 1000, dport: 80, protocol: 6}: "
        "packets: expected 4, is 3\n"
        "    missing     {source: 167772168, dest: 0, sport: 1, dport: 80, protocol: 6}: {packets: 1, bytes: 60}\n"
        "    unexpected  {source: 167772169, dest: 167772162, sport: 1, dport: 80, protocol: 6}: "
        "{packets: 1, bytes: 60}"
    )


def test_has_looks_at_one_entry_and_lacks_at_none(maps):
    """The others don't matter to them."""
    maps["numbers"].update({1: 10, 2: 20})
    numbers = maps["numbers"].eventually(0)
    assert "different   1: expected 11, is 10" in failure(numbers.has, 1, 11)
    assert "missing     3: 30" in failure(numbers.has, 3, 30)
    assert "unexpected  2: 20" in failure(numbers.lacks, 2)
    assert "not true: three entries" in failure(numbers.holds, lambda entries: len(entries) == 3, "three entries")


def test_expected_values_are_written_as_the_map_takes_them(maps):
    """Addresses as text, verdicts by name, prefixes, dicts with zeros left out."""
    maps["prefixes"]["10.0.0.0/8"] = 1
    maps["prefixes"].eventually(0).equals({"10.0.0.0/8": 1})
    maps["flows"][FLOW] = {"packets": 1}
    maps["flows"].eventually(0).has(FLOW, {"packets": 1})
    assert "packets: expected 0, is 1" in failure(maps["flows"].eventually(0).has, FLOW, {})


def test_per_cpu_values_are_compared_by_their_total(bpf):
    """A single value is the sum; a list has one value a CPU."""
    program = bpf.load("maps", program="count_verdict")
    program.run(bytes(60), repeat=3)
    verdicts = program.maps["verdicts"].eventually(0)
    verdicts.has("XDP_DROP", {"packets": 3, "bytes": 180})
    verdicts.equals({"XDP_DROP": (3, 180)})
    assert "XDP_DROP: packets: expected 2, is 3" in failure(verdicts.has, "XDP_DROP", (2, 180))
    assert "different" in failure(verdicts.has, "XDP_DROP", [(0, 0)] * len(program.maps["verdicts"]["XDP_DROP"]))


def test_zeros_of_an_array_need_not_be_listed(maps):
    """An array always has all its entries; those that are not zero count."""
    maps["slots"][2] = (1, 60)
    maps["slots"].eventually(0).equals({2: (1, 60)})
    maps["slots"].eventually(0).equals({2: (1, 60), 3: (0, 0)})
    assert "unexpected  2" in failure(maps["slots"].eventually(0).equals, {})


def test_each_assertion_is_noted_for_the_report(maps):
    """What was expected and what was there, whether it held, and how long it took."""
    maps["numbers"][1] = 10
    with journal() as kept:
        maps["numbers"].eventually(0).has(1, 10)
        failure(maps["numbers"].eventually(0).has, 1, 11)
    held, failed = kept.of("map_assertion")
    assert (held["map"], held["matcher"], held["expected"], held["held"]) == ("numbers", "has", "1: 10", True)
    assert (failed["held"], failed["actual"]) == (False, "different   1: expected 11, is 10")
    assert failed["waited_ms"] >= 0


def test_a_long_difference_is_cut(maps):
    """Ten lines, and how many more there are."""
    maps["numbers"].update({n: n for n in range(100)})
    lines = failure(maps["numbers"].eventually(0).equals, {}).splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == "... 90 more"


def test_a_key_that_does_not_fit_fails_at_once(maps):
    """No deadline makes it fit."""
    with pytest.raises(LabError, match="does not fit"):
        maps["numbers"].eventually(60).has(-1, 1)
    assert MapAssertionError.__mro__.index(LabError) < MapAssertionError.__mro__.index(AssertionError)
