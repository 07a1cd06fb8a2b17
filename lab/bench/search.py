"""The search for a rate: MLRsearch, as the IETF draft describes it and FD.io's library does it.

Two goals are searched for at once: NDR, the highest load without loss, and PDR, the highest that loses at most 0.5 %. A
load is judged by trials of 20 and then 100 ms until those of a load last 0.5 s together; half of them may be bad, so
that an interrupt does not decide. (draft-ietf-bmwg-mlrsearch; RFC 2544, section 26.1, is the search that it replaces.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GOALS = {"ndr": 0.0, "pdr": 0.005}
"""The share of frames that a good trial may lose."""
WIDTH = 0.01
"""Of the interval in which the rate lies, in relation to it."""
SHORT_S, LONG_S = 0.02, 0.1
DURATION_SUM_S = 0.5
LOWEST = 0.1
"""Of the highest load: a program that loses frames even then has no rate."""
LONGEST_S = 2.7
"""Then the bounds are those that the trials until now agree on: a machine that changes its speed has no better."""


@dataclass(frozen=True)
class LoadTrial:
    """Frames offered at a load for a time, what came of them, and the CPU time in s that it took."""

    intended_pps: float
    intended_s: float
    offered: int
    received: int
    cpu_s: float

    @property
    def intended(self) -> int:
        """Frames that this load has in this time."""
        return round(self.intended_pps * self.intended_s)

    @property
    def lost(self) -> int:
        """Offered and never received."""
        return max(0, self.offered - self.received)

    @property
    def in_time(self) -> int:
        """Frames that went within the time, by the CPU's clock: what disturbs the thread is no overload."""
        return min(self.intended, int(self.intended * self.intended_s / self.cpu_s)) if self.cpu_s else self.intended

    @property
    def loss_ratio(self) -> float:
        """Lost or not sent in time, of those intended."""
        return (self.intended - self.in_time + self.lost) / max(self.intended, 1)

    @property
    def received_pps(self) -> float:
        """As fast as the core went while it sent."""
        return self.received / self.cpu_s if self.cpu_s else 0.0


@dataclass(frozen=True)
class Bounds:
    """A rate lies between the highest load that was good enough and the lowest that was not (inf: none was tried)."""

    good_pps: float
    bad_pps: float

    def times(self, factor: float) -> Bounds:
        """The same in another unit."""
        return Bounds(self.good_pps * factor, self.bad_pps * factor)


@dataclass(frozen=True)
class Found:
    """What a search found by goal (None: even the lowest load loses more), and all of its trials in order."""

    bounds: Mapping[str, Bounds | None]
    trials: tuple[LoadTrial, ...]
    duration_s: float
    cut_short: bool = False


def search(offer: Callable[[float, float], LoadTrial], highest_pps: float, *, longest_s: float | None = None) -> Found:
    """Searches the rates below `highest_pps`; `offer(load, seconds)` makes a trial.

    A trial may be at another rate than its load says, if all are so in the same sense: the bounds are loads.
    """
    from MLRsearch import AbstractMeasurer, Config, MeasurementResult, MultipleLossRatioSearch, SearchGoal

    made: list[tuple[float, LoadTrial]] = []

    class Measurer(AbstractMeasurer):  # type: ignore[misc]  # the library has no types
        """The lab's trials, as the library wants them."""

        def measure(self, intended_duration: float, intended_load: float) -> Any:
            """One trial."""
            trial = offer(intended_load, intended_duration)
            made.append((intended_load, trial))
            return MeasurementResult(
                intended_duration=intended_duration,
                intended_load=intended_load,
                intended_count=trial.intended,
                offered_count=trial.in_time,
                loss_count=min(trial.lost, trial.in_time),
            )

    goals = {name: _goal(SearchGoal, loss) for name, loss in GOALS.items()}
    config = Config()
    config.max_load, config.min_load = highest_pps, LOWEST * highest_pps
    config.goals, config.search_duration_max, config.warmup_duration = goals.values(), longest_s or LONGEST_S, 0.0
    start = time.monotonic()
    try:
        results = MultipleLossRatioSearch(config).search(Measurer(), debug=_log.debug)
    except RuntimeError:  # "Optimized search takes too long."
        bounds, cut_short = {name: bounds_of(made, loss) for name, loss in GOALS.items()}, True
    else:
        bounds, cut_short = {name: _bounds(results[goal]) for name, goal in goals.items()}, False
    return Found(bounds, tuple(trial for _, trial in made), time.monotonic() - start, cut_short)


def bounds_of(trials: Sequence[tuple[float, LoadTrial]], most_lost: float) -> Bounds | None:
    """By the longest trials of each load: it is good when at least half of them lost no more than that."""
    by_load: dict[float, list[LoadTrial]] = {}
    longest_s = max(trial.intended_s for _, trial in trials)
    for load, trial in trials:
        if trial.intended_s == longest_s:
            by_load.setdefault(load, []).append(trial)
    good = {load: 2 * sum(each.loss_ratio <= most_lost for each in made) >= len(made) for load, made in by_load.items()}
    bad_pps = min((load for load in good if not good[load]), default=float("inf"))
    good_pps = max((load for load in good if good[load] and load < bad_pps), default=None)
    return None if good_pps is None else Bounds(good_pps, bad_pps)


def _goal(make: Callable[..., Any], loss_ratio: float) -> Any:
    return make(
        loss_ratio=loss_ratio,
        exceed_ratio=0.5,
        relative_width=WIDTH,
        initial_trial_duration=SHORT_S,
        final_trial_duration=LONG_S,
        duration_sum=DURATION_SUM_S,
        fail_fast=False,
    )


def _bounds(result: Any) -> Bounds | None:
    lower, upper = result.relevant_lower_bound, result.relevant_upper_bound
    if lower is None:
        return None
    return Bounds(float(lower), float(upper) if upper is not None else float("inf"))


_log = logging.getLogger(__name__)
