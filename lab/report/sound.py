"""Whether what was read is of the types that the page relies on: a file may come from anywhere.

Each function raises TypeError or ValueError where a value is not of its type, or no finite number.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from lab.model.calibration import Calibration
from lab.model.comparison import VERDICTS, Comparison
from lab.model.measurement import Measurement, Trial
from lab.model.run import Environment, Result, Run


def moment(text: str) -> datetime:
    """An ISO 8601 time; one without a zone is UTC."""
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def sound_run(run: Run) -> Run:
    """The same run."""
    moment(run.started)
    _expect(str, run.id, *run.command)
    _expect(float, run.duration_s)
    _environment_is_sound(run.environment)
    for result in run.results:
        _result_is_sound(result)
    return run


def sound_calibration(calibration: Calibration) -> Calibration:
    """The same calibration; what is in a bar's `data` is for those who read it to check."""
    moment(calibration.started)
    _expect(float, calibration.duration_s)
    _environment_is_sound(calibration.environment)
    for bar in calibration.bars:
        _expect(str, bar.what, bar.bar, bar.reached)
        _expect(bool, bar.held)
        _expect(float, bar.duration_s)
        _expect(dict, bar.data)
    return calibration


def numbers(value: object) -> list[float]:
    """`value` where it is a list of finite numbers, else nothing.

    >>> numbers([1, 2.5]), numbers([1, "2"]), numbers(None)
    ([1.0, 2.5], [], [])
    """
    if not isinstance(value, list | tuple) or not all(is_number(each) for each in value):
        return []
    return [float(each) for each in value]


def is_number(value: object) -> bool:
    """True for a finite number that is no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _environment_is_sound(environment: Environment) -> None:
    _expect(str, environment.kernel, environment.cpu, environment.commit, environment.bpf_jit)
    _expect(float, environment.cpus, environment.memory_bytes)
    for named in (environment.tools, environment.settings):
        _expect(dict, named)
        _expect(str, *named, *named.values())


def _result_is_sound(result: Result) -> None:
    _expect(str, result.nodeid, result.kind, result.program, result.title, result.outcome, result.reason)
    _expect(float, result.duration_s)
    _expect(dict, result.notes)
    for notes in result.notes.values():
        _expect(list, notes)
        _expect(dict, *notes)
    for measurement in result.measurements:
        _measurement_is_sound(measurement)
    for note in result.notes.get("comparison", []):
        _comparison_is_sound(Comparison.from_dict(note))


def _measurement_is_sound(measurement: Measurement) -> None:
    _expect(str, measurement.metric, measurement.method, measurement.unit, measurement.program, measurement.subject)
    _expect(str, measurement.headline, *measurement.remarks)
    _expect(dict, measurement.summary, measurement.noise)
    _expect(float, *measurement.summary.values(), *measurement.interval)
    if measurement.headline not in measurement.summary:
        raise ValueError(f"a measurement of {measurement.metric} lacks its headline {measurement.headline}")
    if measurement.limit:
        _expect(str, measurement.limit.statistic)
        _expect(float, measurement.limit.value)
    for trial in measurement.trials:
        _trial_is_sound(trial)


def _comparison_is_sound(comparison: Comparison) -> None:
    _expect(str, comparison.a, comparison.b, comparison.subject, comparison.metric, comparison.method, comparison.unit)
    _expect(str, comparison.sentence, *comparison.remarks)
    _expect(float, *comparison.difference, *comparison.ratio, comparison.base, comparison.confidence)
    _expect(float, comparison.duration_s, comparison.to_be_sure_s, comparison.negligible)
    _expect(dict, comparison.noise)
    if comparison.verdict not in VERDICTS:
        raise ValueError(f"a comparison of {comparison.subject} has the verdict {comparison.verdict!r:.60}")
    if len(comparison.difference) != 3 or len(comparison.ratio) != 3:
        raise ValueError(f"a comparison of {comparison.subject} lacks an end of its interval")
    for trial in comparison.trials:
        _trial_is_sound(trial)


def _trial_is_sound(trial: Trial) -> None:
    _expect(str, trial.arm)
    _expect(dict, trial.facts)
    _expect(float, *trial.samples)


def _expect(kind: type, *values: Any) -> None:
    accepted = (int, float) if kind is float else (kind,)
    for value in values:
        if not isinstance(value, accepted):
            raise TypeError(f"{value!r:.60} stands where {'a number' if kind is float else kind.__name__} belongs")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} stands where a number belongs")
