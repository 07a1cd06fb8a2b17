"""Twins: each call is counted where it happens, with its map, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lab.bpf import instructions as code
from lab.bpf.loader import Loader
from lab.bpf.twin import Twin
from lab.errors import LoadError
from lab.kernel.bpf import map_facts, prog_test_run

SOURCE = Path(__file__).parents[1] / "bpf" / "pay.bpf.c"
SHORT, LONG = bytes(60), bytes(200)


def counted(twin: Twin, frame: bytes = SHORT) -> tuple[int, dict[tuple[str, int], tuple[int, int]]]:
    """The verdict, and times and empty by callee and map type of the calls that happened."""
    twin.reset()
    verdict = prog_test_run(twin.program.fd, frame).retval
    times: Counter[tuple[str, int]] = Counter()
    empty: Counter[tuple[str, int]] = Counter()
    for call in twin.calls():
        kind = map_facts(call.map_fd)[0] if call.map_fd >= 0 else 0
        times[call.callee, kind] += call.times
        empty[call.callee, kind] += call.empty
    return verdict, {each: (many, empty[each]) for each, many in times.items() if many}


HASH, PROG_ARRAY, PERCPU_ARRAY, LRU, ARRAY_OF_MAPS = 1, 3, 6, 9, 12


@pytest.mark.parametrize("lookups", [0, 1, 7])
def test_a_loop_and_a_function_are_counted_as_often_as_they_run(bpf: Loader, lookups: int) -> None:
    """So many lookups in a hash as the knob says, some of them found; a function that is called twice."""
    program = bpf.load(SOURCE, program="pay", lookups=lookups)
    program.maps["known"].update({0: 5, 1: 6, 2: 7})
    with Twin(program) as twin:
        verdict, calls = counted(twin)
    assert verdict == 2
    found = {("map_lookup_elem", HASH): (lookups, max(0, lookups - 3))} if lookups else {}
    assert calls == {
        **found,
        ("call", 0): (2, 0),
        ("ktime_get_ns", 0): (2, 0),
        ("tail_call", PROG_ARRAY): (1, 0),
    }


def test_calls_behind_a_tail_call_are_counted(bpf: Loader) -> None:
    """The twin jumps to twins; inner maps are told apart from their outer map; the original still jumps to its own."""
    whole = bpf.load(SOURCE)
    program = whole.programs["pay"]
    whole.maps["outer"][0] = whole.maps["outer"].new_inner()
    whole.maps["jumps"][0] = whole.programs["behind"]
    before = list(whole.maps["jumps"].items())
    with Twin(program) as twin:
        verdict, calls = counted(twin)
        assert list(whole.maps["jumps"].items()) == before
    assert verdict == program.run(SHORT).number == 3
    assert calls["tail_call", PROG_ARRAY] == (1, 0)
    assert calls["map_lookup_elem", LRU] == (1, 1)
    assert calls["map_update_elem", LRU] == (1, 0)
    assert calls["map_lookup_elem", PERCPU_ARRAY] == (1, 0)
    assert calls["map_lookup_elem", ARRAY_OF_MAPS] == (1, 0)
    assert calls["map_lookup_elem", HASH] == (4, 4)  # three in `known`, which is empty, and one in the inner map
    assert calls["csum_diff", 0] == (1, 0)


@pytest.mark.parametrize("known", [1, 40])
def test_different_entries_are_told_from_the_same_one(bpf: Loader, known: int) -> None:
    """A lookup that finds 40 entries a run, five times, found 40; one whose map holds one found that one."""
    program = bpf.load(SOURCE, program="pay", lookups=40)
    program.maps["known"].update(dict.fromkeys(range(known), 1))
    with Twin(program) as twin:
        for _ in range(5):
            prog_test_run(twin.program.fd, SHORT)
        (lookup,) = (call for call in twin.calls() if call.callee == "map_lookup_elem")
    assert (lookup.times, lookup.empty, lookup.entries) == (200, 5 * (40 - known), known)


def test_a_callback_is_counted_inside(bpf: Loader) -> None:
    """bpf_loop() once, and what its callback calls five times."""
    with Twin(bpf.load(SOURCE, program="call_back")) as twin:
        _, calls = counted(twin)
    assert calls == {("loop", 0): (1, 0), ("get_prandom_u32", 0): (5, 0)}


def test_only_the_path_that_is_taken_is_counted(bpf: Loader) -> None:
    """A long frame takes the time, a short one the jiffies; the counters start anew."""
    with Twin(bpf.load(SOURCE, program="either")) as twin:
        assert counted(twin, LONG)[1] == {("ktime_get_ns", 0): (1, 0)}
        assert counted(twin, SHORT)[1] == {("jiffies64", 0): (1, 0)}
        assert len(twin.calls()) == 2


def test_a_twin_leaves_the_maps_as_the_program_would(bpf: Loader) -> None:
    """It is the same code on the same maps: globals and entries are written."""
    whole = bpf.load(SOURCE)
    with Twin(whole.programs["behind"]) as twin:
        prog_test_run(twin.program.fd, SHORT)
    assert whole.maps["recent"][0] == 1
    assert whole.globals["sum"] > 0


def test_a_twin_that_the_kernel_refuses_is_an_error(bpf: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The house's error, in the kernel's words; nothing stays open."""
    program = bpf.load(SOURCE, program="either")
    monkeypatch.setattr(code, "load_address", lambda register, kind, map_fd, offset=0: [code.Instruction(0xFF)] * 2)
    with pytest.raises(LoadError, match="count the calls of either: the kernel refused its twin"):
        Twin(program)
