"""Floods of frames of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.traffic.flood import CHUNK, Amount, AnyFlood, Flood

if TYPE_CHECKING:
    from lab.net.namespace import Interface


@dataclass(frozen=True)
class FrameMix:
    """Frames and how many of each come in a round: ((short, 7), (middle, 4), (long, 1))."""

    parts: tuple[tuple[bytes, int], ...]

    @property
    def round_frames(self) -> int:
        """Frames in a round."""
        return sum(number for _, number in self.parts)

    @property
    def frame_bytes(self) -> float:
        """The mean."""
        return sum(len(frame) * number for frame, number in self.parts) / self.round_frames

    def numbers(self, first: int, last: int) -> list[int]:
        """How many of each part lie between two places in the sequence of rounds.

        >>> FrameMix(((b"a", 7), (b"b", 4), (b"c", 1))).numbers(6, 24)
        [8, 8, 2]
        """
        return [after - before for before, after in zip(self._until(first), self._until(last), strict=True)]

    def _until(self, place: int) -> list[int]:
        """How many of each part come before a place."""
        rounds, rest = divmod(place, self.round_frames)
        found = []
        for _, number in self.parts:
            found.append(rounds * number + min(rest, number))
            rest = max(0, rest - number)
        return found


class MixedFlood(AnyFlood):
    """Live frames of a mix. Sizes take turns within a chunk, a millisecond when paced, and not frame by frame."""

    via = "live"

    def __init__(self, source: Interface, mix: FrameMix, *, flows: int = 1) -> None:
        super().__init__(source, mix.parts[0][0], flows=flows)
        self.frame_bytes = mix.frame_bytes
        self._mix = mix
        self._floods = [self._stack.enter_context(Flood(source, frame, flows=flows)) for frame, _ in mix.parts]

    def offer(self, amount: Amount) -> tuple[int, float]:
        """The parts by turns."""
        sent = 0

        def send(chunk: int) -> int:
            nonlocal sent
            for flood, number in zip(self._floods, self._mix.numbers(sent, sent + chunk), strict=True):
                if number:
                    flood.make(number)
            sent += chunk
            return chunk

        with ExitStack() as stack:
            made: list[Callable[[], int]] = [stack.enter_context(flood.making()) for flood in self._floods]
            cpu_s = amount.send(send, CHUNK)
            offered = sum(count() for count in made)
        return offered, cpu_s
