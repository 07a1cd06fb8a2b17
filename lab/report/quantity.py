"""Numbers as people read them: scaled, with three significant digits, thousands separators and their unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
MICRO = "\N{MICRO SIGN}"

SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, f"{MICRO}s"), (1, "ns")),
    "ms": ((1e3, "s"), (1, "ms"), (1e-3, f"{MICRO}s")),
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, f"{MICRO}s")),
    "ns/packet": ((1e3, f"{MICRO}s/packet"), (1, "ns/packet")),
    "packets/s": ((1e6, "M packets/s"), (1, "packets/s")),
    "bit/s": ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1, "bit/s")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (1, "bytes")),
}
"""For each stored unit, from large to small: how many of it one shown unit holds."""


@dataclass(frozen=True)
class Scale:
    """A shown unit, and how many stored units it holds."""

    factor: float
    unit: str

    def number(self, value: float) -> str:
        """`value`, in the stored unit, as a number of shown units."""
        return plain(value / self.factor)

    def tick(self, value: float) -> str:
        """A round `value` on an axis, with no more decimals than it has: 0, 0.5, 1, 1.5."""
        return f"{value / self.factor:,.10g}".replace("-", MINUS)

    def text(self, value: float) -> str:
        """`value`, in the stored unit, as a number with the shown unit."""
        return f"{self.number(value)} {self.unit}".rstrip()


def scale(unit: str, value: float) -> Scale:
    """The shown unit in which `value` reads best.

    >>> scale("ns", 1210).text(1210)
    '1.21 µs'
    """
    steps = SCALES.get(unit, ((1, unit),))
    for factor, shown in steps:
        if abs(value) >= factor:
            return Scale(factor, shown)
    return Scale(*steps[-1]) if value else Scale(*_home(steps))


def _home(steps: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    return next((step for step in steps if step[0] == 1), steps[-1])


def quantity(value: float, unit: str) -> str:
    """A number with its unit: 1.21 µs, 3.42 M packets/s, 341,000 packets/s."""
    return scale(unit, value).text(value)


def span(interval: tuple[float, float], unit: str) -> str:
    """An interval in one unit, both ends with the decimals of the larger: 0.98 to 1.25 µs.

    >>> span((40.0, 41.94), "ns")
    '40.0 to 41.9 ns'
    """
    largest = max(abs(end) for end in interval)
    shown = scale(unit, largest)
    ends = [end / shown.factor for end in interval]
    decimals = 0 if all(float(end).is_integer() for end in ends) else _decimals(largest / shown.factor)
    while decimals < 6 and ends[0] != ends[1] and f"{ends[0]:.{decimals}f}" == f"{ends[1]:.{decimals}f}":
        decimals += 1
    low, high = (f"{end:,.{decimals}f}".replace("-", MINUS) for end in ends)
    return f"{low} to {high} {shown.unit}".rstrip()


def plain(value: float) -> str:
    """Three significant digits, never an exponent below a quadrillion, thousands separated by commas.

    >>> plain(65536), plain(0.1234)
    ('65,536', '0.123')
    """
    if not math.isfinite(value):
        return str(value)
    text = f"{int(value):,}" if float(value).is_integer() else f"{value:,.{_decimals(value)}f}"
    return text.replace("-", MINUS)


def _decimals(value: float) -> int:
    """Decimals that make three significant digits, six at most."""
    return min(6, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 0


def count(number: float, noun: str) -> str:
    """A number of things: 1 scenario, 48 scenarios."""
    return f"{plain(number)} {noun if number == 1 else noun + 's'}"


def seconds(value: float) -> str:
    """A duration given in seconds: 12 ms, 3.41 s, 2 min 5 s."""
    if value >= 60:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest} s"
    return quantity(value, "s") if value >= 0.001 else "under 1 ms"
