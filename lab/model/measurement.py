"""A number with its unit, its method and the raw trials that it was computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.model import statistics


@dataclass(frozen=True)
class Trial:
    """Raw samples, in the order in which they were taken, of one arm ("with", "without", ...) of a measurement."""

    arm: str
    samples: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """What the author of the program promises: `statistic` of the measurement stays below (or above) `value`."""

    statistic: str
    value: float
    below: bool = True

    def holds_for(self, figure: float) -> bool:
        """True when `figure` keeps the promise."""
        return figure < self.value if self.below else figure > self.value


@dataclass(frozen=True)
class Measurement:
    """What was measured (`metric`), how (`method`), of which program, on which `subject`, in which `unit`.

    `summary` holds the figures computed from `trials` (p50, p99, ... as named keys, each in `unit`), and
    `interval` the 95 % confidence interval of the headline figure `summary[headline]`. `noise` is what disturbed the
    run (`lab.bench.noise`); its "sentence" is empty, or says why the figure must not decide anything; "path" is what
    the interfaces on the way were set to.
    """

    metric: str
    method: str
    unit: str
    program: str
    subject: str
    headline: str
    summary: Mapping[str, float]
    interval: tuple[float, float]
    trials: tuple[Trial, ...]
    limit: Limit | None = None
    remarks: tuple[str, ...] = ()
    noise: Mapping[str, Any] = field(default_factory=dict)

    @property
    def too_noisy(self) -> str:
        """Why this figure must not decide anything, or ""."""
        return str(self.noise.get("sentence", ""))

    def __getattr__(self, name: str) -> float:
        """`measurement.p99` is `measurement.summary["p99"]`."""
        summary = self.__dict__.get("summary", {})
        if name in summary:
            return float(summary[name])
        raise AttributeError(f"{name}: this measurement has {', '.join(summary) or 'no figures'}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """The measurement that `as_dict` wrote."""
        limit = data.get("limit")
        trials = tuple(Trial(t["arm"], tuple(t["samples"]), t.get("facts", {})) for t in data["trials"])
        low, high = data["interval"]
        plain = {key: data[key] for key in ("metric", "method", "unit", "program", "subject", "headline", "summary")}
        return cls(
            **plain,
            interval=(low, high),
            trials=trials,
            limit=Limit(**limit) if limit else None,
            remarks=tuple(data.get("remarks", ())),
            noise=data.get("noise", {}),
        )

    @classmethod
    def of_samples(
        cls, samples: Sequence[float], *, metric: str, method: str, unit: str, program: str, subject: str
    ) -> Measurement:
        """A measurement with one arm: its headline is the median, with a bootstrap interval."""
        return cls(
            metric=metric,
            method=method,
            unit=unit,
            program=program,
            subject=subject,
            headline="p50",
            summary=statistics.percentiles(samples),
            interval=statistics.median_interval(samples),
            trials=(Trial("with", tuple(samples)),),
        )
