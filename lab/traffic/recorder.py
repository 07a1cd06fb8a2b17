"""The recorder of frames: what happened to each in the watched namespaces, asked only when something is missing.

One for the process, loaded when a first network is watched. It stays attached until the process ends, because loading
takes 40 ms; a test's watch takes 35 µs. Seen on 2 CPUs: 1 to 4 % of the time of net.send() with thousands of messages,
nothing of floods, which pause it. See lab/instruments/recorder.bpf.c.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import instruments
from lab.errors import LabError
from lab.kernel import belongings, netns, symbols
from lab.model.journal import journal

if TYPE_CHECKING:
    from lab.bpf.program import Program
    from lab.net.network import Network

DROP_REASONS = ("skb_drop_reason", "SKB_DROP_REASON_")
XDP_ACTIONS = ("xdp_action", "XDP_")
VLAN_AT = 12
NAMESPACES = 65_536
RING_BYTES = 2 << 20
"""NAMESPACES and BYTES of lab/instruments/recorder.bpf.c."""


@dataclass(frozen=True)
class Seen:
    """A frame at one point of its way, or its end there."""

    time_ns: int
    """Since the epoch."""
    kind: str
    """"sent", "received", "dropped", "exception", "redirect refused" or "xmit refused"."""
    interface: str
    """"server/eth0"; the namespace alone where the kernel knew no interface any more."""
    raw: bytes
    """As it was there; of XDP's losses nothing."""
    length: int
    """Of the whole frame; more than `raw` where it was long, or lay in fragments."""
    skb: int
    """The same from point to point until it is freed."""
    reason: str = ""
    """Why it was dropped, in the kernel's word for it: "UDP_CSUM"."""
    place: str = ""
    """The kernel's function that dropped it."""
    ethernet: bool = True
    partial_checksum: bool = False


@dataclass(frozen=True)
class Loss:
    """How often something was lost in one place for one reason; exact."""

    kind: str
    interface: str
    reason: str
    place: str
    frames: int


@dataclass(frozen=True)
class _Bytes:
    """The frames' bytes, as the ring holds them: the last ones of `written`."""

    ring: bytes
    written: int

    def of(self, row: Any) -> bytes:
        """Those of one record; b"" where later ones lie over them."""
        at = row.at % RING_BYTES
        return self.ring[at : at + row.kept] if row.at + RING_BYTES >= self.written else b""


