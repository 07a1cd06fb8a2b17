"""A stored run in the format of pytest-benchmark, for its `compare` and for dashboards that read it.

The format knows one thing, seconds: ns become seconds, and a rate becomes the seconds that one of its units takes, so
that `ops` is the rate. `mean` is the figure that the lab itself puts first, whatever statistic that is; `stddev`, `min`
and `max` are of raw samples. What is no time and no rate, or nothing at all, is left out. The lab's figure, with its
unit, method, interval and noise, stands in `extra_info`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles, stdev
from typing import Any

from lab.bench.store import write_whole
from lab.errors import StoreError
from lab.model.measurement import Measurement
from lab.model.run import Result, Run

FOLDER = "pytest-benchmark"
VERSION = "5.1.0"
"""Of pytest-benchmark, whose fields these are."""
SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}


def write_benchmark(run: Run, runs: Path) -> Path | None:
    """Writes `runs`/pytest-benchmark/<machine>/0001_<run>.json, where `pytest-benchmark --storage=… compare` finds it.

    None for a run that measured nothing. StoreError when the folder cannot be written.
    """
    data = as_benchmark(run)
    if not data["benchmarks"]:
        return None
    folder = runs / FOLDER / machine_id()
    target = folder / f"{len(list(folder.glob('*.json'))) + 1:04}_{run.id}.json"
    try:
        write_whole(target, data)
    except OSError as error:
        raise StoreError(
            f"store the run for pytest-benchmark in {target}: it could not be written",
            kernel=error.strerror or str(error),
            mend="free some space, or name another folder with --lab-runs",
        ) from error
    return target


def machine_id() -> str:
    """As pytest-benchmark names its folders: "Linux-CPython-3.11-64bit"."""
    version = ".".join(platform.python_version_tuple()[:2])
    return f"{platform.system()}-{platform.python_implementation()}-{version}-{platform.architecture()[0]}"


def as_benchmark(run: Run) -> dict[str, Any]:
    """The whole file."""
    environment = run.environment
    return {
        "machine_info": {
            "node": environment.settings.get("machine", ""),
            "machine": platform.machine(),
            "system": "Linux",
            "release": environment.kernel,
            "python_version": environment.tools.get("python", ""),
            "cpu": {"brand_raw": environment.cpu, "count": environment.cpus},
        },
        "commit_info": {
            "id": environment.commit,
            "time": run.started,
            "dirty": environment.dirty,
            "project": "bpflab",
            "branch": "(unknown)",
        },
        "benchmarks": [each for result in run.results for each in _benchmarks(result)],
        "datetime": run.started,
        "version": VERSION,
    }


def _benchmarks(result: Result) -> Iterator[dict[str, Any]]:
    for measured in result.measurements:
        seconds = in_seconds(measured.summary[measured.headline], measured.unit)
        if seconds is None:
            continue
        what = f"{measured.metric}, {measured.subject}"
        yield {
            "group": measured.metric,
            "name": f"{measured.program}: {what}",
            "fullname": f"{result.nodeid}::{what}",
            "params": None,
            "param": None,
            "options": {},
            "extra_info": {
                "method": measured.method,
                "unit": measured.unit,
                measured.headline: measured.summary[measured.headline],
                "interval": list(measured.interval),
                "too_noisy": measured.too_noisy,
            },
            "stats": _stats(measured, seconds),
        }


def in_seconds(figure: float, unit: str) -> float | None:
    """Of a time ("ns", "ns/packet") or a rate ("packets/s"); None for what is neither, or not above 0.

    >>> in_seconds(4_000_000, "packets/s")
    2.5e-07
    """
    if figure <= 0:
        return None
    if unit.endswith("/s"):
        return 1 / figure
    factor = SECONDS.get(unit.partition("/")[0])
    return figure * factor if factor else None


def _stats(measured: Measurement, mean: float) -> dict[str, Any]:
    told = [in_seconds(sample, measured.unit) for sample in _samples(measured)]
    samples = sorted(sample for sample in told if sample is not None) or [mean]
    several = len(samples) > 1
    first, median, third = quantiles(samples, n=4, method="inclusive") if several else (samples * 3)
    if "p50" in measured.summary:
        median = in_seconds(measured.summary["p50"], measured.unit) or median
    fences = first - 1.5 * (third - first), third + 1.5 * (third - first)
    beyond = sum(not fences[0] <= sample <= fences[1] for sample in samples)
    return {
        "min": samples[0],
        "max": samples[-1],
        "mean": mean,
        "stddev": stdev(samples) if several else 0.0,
        "rounds": len(samples),
        "median": median,
        "iqr": third - first,
        "q1": first,
        "q3": third,
        "iqr_outliers": beyond,
        "stddev_outliers": 0,
        "outliers": f"0;{beyond}",
        "ld15iqr": samples[0],
        "hd15iqr": samples[-1],
        "ops": 1 / mean,
        "total": sum(samples),
        "iterations": 1,
    }


def _samples(measured: Measurement) -> list[float]:
    """The difference of arms that took turns, or the samples of the first arm."""
    arms = {trial.arm: trial.samples for trial in measured.trials}
    first = next(iter(arms.values()), ())
    with_it, without = arms.get("with", first), arms.get("without", ())
    if len(with_it) == len(without):
        return [a - b for a, b in zip(with_it, without, strict=True)]
    return list(with_it)
