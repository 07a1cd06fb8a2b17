"""When a difference is one: the rule, the verdict, and how much longer it would take to be sure."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

from lab.bench.inference import Estimate, estimate


@dataclass(frozen=True)
class Rule:
    """What counts as a difference, of what is sought to a `resolution` (a share of the cost of A).

    The interval of a look holds with this `confidence`; looks come at 8, 12, 18, ... repetitions, and a false alarm
    may happen at any of them, so it is far above the usual. `least` is a difference, in the unit of the metric, that
    the method itself could have made; `threshold` is a share that the caller must know B to be below or above.
    """

    resolution: float = 0.01
    least: float = 0.3
    confidence: float = 0.9999
    threshold: float | None = None

    def negligible(self, base: float) -> float:
        """A difference up to this is none; half of the resolution, so that what is as large as that can be told."""
        return max(self.resolution * abs(base) / 2, self.least)

    def edges(self, base: float) -> tuple[float, ...]:
        """What the interval must not contain for the verdict to be sure."""
        small = self.negligible(base)
        asked = () if self.threshold is None else (self.threshold * abs(base),)
        return (-small, small, *asked)


@dataclass(frozen=True)
class Decision:
    """A verdict on a difference, or "inconclusive" with the `repetitions` that would probably settle it."""

    verdict: str
    difference: Estimate
    repetitions: int

    @property
    def is_open(self) -> bool:
        """True while more repetitions are wanted."""
        return self.repetitions > self.difference.repetitions


def decide(differences: list[float], base: float, rule: Rule) -> Decision:
    """The verdict on the differences B - A of all repetitions, where A costs `base`."""
    found = estimate(differences, rule.confidence)
    small = rule.negligible(base)
    verdict = "inconclusive"
    if found.low > small:
        verdict = "slower"
    elif found.high < -small:
        verdict = "faster"
    elif -2 * small < found.low and found.high < 2 * small:
        verdict = "no difference"
    needed = _needed(found, small, verdict == "inconclusive")
    if rule.threshold is not None:
        needed = max(needed, _beyond(found, rule.threshold * abs(base)))
    return Decision(verdict, found, needed)


def _needed(found: Estimate, small: float, undecided: bool) -> int:
    """Repetitions until the interval lies beyond `small` or within twice of it: width falls with their root."""
    if not undecided:
        return found.repetitions
    size = abs(found.value)
    room = max(size - small, 2 * small - size)
    return _repetitions(found, room)


def _beyond(found: Estimate, edge: float) -> int:
    """Repetitions until the interval does not contain `edge`."""
    if not found.low <= edge <= found.high:
        return found.repetitions
    return _repetitions(found, abs(found.value - edge))


def _repetitions(found: Estimate, room: float) -> int:
    if found.half_width == inf or room <= 0:
        return 1 << 30
    return min(1 << 30, max(found.repetitions + 1, ceil(found.repetitions * (found.half_width / room) ** 2)))