class Recorder:
    """Loaded and attached; use `the_recorder()`."""

    def __init__(self, *, departures: bool = False) -> None:
        from lab import bpf

        self._stack = ExitStack()
        with journal():  # the lab's own program is no news
            self._program: Program = self._stack.enter_context(bpf.load(instruments.path("recorder")))
            for name, each in self._program.programs.items():
                if departures or name != "sent":
                    self._stack.enter_context(each.attach())
        self._interfaces: dict[tuple[int, int], str] = {}
        self._reasons: dict[str, dict[int, str]] = {}
        self.start = 0
        """Where the watch began."""

    def close(self) -> None:
        """Detaches and unloads."""
        self._stack.close()

    @property
    def position(self) -> int:
        """How many records were ever written."""
        return int(self._program.globals["next"])

    @property
    def is_recording(self) -> bool:
        """Whether anything is written now."""
        return bool(self._program.globals["recording"])

    def pause(self) -> None:
        """Writes nothing until `resume`."""
        with journal():
            self._program.globals["recording"] = 0

    def resume(self) -> None:
        """Goes on."""
        with journal():
            self._program.globals["recording"] = 1

    @contextmanager
    def watching(self, net: Network) -> Iterator[Recorder]:
        """Records what happens in the namespaces of a network that is up."""
        numbers = {netns.identity(each.netns_fd)[1]: each for each in net.here}
        for number, namespace in numbers.items():
            self._interfaces[number, 0] = namespace.name
            self._interfaces.update({(number, each.ifindex): each.name for each in namespace.interfaces})
        with journal():  # what the recorder writes is no step of the scenario
            self._program.maps["losses"].clear()
            self._watch(numbers, on=True)
        self.start = self.position
        self.resume()
        try:
            yield self
        finally:
            self.pause()
            with journal():
                self._watch(numbers, on=False)
            self._interfaces.clear()

    def _watch(self, inodes: Iterable[int], *, on: bool) -> None:
        watched = self._program.maps["watched"]
        for inode in inodes:
            watched[inode % NAMESPACES] = inode if on else 0

    def records(self, start: int, end: int | None = None) -> list[Seen]:
        """What was written from a position on, as far as it was not overwritten since."""
        end = self.position if end is None else end
        ring = self._program.maps["ring"]
        start = max(start, self.position - len(ring))
        to_epoch_ns = time.time_ns() - time.monotonic_ns()
        kept = _Bytes(self._program.globals["bytes"], self._program.globals["next_byte"])
        rows = (ring[place % len(ring)] for place in range(start, end))
        return [self._seen(row, kept.of(row), to_epoch_ns) for row in rows]

    def losses(self) -> list[Loss]:
        """Everything that was lost since the network is watched, the most first."""
        found = [
            Loss(_kind(key), self._name(key), self._reason(key), symbols.function_at(key.place), frames)
            for key, frames in self._program.maps["losses"].items()
        ]
        return sorted(found, key=lambda each: -each.frames)

    def _seen(self, row: Any, raw: bytes, to_epoch_ns: int) -> Seen:
        length = row.length
        if row.vlan_proto and not row.no_ethernet:
            raw = raw[:VLAN_AT] + row.vlan_proto.to_bytes(2, "big") + row.vlan_tci.to_bytes(2, "big") + raw[VLAN_AT:]
            length += 4
        return Seen(
            time_ns=row.time_ns + to_epoch_ns,
            kind=_kind(row),
            interface=self._name(row),
            raw=raw,
            length=length,
            skb=row.skb,
            reason=self._reason(row),
            place=symbols.function_at(row.place),
            ethernet=not row.no_ethernet,
            partial_checksum=bool(row.partial_checksum),
        )

    def _name(self, row: Any) -> str:
        return self._interfaces.get((row.netns, row.ifindex)) or f"ifindex {row.ifindex}"

    def _reason(self, row: Any) -> str:
        kind = _kind(row)
        if kind == "dropped":
            return self._named(row.reason, *DROP_REASONS)
        if kind == "exception":
            return "XDP_" + self._named(row.reason, *XDP_ACTIONS)
        if kind in ("redirect refused", "xmit refused"):
            return _errno_name(row.reason)
        return ""

    def _named(self, number: int, enum: str, prefix: str) -> str:
        from lab.bpf.kernel_types import enumerators

        if enum not in self._reasons:
            self._reasons[enum] = enumerators(enum)
        return self._reasons[enum].get(number, str(number)).removeprefix(prefix)


def _kind(row: Any) -> str:
    return str(row.kind.name).lower().replace("xdp_", "").replace("_", " ")


def _errno_name(number: int) -> str:
    import errno

    return errno.errorcode.get(number, str(number)) if number else ""


_recorder: Recorder | None = None
_refused = ""


def the_recorder() -> Recorder | None:
    """The one of this process, loaded at the first call; None where the kernel refuses it (no BTF, before 5.10)."""
    global _recorder, _refused
    if _recorder is None and not _refused:
        try:
            with belongings.for_life():
                _recorder = Recorder()
                _recorder.pause()  # maps its globals into memory: that stays, too
        except LabError as error:
            _refused = str(error)
    return _recorder


def why_not() -> str:
    """Why there is no recorder, "" where there is."""
    return _refused


def end() -> None:
    """Takes the recorder off, unless it is at work; a later call of `the_recorder` loads it anew."""
    global _recorder
    if _recorder is not None and not _recorder.is_recording:
        _recorder.close()
        _recorder = None
        belongings.forget_ended()


@contextmanager
def paused() -> Iterator[None]:
    """Inside of it nothing is recorded: what floods or measures has the machine to itself."""
    if _recorder is None or not _recorder.is_recording:
        yield
        return
    _recorder.pause()
    try:
        yield
    finally:
        _recorder.resume()
