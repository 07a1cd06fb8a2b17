"""Where a flood is counted."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, Self

from lab import instruments
from lab.model.action import Mode
from lab.model.journal import journal

if TYPE_CHECKING:
    from lab.net.namespace import Interface


class Counter(Protocol):
    """Knows how many frames came to an interface until now."""

    def count(self) -> int:
        """Frames until now."""


class Passage:
    """Counts the frames that an interface receives by its own counters, whatever takes them there."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface

    def count(self) -> int:
        """Frames until now."""
        return int(self._interface.counters().rx_packets)


class Sink:
    """Takes and counts every frame that comes to an interface, by native XDP; loading it takes some 30 ms."""

    def __init__(self, interface: Interface) -> None:
        from lab import bpf

        self._stack = ExitStack()
        with journal():  # the lab's own program is no news
            program = self._stack.enter_context(bpf.load(instruments.path("sink")))
            self._stack.enter_context(program.attach(interface, mode=Mode.NATIVE))
        self._globals = program.globals

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(self) -> int:
        """Frames until now."""
        return int(self._globals["received"])

    def close(self) -> None:
        """Frames pass again."""
        self._stack.close()
