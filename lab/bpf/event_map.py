"""Ring buffers and perf buffers: maps whose content is what programs sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.bpf import blind
from lab.bpf.layout import Layout
from lab.bpf.map import Facts, Map
from lab.errors import MapError, WaitTimeout
from lab.kernel.event_buffer import PerfBuffer, RingBuffer

READERS = {"ringbuf": RingBuffer, "perf_event_array": PerfBuffer}


class EventMap(Map):
    """A ring buffer or a perf buffer; reading begins with the first call of `events`, `drain` or `listen`.

    Events are structs of the object where one is named after the map ("events" holds `struct event` or the only
    `struct ..._event`), or where `type` names one; otherwise they are bytes. clang keeps a struct only if a global
    mentions it: `const struct event *unused __attribute__((unused));`.
    """

    def __init__(self, fd: int, facts: Facts, structs: Mapping[str, Layout]) -> None:
        super().__init__(fd, facts, Layout(facts.key_bytes), Layout(facts.value_bytes))
        self._structs = structs
        self._reader: RingBuffer | PerfBuffer | None = None

    def events(self, type: str = "", *, count: int | None = None, within_s: float = 1.0) -> list[Any]:
        """The next `count` events in order, or, without a count, all that are there once the first has come.

        WaitTimeout when fewer came in time; these are kept for the next call, as is what comes after them.
        """
        layout, reader = self._layout(type), self._buffer()
        wanted = 1 if count is None else count
        if not reader.wait(wanted, blind.patience_s(within_s)):
            came = [show for show in map(repr, self._decoded(layout, reader.peek()))]
            raise WaitTimeout(
                f"waited {within_s:g} s in vain for: {wanted} event{'s' * (wanted != 1)} of {self.name}; "
                f"{len(came)} came{': ' if came else ''}{'; '.join(came[:5])}"
            )
        return self._decoded(layout, reader.take(count))

    def drain(self, type: str = "") -> list[Any]:
        """All events that are there now, without waiting; [] when there are none."""
        layout, reader = self._layout(type), self._buffer()
        reader.wait(0, 0)
        return self._decoded(layout, reader.take(None))

    def listen(self) -> None:
        """Begins to read. A perf buffer keeps nothing before that; a ring buffer keeps what fits into it."""
        self._buffer()

    @property
    def lost(self) -> int:
        """Events that a perf buffer had no room for, as the kernel reports them with the next one that fits.

        0 for a ring buffer: its program is told, and counts by itself.
        """
        reader = self._buffer()
        reader.wait(0, 0)
        return reader.lost

    def close(self) -> None:
        """Ends reading; the program calls it."""
        super().close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _layout(self, name: str) -> Layout | None:
        if not name:
            return self._structs.get(self._guess())
        if name not in self._structs:
            raise MapError(
                f"decode the events of {self.name}: the object has no struct {name}",
                mend=f"it has {', '.join(self._structs) or 'none'}; a global must mention it, or clang drops it: "
                f"const struct {name} *unused __attribute__((unused));",
            )
        return self._structs[name]

    def _guess(self) -> str:
        """The struct that the map is named after."""
        one = self.name.removesuffix("s")
        if one in self._structs:
            return one
        ends = [name for name in self._structs if name.endswith(f"_{one}")]
        return ends[0] if len(ends) == 1 else ""

    def _decoded(self, layout: Layout | None, raw: list[bytes]) -> list[Any]:
        if layout is None:
            return list(raw)
        for each in raw:
            if len(each) < layout.size:
                raise MapError(
                    f"decode the events of {self.name}: {len(each)} bytes are no {layout.description} of {layout.size}",
                    mend='name another struct: events(type="...")',
                )
        return [layout.decode(each[: layout.size]) for each in raw]

    def _buffer(self) -> RingBuffer | PerfBuffer:
        if self._reader is None:
            if self.fd < 0:
                raise MapError(f"read {self.name}: its program is closed", mend="read it before")
            if self.facts.type not in READERS:
                raise MapError(f"read {self.name}: a {self.facts.type} is written by user space, and not read")
            self._reader = READERS[self.facts.type](self.fd)
        return self._reader
