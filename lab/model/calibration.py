"""What an instrument recovers of causes that were put in on purpose: the calibration of one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.model.run import Environment

SCHEMA = 1


@dataclass(frozen=True)
class Bar:
    """One line of the table: `what` was tried, the `bar` that must be reached, what was `reached`, and if it `held`.

    All three are sentences for people; `data` holds the numbers behind them, raw trials included.
    """

    what: str
    bar: str
    reached: str
    held: bool
    duration_s: float = 0.0
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """The table of one machine, as it stands in reports/calibration.json."""

    started: str
    duration_s: float
    environment: Environment
    bars: tuple[Bar, ...]
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """What `as_dict` wrote; ValueError for a schema that this version does not know."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')} is not {SCHEMA}, the one this version reads")
        return cls(
            started=data["started"],
            duration_s=data["duration_s"],
            environment=Environment(**data["environment"]),
            bars=tuple(Bar(**each) for each in data["bars"]),
        )
