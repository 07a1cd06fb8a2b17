"""Two contenders measured in one run, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.model.measurement import Trial

VERDICTS = ("slower", "faster", "no difference", "inconclusive")


@dataclass(frozen=True)
class Comparison:
    """B against A: `difference` in `unit` and `ratio` (B / A), each with the interval of this `confidence`.

    A higher figure is slower. `verdict` is one of VERDICTS, `sentence` says it with its numbers. `trials` hold one
    sample a repetition: "A" and "B" in `unit`, and "difference".
    `to_be_sure_s` is how much longer it would take to leave "inconclusive", 0 where that is not needed.
    `negligible` is the difference, in `unit`, up to which there is none; 0 where it was not stored.
    """

    a: str
    b: str
    subject: str
    metric: str
    method: str
    unit: str
    verdict: str
    sentence: str
    difference: tuple[float, float, float]
    ratio: tuple[float, float, float]
    base: float
    confidence: float
    duration_s: float
    to_be_sure_s: float
    trials: tuple[Trial, ...]
    noise: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    negligible: float = 0.0

    def is_slower_by(self, share: float) -> bool:
        """True when B takes longer by more than this share for certain: the whole interval lies beyond it."""
        return self.verdict == "slower" and self.ratio[1] > 1 + share

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """The comparison that `as_dict` wrote."""
        trials = tuple(Trial(each["arm"], tuple(each["samples"]), each.get("facts", {})) for each in data["trials"])
        tuples = {name: tuple(data[name]) for name in ("difference", "ratio", "remarks")}
        return cls(**{**data, **tuples, "trials": trials})
