"""Raw trials cut down to what a page can carry: curves from every sample, and a part of the samples themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lab.model.measurement import Measurement
from lab.report.hdr import curve_of

PAGE_SAMPLES = 80_000
"""Raw samples that one page carries at most, about half a megabyte."""

TRIAL_SAMPLES = 2_000
"""Raw samples that one trial puts on the page at most."""


YARDSTICK = "reference"
"""The arm that `lab history` holds others against; it is no trial of the program."""


def arms(measurement: Measurement) -> dict[str, list[float]]:
    """All samples of each arm but the yardstick, in order, whatever number of trials they came in."""
    joined: dict[str, list[float]] = {}
    for trial in measurement.trials:
        joined.setdefault(trial.arm, []).extend(trial.samples)
    return {arm: samples for arm, samples in joined.items() if samples and arm != YARDSTICK}


def curve(samples: Sequence[float]) -> dict[str, list[float]]:
    """The distribution of `samples` as points: the share of samples that are at most this value.

    Computed from every sample, in steps that grow finer towards the slow end, so that the tail is drawn whole.
    """
    ordered = sorted(samples)
    count = len(ordered)
    ranks = sorted({rank for rank in _ranks(count) if 1 <= rank <= count})
    return {"share": [round(rank / count, 7) for rank in ranks], "value": [_short(ordered[rank - 1]) for rank in ranks]}


def _ranks(count: int) -> Iterable[int]:
    steps = ((0.0, 0.01, 90), (0.9, 0.001, 90), (0.99, 0.0001, 90), (0.999, 0.00001, 100))
    for start, step, times in steps:
        yield from (round((start + step * index) * count) for index in range(times + 1))
    yield from (1, count)


def sample_limit(measurements: Iterable[Measurement]) -> int:
    """How many samples of each trial fit, so that the page stays under PAGE_SAMPLES."""
    sizes = sorted(len(trial.samples) for measurement in measurements for trial in measurement.trials)
    left = PAGE_SAMPLES
    for index, size in enumerate(sizes):
        fair = left // (len(sizes) - index)
        if size > fair:
            return min(TRIAL_SAMPLES, max(1, fair))
        left -= size
    return TRIAL_SAMPLES


def thinned(samples: Sequence[float], most: int) -> list[float]:
    """Every n-th sample, in order, at most `most` of them."""
    stride = max(1, -(-len(samples) // most))
    return [_short(sample) for sample in samples[::stride]]


def embedded(measurement: Measurement, most: int) -> dict[str, Any]:
    """What the page carries of a measurement, as JSON: its figures, its curves, at most `most` samples a trial."""
    whole = measurement.as_dict()
    whole["trials"] = [
        {
            "arm": trial.arm,
            "facts": dict(trial.facts),
            "taken": len(trial.samples),
            "every": max(1, -(-len(trial.samples) // most)),
            "samples": thinned(trial.samples, most),
        }
        for trial in measurement.trials
    ]
    whole["curves"] = embedded_curves(measurement)
    return whole


def embedded_curves(measurement: Measurement) -> dict[str, dict[str, list[float]]]:
    """The distribution of each arm, of all its samples."""
    return {arm: _whole_curve(measurement, arm, samples) for arm, samples in arms(measurement).items()}


def taken(measurement: Measurement, arm: str) -> int:
    """How many samples an arm has; of many, a run keeps a part as they are, and all of them in a histogram."""
    several = [trial for trial in measurement.trials if trial.arm == arm]
    told = [trial.facts.get("taken") for trial in several]
    return sum(
        number if isinstance(number, int) and number >= len(trial.samples) else len(trial.samples)
        for trial, number in zip(several, told, strict=True)
    )


def _whole_curve(measurement: Measurement, arm: str, samples: Sequence[float]) -> dict[str, list[float]]:
    """From the histogram of all samples where the arm has one, else from those that were stored."""
    several = [trial for trial in measurement.trials if trial.arm == arm]
    held = curve_of(several[0].facts.get("histogram")) if len(several) == 1 else None
    return held or curve(samples)


def _short(sample: float) -> float:
    """Six significant digits are more than any clock here resolves."""
    rounded = float(f"{sample:.6g}")
    return int(rounded) if rounded.is_integer() else rounded
