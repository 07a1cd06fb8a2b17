"""What is known of a failed scenario, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fate:
    """What became of some of the messages of a sending: where they were seen last, and how they ended there."""

    messages: int
    interface: str
    """"server/eth0"."""
    kind: str
    """"sent" or "received": seen there last. "dropped", "exception", ...: it ended there."""
    reason: str = ""
    place: str = ""


@dataclass(frozen=True)
class Sending:
    """One stream or exchange: what was offered, what came, and the fates of what did not."""

    name: str
    offered: int
    received: int
    fates: tuple[Fate, ...] = ()
    differences: tuple[str, ...] = ()
    """What the frames that came have otherwise than those that were sent, field by field."""
    accused: bool = False
    """The failed assertion is about this one."""

    @property
    def lost(self) -> int:
        """Offered and not received."""
        return max(0, self.offered - self.received)


@dataclass(frozen=True)
class Counted:
    """The counters of an interface when the scenario failed."""

    interface: str
    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int


@dataclass(frozen=True)
class Loss:
    """How often something was lost in one place for one reason, in the whole scenario."""

    kind: str
    interface: str
    reason: str
    place: str
    frames: int


@dataclass(frozen=True)
class MapContent:
    """What a map held at the failure, one line an entry, not all where there are many."""

    name: str
    program: str
    lines: tuple[str, ...]
    left_out: int = 0
    accused: bool = False


@dataclass(frozen=True)
class Verdict:
    """What PROG_RUN gave for frames that look alike."""

    program: str
    verdict: str
    frame: str
    """Its summary: "IP / UDP 10.0.0.1:40000 > 10.0.0.2:9000"."""
    frames: int = 1


@dataclass(frozen=True)
class Comparison:
    """The operands of the assertion that failed, as pytest saw them."""

    operator: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Evidence:
    """All of it."""

    error: str
    """The first lines of the exception: "AssertionError: assert 97 == 100"."""
    statement: str = ""
    """The source line that failed."""
    comparison: Comparison | None = None
    sendings: tuple[Sending, ...] = ()
    losses: tuple[Loss, ...] = ()
    counters: tuple[Counted, ...] = ()
    maps: tuple[MapContent, ...] = ()
    map_differences: tuple[Mapping[str, Any], ...] = ()
    """"map_assertion" notes that did not hold."""
    frame_differences: tuple[str, ...] = ()
    """Lines of expect(...).equals(...) that did not hold."""
    verdicts: tuple[Verdict, ...] = ()
    verifier: str = ""
    """Of a program that was refused: the telling lines."""
    attached: tuple[str, ...] = ()
    """"xdp_filter at server/eth0, native XDP"."""
    remarks: tuple[str, ...] = ()
    """What could not be looked at, and why."""
    files: Mapping[str, str] = field(default_factory=dict)
