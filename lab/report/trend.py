"""One figure through all stored runs of like environments, and where it changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from math import inf
from statistics import median

from lab.model.likeness import unlike
from lab.model.measurement import Measurement
from lab.model.run import Environment, Run
from lab.report.changes import change_points

BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Point:
    """One measurement of one run; `ratio` is its figure by that of the reference program of the same trials."""

    key: tuple[str, str, str, str]
    run: str
    started: datetime
    environment: Environment = field(repr=False)
    unit: str
    figure: float
    ratio: float | None
    too_noisy: str

    @property
    def commit(self) -> str:
        """In short, with a + where the checkout was changed."""
        return (self.environment.commit[:8] or "unknown") + "+" * self.environment.dirty


@dataclass(frozen=True)
class Change:
    """A new level: it begins with `point`, the `place`th of its trend, and is `share` above the old one."""

    place: int
    point: Point
    before: Point
    share: float
    is_worse: bool

    @property
    def verdict(self) -> str:
        """ "2.1 % slower since 1a2b3c4d"."""
        return f"{abs(self.share) * 100:.2g} % {'slower' if self.is_worse else 'faster'} since {self.point.commit}"


@dataclass(frozen=True)
class Trend:
    """Points of one measurement from old to new, all of environments like the newest one's.

    `figures` are ratios to the reference program where every point has one, else the figures as they are. `left_out`
    says what was not taken: runs of unlike environments, and runs that were too noisy.
    """

    program: str
    metric: str
    subject: str
    method: str
    points: tuple[Point, ...]
    left_out: tuple[str, ...]

    @property
    def is_relative(self) -> bool:
        """Whether it is told in ratios."""
        return all(point.ratio is not None for point in self.points)

    @cached_property
    def figures(self) -> list[float]:
        """One a point."""
        return [point.ratio if self.is_relative and point.ratio is not None else point.figure for point in self.points]

    @property
    def newest(self) -> Point:
        """The last one."""
        return self.points[-1]

    @cached_property
    def changes(self) -> list[Change]:
        """Where its level changed, from old to new."""
        places = change_points(self.figures)
        levels = [median(self.figures[start:end]) for start, end in pairwise((0, *places, len(self.figures)))]
        rising_is_worse = not self.newest.unit.endswith("/s")
        return [
            Change(place, self.points[place], self.points[place - 1], _share(old, new), (new > old) == rising_is_worse)
            for place, (old, new) in zip(places, pairwise(levels), strict=True)
        ]

    @property
    def sparkline(self) -> str:
        """The last 40 figures as blocks; a series that stays within 1 % is not blown up.

        >>> trend.sparkline
        '▁▁▂▁▁█▇██'
        """
        shown = self.figures[-40:]
        low, high = min(shown), max(shown)
        room = max(high - low, 0.01 * abs(high))
        if not room:
            return BLOCKS[0] * len(shown)
        return "".join(BLOCKS[min(7, int((figure - low) / room * 8))] for figure in shown)


def _share(old: float, new: float) -> float:
    return (new - old) / abs(old) if old else inf


def points_of(run: Run) -> Iterator[Point]:
    """Every measurement of a run as a point."""
    started = datetime.fromisoformat(run.started)
    started = started if started.tzinfo else started.replace(tzinfo=UTC)
    for result in run.results:
        for measured in result.measurements:
            yield Point(
                key=(measured.program, measured.metric, measured.subject, measured.method),
                run=run.id,
                started=started,
                environment=run.environment,
                unit=measured.unit,
                figure=measured.summary[measured.headline],
                ratio=_ratio(measured),
                too_noisy=measured.too_noisy,
            )


def _ratio(measured: Measurement) -> float | None:
    """To the arm "reference", a program that never changes; both without what the instrument itself costs."""
    arms = {trial.arm: trial.samples for trial in measured.trials}
    if not arms.get("reference"):
        return None
    floor = median(arms["without"]) if arms.get("without") else 0.0
    reference = median(arms["reference"]) - floor
    return measured.summary[measured.headline] / reference if reference > 0 else None


def trends(points: Iterable[Point]) -> list[Trend]:
    """One for each measurement, by program, metric and subject."""
    by_key: dict[tuple[str, str, str, str], list[Point]] = {}
    for point in points:
        by_key.setdefault(point.key, []).append(point)
    return [_trend(key, several) for key, several in sorted(by_key.items())]


def _trend(key: tuple[str, str, str, str], several: Sequence[Point]) -> Trend:
    ordered = sorted(several, key=lambda point: (point.started, point.run))
    quiet = [point for point in ordered if not point.too_noisy] or ordered[-1:]
    newest = quiet[-1]
    like = [point for point in quiet if not unlike(point.environment, newest.environment)]
    told = [point for point in like if (point.ratio is None) == (newest.ratio is None)]
    left_out = (
        (len(ordered) - len(quiet), "too noisy"),
        (len(quiet) - len(like), "of unlike environments"),
        (len(like) - len(told), "with another reference"),
    )
    program, metric, subject, method = key
    sentences = tuple(f"{number} {why}" for number, why in left_out if number)
    return Trend(program, metric, subject, method, tuple(told), sentences)
