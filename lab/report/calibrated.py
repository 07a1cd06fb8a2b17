"""The calibration of this machine as the page shows it: what was put in, what was found, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

from markupsafe import Markup

from lab.model.calibration import Bar, Calibration
from lab.model.likeness import unlike
from lab.model.run import Environment
from lab.model.statistics import quantile
from lab.report.plots import Row, dot_plot
from lab.report.quantity import plain, seconds
from lab.report.read import Broken
from lab.report.sound import is_number, numbers, sound_calibration

FILE = "calibration.json"


@dataclass(frozen=True)
class Slowdown:
    """A slowdown that was put in: by how much, of what, how often it was found, and within which time."""

    what: str
    true_ns: float
    base_ns: float
    seen_ns: list[float]
    found: int
    seconds: float

    @property
    def share(self) -> float:
        """Of the cost of the program."""
        return self.true_ns / self.base_ns


@dataclass(frozen=True)
class Calibrated:
    """The table of one machine with the plots of its numbers."""

    calibration: Calibration

    @property
    def missed(self) -> list[Bar]:
        """The bars that were not reached."""
        return [bar for bar in self.calibration.bars if not bar.held]

    @property
    def told(self) -> str:
        """ "28 of 29 bars reached"."""
        bars = len(self.calibration.bars)
        return f"{bars - len(self.missed)} of {bars} bars reached"

    @cached_property
    def slowdowns(self) -> list[Slowdown]:
        """Those of which all numbers are there, the smallest share first."""
        found = (_slowdown(bar) for bar in self.calibration.bars)
        return sorted((each for each in found if each), key=lambda each: each.share)

    @property
    def sentence(self) -> str:
        """What follows from the smallest share whose bar was reached.

        "On this machine the lab sees a slowdown of 1.1 % of 394 ns in 412 ms: 100 of 100 times."
        """
        held = {bar.what for bar in self.calibration.bars if bar.held}
        best = next((each for each in self.slowdowns if each.what in held), None)
        if best is None:
            return ""
        share, cost = f"{100 * best.share:.2g} %", f"{plain(round(best.base_ns))} ns"
        number = f"{best.found} of {len(best.seen_ns)} times"
        return f"On this machine the lab sees a slowdown of {share} of {cost} in {seconds(best.seconds)}: {number}."

    @property
    def slowdown_plot(self) -> Markup:
        """What each run saw of a slowdown, with a dashed line at what was put in."""
        rows = [
            Row(each.what, each.seen_ns, fmean(each.seen_ns), None, each.true_ns, promise=_put_in(each.true_ns))
            for each in sorted(self.slowdowns, key=lambda each: each.true_ns)
        ]
        return dot_plot(rows, "ns") if rows else Markup("")

    @property
    def delay_plot(self) -> Markup:
        """By how much each run was off, of delays that were put in, by the median and by p99."""
        rows = [
            Row(f"{bar.what}: off by", errors, median(errors), None, 0.0)
            for bar in self.calibration.bars
            if (errors := _errors(bar))
        ]
        return dot_plot(rows, "ns") if rows else Markup("")

    def unlike(self, environment: Environment) -> list[str]:
        """What forbids to hold figures of that environment against this calibration."""
        return unlike(self.calibration.environment, environment)


def read_calibration(path: Path) -> Calibrated | Broken | None:
    """What `lab calibrate` stored there; None where there is no such file, and why where it cannot be read."""
    try:
        return Calibrated(sound_calibration(Calibration.from_dict(json.loads(path.read_text(encoding="utf-8")))))
    except FileNotFoundError:
        return None
    except KeyError as error:
        return Broken(path.name, f"the key {error} is missing")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return Broken(path.name, str(error) or type(error).__name__)


def _slowdown(bar: Bar) -> Slowdown | None:
    data = bar.data
    seen, base, took = (numbers(data.get(name)) for name in ("difference_ns", "base_ns", "duration_s"))
    verdicts = data.get("verdict")
    if not isinstance(verdicts, list) or not is_number(data.get("true_ns")):
        return None
    if not (seen and base and took and median(base) > 0):
        return None
    found = sum(verdict == "slower" for verdict in verdicts)
    return Slowdown(bar.what, float(data["true_ns"]), median(base), seen, found, quantile(took, 0.95))


def _put_in(ns: float) -> Markup:
    return Markup(' <span class="fine">put in: {} ns</span>').format(plain(round(ns, 2)))


def _errors(bar: Bar) -> list[float]:
    """Of the quantile that the bar is about; nothing for bars of other instruments."""
    quantile_ns = "p99_ns" if bar.what.endswith("p99") else "p50_ns"
    found, true = numbers(bar.data.get(quantile_ns)), numbers(bar.data.get("true_ns"))
    return list(_differences(found, true)) if len(found) == len(true) else []


def _differences(found: list[float], true: list[float]) -> Iterator[float]:
    return (round(a - b, 2) for a, b in zip(found, true, strict=True))
