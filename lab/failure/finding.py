"""One thing that is found out about a failure, and how much of it a terminal shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ALL = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A title and lines below it. `shown` of them go to the terminal; the page has all."""

    title: str
    lines: tuple[str, ...]
    shown: int = ALL

    @property
    def brief(self) -> list[str]:
        """What a terminal shows."""
        kept = list(self.lines[: self.shown])
        if kept and len(self.lines) > self.shown:
            kept.append(f"... {len(self.lines) - self.shown:,} more in the report")
        return kept

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "lines": list(self.lines)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """What `as_dict` gave."""
        return cls(str(data["title"]), tuple(map(str, data["lines"])), int(data.get("shown", ALL)))
