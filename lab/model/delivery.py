"""What became of a stream: RFC 2544's words for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Delivery:
    """Frames or messages counted at both ends of a stream; every field is a number of them but the last three."""

    offered: int
    received: int
    reordered: int = 0
    duplicated: int = 0
    duration_s: float = 0.0
    cpu_s: float = 0.0
    """Of the sending thread while it sent a flood, and of what its frames met on that CPU; 0.0 for other streams."""
    reached: str = ""
    """The farthest interface on the way that frames of it entered ("server/eth0"); "" where that was not looked at."""

    @property
    def lost(self) -> int:
        """Offered and never received (a duplicate makes up for nothing)."""
        return max(0, self.offered - self.received)

    @property
    def rate_pps(self) -> float:
        """Received per second, 0.0 when the stream took no time."""
        return self.received / self.duration_s if self.duration_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For the journal and for JSON."""
        return {**asdict(self), "lost": self.lost}
