"""Reading stored runs: the newest result counts, and nothing broken stops a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.report.read import read_runs
from tests.unit import sample_run as sample


def test_newest_result_of_each_test_counts(tmp_path: Path) -> None:
    """Of a test stored twice the newer result is shown; one that only the older run has is kept, with its run."""
    older = sample.run_of(
        sample.scenario(outcome="failed"),
        sample.scenario("xdp_balance", "elsewhere"),
        minutes=0,
        command=("pytest", "a"),
    )
    newer = sample.run_of(sample.scenario(outcome="passed"), minutes=5, command=("pytest", "b"))
    for run in (newer, older):
        sample.store(run, tmp_path)

    stored = read_runs(tmp_path)

    found = {latest.result.nodeid: (latest.result.outcome, latest.header.id) for latest in stored.results}
    assert found == {
        "scenarios/test_xdp_filter.py::test_passes": ("passed", newer.id),
        "scenarios/test_xdp_balance.py::test_elsewhere": ("passed", older.id),
    }
    assert [header.id for header in stored.runs] == [newer.id, older.id]


def test_age_is_when_it_started_not_how_the_file_is_called(tmp_path: Path) -> None:
    """A file name that sorts last makes an old run no newer, and offsets from UTC are honoured."""
    old = sample.run_of(sample.scenario(outcome="failed"), started="2026-11-21T12:00:00+09:00", id="zzz")
    new = sample.run_of(sample.scenario(outcome="passed"), started="2026-11-21T04:00:00+00:00", id="aaa")
    for run in (old, new):
        sample.store(run, tmp_path)

    assert [latest.result.outcome for latest in read_runs(tmp_path).results] == ["passed"]


@pytest.mark.parametrize(
    ("command", "gone"),
    [
        (("pytest", "scenarios"), True),
        (("pytest", "scenarios", "-n", "2", "--lab-runs", "x"), True),
        (("pytest", "scenarios", "-k", "passes"), False),
        (("pytest", "scenarios/test_xdp_filter.py::test_passes"), False),
        (("pytest", "-x", "scenarios"), False),
        (("pytest", "--lf"), False),
        (("pytest", "--maxfail=1"), False),
    ],
)
def test_results_of_tests_that_are_gone_are_set_aside(tmp_path: Path, command: tuple[str, ...], gone: bool) -> None:
    """A test that a newer run of its whole file lacks counts no more; a run of a part proves nothing."""
    kept, renamed = sample.scenario(name="passes"), sample.scenario(name="old_name", outcome="failed")
    sample.store(sample.run_of(kept, renamed, minutes=0), tmp_path)
    sample.store(sample.run_of(kept, minutes=5, command=command), tmp_path)

    stored = read_runs(tmp_path)

    assert [latest.result.nodeid for latest in stored.aside] == ([renamed.nodeid] if gone else [])
    assert len(stored.results) == (1 if gone else 2)


def _changed(**changes: Any) -> str:
    return json.dumps({**sample.run_of(sample.scenario()).as_dict(), **changes})


def _with_result(**changes: Any) -> str:
    whole = sample.run_of(sample.scenario()).as_dict()
    whole["results"] = [{**dict(whole["results"][0]), **changes}]
    return json.dumps(whole)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param('{"schema": 1, "resul', id="half-written"),
        pytest.param("[]", id="list"),
        pytest.param("null", id="null"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param("\x00\xff", id="binary"),
        pytest.param(_changed(schema=99), id="schema of the future"),
        pytest.param(_changed(schema=None), id="no schema"),
        pytest.param(_changed(started="yesterday"), id="no date"),
        pytest.param(_changed(duration_s="long"), id="no number"),
        pytest.param(_changed(results=[1, 2]), id="results are no results"),
        pytest.param(_changed(environment={}), id="no environment"),
        pytest.param(_with_result(title=None), id="title is null"),
        pytest.param(_with_result(notes={"program": "x"}), id="notes are no list"),
        pytest.param(_with_result(measurements=[{}]), id="empty measurement"),
        pytest.param(_with_result(duration_s=float("nan")), id="not a number"),
    ],
)
def test_a_broken_file_is_named_and_the_others_are_read(tmp_path: Path, text: str) -> None:
    """Whatever stands in a file, the report goes on with the next and says which one it left out and why."""
    good = sample.run_of(sample.scenario(), minutes=1)
    sample.store(good, tmp_path)
    (tmp_path / "20261121T000000-broken.json").write_bytes(text.encode("latin-1", "replace"))

    stored = read_runs(tmp_path)

    assert [broken.name for broken in stored.broken] == ["20261121T000000-broken.json"]
    assert all(broken.why for broken in stored.broken)
    assert [header.id for header in stored.runs] == [good.id]


def test_files_that_a_writer_has_not_finished_are_not_read(tmp_path: Path) -> None:
    """The hidden temporary file of a run that is being written is no run, broken or not."""
    (tmp_path / ".20261121T000000-a.json.12.tmp").write_text("{")

    assert read_runs(tmp_path) == replace(read_runs(tmp_path / "absent"))
