"""The table beside a distribution: percentiles of each arm, and of what the instrument makes of their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lab.model import statistics
from lab.model.measurement import Measurement
from lab.report.curves import arms, embedded_curves, taken
from lab.report.figures import interval_of, statistic_name
from lab.report.quantity import plain, quantity, span

ARMS = {
    "with": "with the program",
    "hook": "with an empty program",
    "without": "without",
    "again": "without, once more",
}
"""What the arms of the lab's own instruments are called for people."""
PARTS = {"hook_p50": "of it the hook", "program_p50": "of it the program", "aa_p50": "two bare paths (A/A)"}
"""Medians that a latency is made of, as its summary names them."""


def distribution_table(measurement: Measurement) -> Markup:
    """Arms in the order with, hook, without, again; then what is added, its intervals, and its parts."""
    heads = Markup("").join(
        Markup('<th class="n">{}</th>').format(statistic_name(name)) for name in statistics.QUANTILES
    )
    return Markup(
        '<div class="scroll"><table class="distribution">'
        '<thead><tr><th>Arm</th>{}<th class="n">Samples</th></tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(heads, Markup("").join([*_arm_rows(measurement), *_difference_rows(measurement)]))


def arm_name(arm: str) -> str:
    """ "hook" is "with an empty program"."""
    return ARMS.get(arm, arm)


def _arm_rows(measurement: Measurement) -> list[Markup]:
    several = arms(measurement)
    order = [arm for arm in ARMS if arm in several] + [arm for arm in several if arm not in ARMS]
    curves = embedded_curves(measurement)
    return [
        _row(
            arm_name(arm),
            [quantity(_at(curves[arm], share), measurement.unit) for share in statistics.QUANTILES.values()],
            plain(taken(measurement, arm)),
        )
        for arm in order
    ]


def _at(curve: Mapping[str, Sequence[float]], share: float) -> float:
    """The least value that so large a share of the samples is at most."""
    return next(value for value, reached in zip(curve["value"], curve["share"], strict=True) if reached >= share - 1e-7)


def _difference_rows(measurement: Measurement) -> list[Markup]:
    if len(arms(measurement)) < 2:
        return []
    told = {name: measurement.summary[name] for name in statistics.QUANTILES if name in measurement.summary}
    shown = [_with_interval(measurement, name) if name in told else Markup("") for name in statistics.QUANTILES]
    rows = [_row("added", shown, "", kind="added-row")]
    rows += [
        _row(words, [quantity(measurement.summary[part], measurement.unit), "", "", ""], "", kind="part")
        for part, words in PARTS.items()
        if part in measurement.summary
    ]
    return rows


def _with_interval(measurement: Measurement, name: str) -> Markup:
    interval = interval_of(measurement, name)
    told = Markup('<br><span class="fine">{}</span>').format(span(interval, measurement.unit)) if interval else ""
    return Markup("{}{}").format(quantity(measurement.summary[name], measurement.unit), told)


def _row(name: str, values: Sequence[str | Markup], samples: str, *, kind: str = "") -> Markup:
    cells = Markup("").join(Markup('<td class="n">{}</td>').format(value) for value in [*values, samples])
    return Markup('<tr class="{}"><td>{}</td>{}</tr>').format(kind, name, cells)
