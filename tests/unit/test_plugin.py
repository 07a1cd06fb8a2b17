"""The plugin stores whole runs, skips with reasons and says in one sentence what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.bench.session import Session
from lab.bench.store import read_run
from lab.model.run import Run

pytest_plugins = ["pytester"]

SCENARIO = '''
"""A project's scenarios."""
from lab.model.journal import note

def test_passes():
    """A sentence that
    spans two lines.

    And a paragraph.
    """
    note("delivery", {"offered": 3, "received": 3})

def test_fails():
    assert 1 == 2, "the telling text"
'''


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    folder = pytester.mkdir("scenarios")
    (folder / "test_counter.py").write_text(SCENARIO)
    return pytester


def stored_run(project: pytest.Pytester) -> Run:
    files = list((project.path / "reports" / "runs").glob("*.json"))
    assert len(files) == 1, "one session, one run"
    return read_run(files[0])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_session_is_stored_as_one_run(project: pytest.Pytester, workers: str) -> None:
    """Outcome, title, program and notes of each scenario are in the file, under pytest-xdist too."""
    result = project.runpytest_subprocess("-n", workers, "-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1)

    run = stored_run(project)
    by_name = {each.nodeid.partition("::")[2]: each for each in run.results}
    assert by_name["test_passes"].title == "A sentence that spans two lines."
    assert by_name["test_passes"].notes == {"delivery": [{"offered": 3, "received": 3}]}
    assert (by_name["test_fails"].outcome, by_name["test_fails"].program) == ("failed", "counter")
    assert "the telling text" in by_name["test_fails"].reason
    assert run.environment.kernel


def test_tests_of_the_harness_are_not_stored(pytester: pytest.Pytester) -> None:
    """A project with scenarios/ stores those only."""
    pytester.mkdir("scenarios")
    pytester.makepyfile("def test_unit(): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert not (pytester.path / "reports").exists()


def test_no_lab_run_stores_nothing(project: pytest.Pytester) -> None:
    """The option is heeded."""
    project.runpytest_subprocess("--no-lab-run")
    assert not (project.path / "reports").exists()


def test_an_unwritable_folder_does_not_spoil_the_session(project: pytest.Pytester) -> None:
    """The tests' outcome stands, and one sentence says why there is no run."""
    (project.path / "occupied").write_text("a file, no folder")
    result = project.runpytest_subprocess("--lab-runs", "occupied/runs")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*bpflab: store the run in occupied/runs/*", "*mend:*--lab-runs*"])


def test_a_run_is_whole_or_absent(project: pytest.Pytester) -> None:
    """No temporary file stays, and the file is complete JSON of the known schema."""
    project.runpytest_subprocess()
    runs = project.path / "reports" / "runs"
    assert [path.suffix for path in runs.iterdir()] == [".json"]
    assert json.loads(next(runs.iterdir()).read_text())["schema"] == 1


def test_a_skip_keeps_its_reason(pytester: pytest.Pytester) -> None:
    """The report can say why a scenario did not run."""
    (pytester.mkdir("scenarios") / "test_x.py").write_text(
        "import lab, pytest\ndef test_y(): pytest.skip('no kprobes here')"
    )
    pytester.runpytest_subprocess().assert_outcomes(skipped=1)
    assert stored_run(pytester).results[0].reason == "no kprobes here"


NEEDY = """
import pytest

@pytest.mark.needs({name!r})
def test_y(): pass
"""


@pytest.mark.parametrize(("strict", "outcome"), [("", "skipped"), ("1", "failed")])
def test_a_missing_feature_skips_or_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, strict: str, outcome: str
) -> None:
    """A skip is a claim: with LAB_STRICT=1 it is a failure. The reason names the feature."""
    pytester.makeconftest(
        """
        from lab import features

        class Missing:
            there = excused = False
            sentence = "no warp drive here, since Linux 99"

        real = features.state
        features.state = lambda name: Missing if name == "warp" else real(name)
        """
    )
    monkeypatch.setenv("LAB_STRICT", strict)
    pytester.makepyfile(NEEDY.format(name="warp"))
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(**{outcome if outcome != "failed" else "errors": 1})
    result.stdout.fnmatch_lines(["*no warp drive here, since Linux 99*"])


def test_a_feature_with_a_typing_error_is_no_skip(pytester: pytest.Pytester) -> None:
    """An unknown name is an error that lists the known ones: a typing error must not hide a scenario."""
    pytester.makepyfile(NEEDY.format(name="tcxx"))
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there is no feature 'tcxx'*"])


def test_a_module_without_a_topology_is_told_how_to_describe_one(pytester: pytest.Pytester) -> None:
    """`net` needs a TOPOLOGY; the error shows the line to write."""
    pytester.makepyfile("def test_y(net): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*describes no topology*", '*TOPOLOGY = Topology.pair("client", "server")*'])


def test_a_stored_path_is_printed(project: pytest.Pytester) -> None:
    """The last lines say where the run is."""
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines([f"bpflab: run stored in {Path(project.path)}/reports/runs/*.json*"])


EXPECTED = """
import lab
import pytest

@pytest.mark.xfail(reason="the kernel lacks it")
def test_fails_as_expected():
    assert False

@pytest.mark.xfail
def test_passes_unexpectedly():
    pass
"""


def test_an_expected_failure_is_stored_as_one(pytester: pytest.Pytester) -> None:
    """It is neither skipped nor failed, and a test that passes although it should not is told apart as well."""
    (pytester.mkdir("scenarios") / "test_counter.py").write_text(EXPECTED)
    pytester.runpytest_subprocess().assert_outcomes(xfailed=1, xpassed=1)
    outcomes = {each.nodeid.partition("::")[2]: (each.outcome, each.reason) for each in stored_run(pytester).results}
    assert outcomes["test_fails_as_expected"] == ("xfailed", "expected to fail: the kernel lacks it")
    assert outcomes["test_passes_unexpectedly"][0] == "xpassed"


@pytest.mark.parametrize(
    ("phases", "outcome"),
    [
        (["passed", "rerun", "passed", "passed", "passed"], "passed"),
        (["passed", "rerun", "passed", "failed", "passed"], "failed"),
        (["passed", "some plugin's", "passed"], "some plugin's"),
        (["passed", "some plugin's", "error"], "error"),
    ],
)
def test_outcomes_of_other_plugins_are_kept(phases: list[str], outcome: str, tmp_path: Path) -> None:
    """A rerun starts a test anew; a word that nobody knows is as grave as a failure, and stops nothing."""
    session = Session()
    session.describe("a", {"kind": "scenario", "program": "p", "title": "t"}, {})
    for phase in phases:
        session.add("a", "call", phase, "why", 0.1)
    (result,) = read_run(session.finish(tmp_path, tmp_path)).results
    assert result.outcome == outcome
    assert result.duration_s == pytest.approx(0.1 * len(phases))
