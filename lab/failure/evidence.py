"""What is known of a failed scenario, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.failure.frame import Frame

UNTOLD = ("", "0", "NOT_SPECIFIED")
"""Reasons of a kernel before 5.17, and of code that gives none (XDP's)."""


@dataclass(frozen=True)
class Loss:
    """How often something was lost in one place for one reason, and the first frame of these as it was then."""

    kind: str
    """"dropped", "exception", "redirect refused" or "xmit refused"."""
    interface: str
    """"server/eth0"."""
    reason: str
    """The kernel's word, "UDP_CSUM"; none of UNTOLD says anything."""
    place: str
    frames: int
    example: Frame | None = None


@dataclass(frozen=True)
class Sending:
    """One stream or exchange: what was offered, what came, and what was seen of it on its way."""

    name: str
    offered: int
    received: int
    """What came to its end; of an exchange, all frames that came in anywhere."""
    src: str = ""
    """The namespace it comes from."""
    dst: str = ""
    seen: Mapping[str, int] = field(default_factory=dict)
    """Frames that came to the network stack of each interface, in the order in which the first came."""
    losses: tuple[Loss, ...] = ()
    reached: str = ""
    """The farthest interface that counted frames of it."""
    differences: tuple[str, ...] = ()
    """What a frame has otherwise at the end than at the start, field by field."""
    accused: bool = False
    """The failed assertion speaks of it."""

    @property
    def lost(self) -> int:
        """Offered and not received."""
        return max(0, self.offered - self.received)


@dataclass(frozen=True)
class Counted:
    """The counters of an interface, from its beginning to the failure."""

    interface: str
    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int


@dataclass(frozen=True)
class MapContent:
    """What a map held at the failure."""

    name: str
    program: str
    kind: str
    """"hash", "percpu_array", ..."""
    entries: tuple[tuple[Any, Any], ...] = ()
    """The first of them, zeros of an array left out; per-CPU values as their total."""
    lines: tuple[str, ...] = ()
    """The same for a reader."""
    whole: tuple[str, ...] = ()
    """With nothing cut."""
    accused: bool = False
    number: int | None = None
    """Of its program among those that were loaded; None where BCC made it."""


@dataclass(frozen=True)
class Verdict:
    """What PROG_RUN gave for frames that look alike."""

    program: str
    verdict: str
    frame: str
    frames: int = 1


@dataclass(frozen=True)
class Comparison:
    """The operands of the assertion that failed."""

    operator: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Evidence:
    """All of it; what was not there is empty."""

    error: str
    """The exception in one line: "AssertionError: assert 97 == 100"."""
    statement: str = ""
    """The source line that failed."""
    missing_key: Any = None
    """Of a KeyError."""
    comparison: Comparison | None = None
    sendings: tuple[Sending, ...] = ()
    losses: tuple[Loss, ...] = ()
    """Of the whole scenario."""
    counters: tuple[Counted, ...] = ()
    maps: tuple[MapContent, ...] = ()
    map_differences: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Map, and the lines of what it had otherwise than expected."""
    frame_differences: tuple[str, ...] = ()
    """Of expect(...) that did not hold."""
    verdicts: tuple[Verdict, ...] = ()
    runs: int = 0
    """How often programs were run by PROG_RUN."""
    verifier: tuple[str, ...] = ()
    """The telling lines, of a program that was refused."""
    verifier_log: str = ""
    owners: Mapping[str, str] = field(default_factory=dict)
    """Address to namespace."""
    remarks: tuple[str, ...] = ()
    """What could not be looked at, and why."""
