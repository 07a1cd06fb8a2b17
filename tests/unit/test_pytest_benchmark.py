"""Stored runs as pytest-benchmark reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab.bench.pytest_benchmark import as_benchmark, in_seconds, write_benchmark
from lab.model.measurement import Measurement, Trial
from lab.model.run import Run
from tests.unit import sample_run as sample


def run_of(cost_ns: float, *, run_id: str = "a") -> Run:
    """One benchmark with a cost of so much."""
    measured = Measurement(
        metric="cost",
        method="prog_run",
        unit="ns/packet",
        program="xdp_filter",
        subject="1 flow",
        headline="mean",
        summary={"mean": cost_ns, "p50": cost_ns},
        interval=(cost_ns - 1, cost_ns + 1),
        trials=(
            Trial("with", (cost_ns + 29, cost_ns + 30, cost_ns + 31)),
            Trial("without", (30.0, 30.0, 30.0)),
        ),
    )
    result = replace(sample.scenario(), nodeid="benchmarks/bench_xdp_filter.py::bench_cost", measurements=(measured,))
    return replace(sample.run_of(result), id=run_id)


def test_pytest_benchmark_compares_two_stored_runs(tmp_path: Path) -> None:
    """Its own command finds both runs in the folder, and shows both figures in its table."""
    assert write_benchmark(run_of(100.0), tmp_path)
    assert write_benchmark(run_of(103.0, run_id="b"), tmp_path)
    command = [str(Path(sys.executable).parent / "pytest-benchmark"), "--storage", str(tmp_path / "pytest-benchmark")]
    done = subprocess.run(
        [*command, "compare", "--columns=mean,ops,stddev,rounds", "--sort=mean"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    table = done.stdout
    assert "xdp_filter: cost, 1 flow (0001_a)" in table
    assert "100.0000 (1.0)" in table
    assert "103.0000 (1.03)" in table


def test_the_figure_is_the_one_that_the_lab_puts_first() -> None:
    """`mean` is the headline in seconds, `ops` its inverse, and the lab's figure stands beside it as it is."""
    (found,) = as_benchmark(run_of(100.0))["benchmarks"]
    assert found["stats"]["mean"] == pytest.approx(100e-9)
    assert found["stats"]["ops"] == pytest.approx(1e7)
    assert found["stats"]["min"] == pytest.approx(99e-9)
    assert found["extra_info"]["mean"] == 100.0
    assert found["extra_info"]["interval"] == [99.0, 101.0]


@pytest.mark.parametrize(
    ("figure", "unit", "seconds"),
    [
        (100, "ns/packet", 1e-7),
        (2, "ms", 2e-3),
        (4e6, "packets/s", 2.5e-7),
        (-1, "ns", None),
        (5, "%", None),
        (7, "instructions", None),
    ],
)
def test_times_and_rates_are_seconds(figure: float, unit: str, seconds: float | None) -> None:
    """A rate is the time that one unit takes; what is neither a time nor a rate is left out."""
    assert in_seconds(figure, unit) == (pytest.approx(seconds) if seconds else None)


def test_every_measurement_of_a_whole_run_is_there(tmp_path: Path) -> None:
    """Names are unique in a run, and the file is JSON without anything that is not a number."""
    written = write_benchmark(sample.sample_run(), tmp_path)
    assert written is not None
    data = json.loads(written.read_text(), parse_constant=pytest.fail)
    names = [each["fullname"] for each in data["benchmarks"]]
    assert len(names) == len(set(names)) >= 4


def test_a_run_without_measurements_writes_nothing(tmp_path: Path) -> None:
    """Scenarios alone are nothing to compare."""
    assert write_benchmark(sample.run_of(sample.scenario()), tmp_path) is None
    assert not list(tmp_path.iterdir())
