"""Readings of monitor_traffic's maps, and what came between two of them: rates.

A table of 65,536 flows is read and compared as arrays; only rows that somebody asks for become objects.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.bpf.companion import load_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

rows = load_module(Path(__file__).with_name("monitor_traffic_rows.py"))

KEPT_EVENTS = 1000
"""Of a period: what comes beyond is counted alone."""
SIDES = (0, 1)
FIELDS = ("packets", "bytes", "retransmits", "srtt_us", "state", "flags", "process", "handshake_us")
"""Of a side, as columns."""
SORTED_BY = ("rate", "bytes", "packets", "rtt", "retransmits", "last")


@dataclass(frozen=True)
class Row:
    """A flow, and what it did in the period."""

    flow: Any
    seconds: float
    is_new: bool
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    retransmits: int
    process: str = ""
    """The name of its process; "" where that is not known."""

    @property
    def bytes_per_s(self) -> float:
        """Of both directions."""
        return (self.bytes_out + self.bytes_in) / self.seconds


@dataclass(frozen=True)
class PortRow:
    """A service's port, and what it did in the period."""

    port: Any
    seconds: float
    bytes_in: int
    bytes_out: int
    packets_in: int
    packets_out: int

    @property
    def bytes_per_s(self) -> float:
        """Of both directions."""
        return (self.bytes_in + self.bytes_out) / self.seconds


@dataclass(frozen=True)
class Interface:
    """What a layer of an interface saw, in all and in the period."""

    name: str
    layer: str
    packets: int
    bytes: int
    packets_per_s: float
    bytes_per_s: float


# ---- Entries as arrays ----


def column(layout: Any, path: str) -> tuple[int, int]:
    """Offset and size in bytes of a member: column(values, "sides.1.packets")."""
    at = 0
    for part in path.split("."):
        if part.isdigit():
            layout, at = layout.element, at + int(part) * layout.element.size
            continue
        member, layout = next(each for each in layout.members if each[0].name == part)
        at += member.offset_bits // 8
        if member.bits:
            return at, -(-member.bits // 8)
    return at, layout.size


def columns(layout: Any, paths: Sequence[str]) -> Any:
    """The numpy type in which these members of an entry are columns, by their paths."""
    import numpy as np

    places = [column(layout, path) for path in paths]
    formats = [f"u{size}" for _, size in places]
    kind = {"names": list(paths), "formats": formats, "offsets": [at for at, _ in places], "itemsize": layout.size}
    return np.dtype(kind)


class FlowArrays:
    """All flows of one reading: a key of 5 words, and the columns of its value."""

    mixers: NDArray[Any] | None = None
    """Odd numbers that nobody can guess, so that nobody makes flows of one hash."""

    def __init__(self, table: Any) -> None:
        import numpy as np

        paths = [f"sides.{side}.{name}" for side in SIDES for name in FIELDS]
        kind = columns(table.value_layout, [*paths, "first_ns", "last_ns", "opener"])
        batches = list(table.raw_entries())
        keys = b"".join(each[0] for each in batches)
        self.raw_keys, self.raw_values = keys, b"".join(each[1] for each in batches)
        self.keys = np.frombuffer(keys, np.uint64).reshape(-1, table.facts.key_bytes // 8)
        self.values = np.frombuffer(self.raw_values, kind)
        self.fields = np.frombuffer(keys, columns(table.key_layout, ("lower_port", "upper_port", "protocol")))
        if FlowArrays.mixers is None:
            FlowArrays.mixers = np.array([secrets.randbits(64) | 1 for _ in range(self.keys.shape[1])], np.uint64)
        mixed = self.keys * FlowArrays.mixers
        self.hashes = (mixed ^ mixed >> np.uint64(29)).sum(axis=1, dtype=np.uint64)
        self.order = np.argsort(self.hashes)

    def __len__(self) -> int:
        return len(self.keys)

    def side(self, name: str) -> NDArray[Any]:
        """Of both sides, in two columns: what the opener sent, and what the answerer sent."""
        import numpy as np

        both = np.stack([self.values[f"sides.{side}.{name}"] for side in SIDES], axis=1)
        opener = (self.values["opener"] & 1).astype(bool)
        both[opener] = both[opener][:, ::-1]
        return both

    def places_in(self, before: FlowArrays) -> NDArray[Any]:
        """Where each flow was in the earlier reading; -1 where it was not, or was another one of the same ports."""
        import numpy as np

        if not len(self) or not len(before):
            return np.full(len(self), -1)
        at = np.searchsorted(before.hashes, self.hashes, sorter=before.order)
        places = before.order[np.minimum(at, len(before) - 1)]
        same = (before.keys[places] == self.keys).all(axis=1)
        same &= before.values["first_ns"][places] == self.values["first_ns"]
        return np.where(same, places, -1)


class Flows:
    """All flows now, and what each did since the reading before."""

    def __init__(self, table: Any, names: Mapping[int, str], before: Flows | None, seconds: float) -> None:
        self._table, self._names, self.seconds = table, names, seconds
        self.now = FlowArrays(table)
        self.places = self.now.places_in(before.now) if before else None
        self._before = before.now if before else None
        _ = self.packets, self.bytes, self.retransmits
        self._before = None  # three readings would be kept by two

    def __len__(self) -> int:
        return len(self.now)

    def _grown(self, name: str) -> NDArray[Any]:
        import numpy as np

        now = self.now.side(name).astype(np.int64)
        if self._before is None or self.places is None or not len(self._before):
            return now
        was = self._before.side(name).astype(np.int64)[self.places]
        was[self.places < 0] = 0
        return np.maximum(now - was, 0)

    @cached_property
    def packets(self) -> NDArray[Any]:
        """Of the period: the opener's, the answerer's."""
        return self._grown("packets")

    @cached_property
    def bytes(self) -> NDArray[Any]:
        """As `packets`."""
        return self._grown("bytes")

    @cached_property
    def retransmits(self) -> NDArray[Any]:
        """As `packets`."""
        return self._grown("retransmits")

    @cached_property
    def is_new(self) -> NDArray[Any]:
        """Which were not there before."""
        import numpy as np

        return np.ones(len(self), bool) if self.places is None else self.places < 0

    @cached_property
    def rtt_us(self) -> NDArray[Any]:
        """The larger of the two sockets' smoothed RTT, or else the handshake's; 0: not known."""
        import numpy as np

        srtt, handshake = self.now.side("srtt_us").max(axis=1), self.now.side("handshake_us")
        whole = np.where((handshake > 0).all(axis=1), handshake.sum(axis=1), 0)
        return np.where(srtt > 0, srtt, whole)

    def of(self, protocol: int, port: int) -> NDArray[Any]:
        """Which are of that protocol, with that port at either end."""
        wire, fields = socket.htons(port), self.now.fields
        ends = (fields["lower_port"] == wire) | (fields["upper_port"] == wire)
        found: NDArray[Any] = (fields["protocol"] == protocol) & ends
        return found

    def key(self, place: int) -> bytes:
        """What a flow is known by."""
        width = self._table.facts.key_bytes
        return self.now.raw_keys[place * width :][:width]

    def row(self, place: int) -> Row:
        """One flow as an object."""
        width = self._table.facts.value_bytes
        raw = self.now.raw_values[place * width :][:width]
        flow = rows.flow_of(self._table.key_layout.decode(self.key(place)), self._table.value_layout.decode(raw))
        packets, size = self.packets[place], self.bytes[place]
        return Row(
            flow=flow,
            seconds=self.seconds,
            is_new=bool(self.is_new[place]),
            packets_out=int(packets[0]),
            bytes_out=int(size[0]),
            packets_in=int(packets[1]),
            bytes_in=int(size[1]),
            retransmits=int(self.retransmits[place].sum()),
            process=self._names.get(flow.process, ""),
        )

    def top(self, count: int, by: str = "rate") -> list[Row]:
        """The first of them, sorted by one of SORTED_BY; by rate, those without any by their bytes."""
        return [self.row(place) for place in self.places_by(by, count)]

    def places_by(self, by: str, count: int) -> list[int]:
        """Where the greatest are."""
        import numpy as np

        weight = self._weight(by)
        if count < len(weight):
            first = np.argpartition(weight, -count)[-count:] if count else []
        else:
            first = np.arange(len(weight))
        return sorted((int(each) for each in first), key=lambda place: weight[place], reverse=True)

    def _weight(self, by: str) -> NDArray[Any]:
        total = self.now.side("bytes").sum(axis=1).astype(float)
        if by == "rate":
            return self.bytes.sum(axis=1) + total / (1 << 62)  # type: ignore[no-any-return]
        if by == "rtt":
            return self.rtt_us
        if by == "last":
            return self.now.values["last_ns"]  # type: ignore[no-any-return]
        return total if by == "bytes" else self.now.side(by).sum(axis=1)  # type: ignore[no-any-return]

    def by_state(self) -> dict[tuple[str, str], int]:
        """How many flows of each protocol are in each state."""
        import numpy as np

        if not len(self):
            return {}
        state, flags = self.now.side("state"), self.now.side("flags")
        told = np.column_stack([self.now.fields["protocol"], state, flags]).astype(np.int64)
        _, places, counts = np.unique(told, axis=0, return_index=True, return_counts=True)
        found: dict[tuple[str, str], int] = {}
        for place, count in zip(places, counts, strict=True):
            flow = self.row(int(place)).flow
            name = flow.protocol, flow.state
            found[name] = found.get(name, 0) + int(count)
        return found

    def rtt_quantiles(self, fractions: Sequence[float]) -> dict[float, float]:
        """In seconds, over the flows that have one; {} where none has."""
        import numpy as np

        known = self.rtt_us[self.rtt_us > 0]
        if not len(known):
            return {}
        return {each: float(np.quantile(known, each)) / 1e6 for each in fractions}


class Ports:
    """The ports of services, and what each did since the reading before; numbers in, bytes in, out, out."""

    COUNTS = ("asked.packets", "asked.bytes", "answered.packets", "answered.bytes")

    def __init__(self, table: Any, before: Ports | None, seconds: float) -> None:
        import numpy as np

        self.seconds = seconds
        batches = list(table.raw_entries())
        keys = np.frombuffer(b"".join(each[0] for each in batches), columns(table.key_layout, ("protocol", "number")))
        raw = np.frombuffer(b"".join(each[1] for each in batches), columns(table.value_layout, self.COUNTS))
        every_cpu = np.column_stack([raw[name] for name in self.COUNTS]).astype(np.int64)
        names = keys["protocol"].astype(np.int64) << 16 | keys["number"]
        order = np.argsort(names)
        self.names = names[order]
        self.counts = every_cpu.reshape(len(keys), -1, len(self.COUNTS)).sum(axis=1)[order] if len(keys) else every_cpu
        self.grown = self.counts - self._earlier(before)

    def _earlier(self, before: Ports | None) -> NDArray[Any]:
        import numpy as np

        if before is None or not len(before.names) or not len(self.names):
            return np.zeros_like(self.counts)
        at = np.minimum(np.searchsorted(before.names, self.names), len(before.names) - 1)
        return np.where((before.names[at] == self.names)[:, None], before.counts[at], 0)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rates(self) -> NDArray[Any]:
        """Bytes a second of both directions."""
        return (self.grown[:, 1] + self.grown[:, 3]) / self.seconds  # type: ignore[no-any-return]

    def row(self, place: int) -> PortRow:
        """One port as an object."""
        name = int(self.names[place])
        port = rows.Port(rows.protocol_name(name >> 16), name & 0xFFFF, *map(int, self.counts[place]))
        packets_in, bytes_in, packets_out, bytes_out = map(int, self.grown[place])
        return PortRow(port, self.seconds, bytes_in, bytes_out, packets_in, packets_out)

    def top(self, count: int) -> list[PortRow]:
        """The busiest of the period, then those that have been."""
        if not len(self):
            return []
        total = self.counts[:, 1] + self.counts[:, 3]
        weight = self.rates + total / (1 << 62)
        order = weight.argsort()[::-1][:count]
        return [self.row(int(place)) for place in order]


# ---- All maps at once ----


@dataclass(frozen=True)
class Sample:
    """What the maps held at one time, and what came since the time before."""

    at: float
    """Seconds since 1970."""
    seconds: float
    """The period's length."""
    flows: Flows
    ports: Ports
    interfaces: tuple[Interface, ...]
    untracked: Mapping[str, int]
    happened: Mapping[str, int]
    """By enum happening, in all."""
    connections: Mapping[str, int]
    """By enum kind, in all."""
    grown: Mapping[str, int] = field(default_factory=dict)
    """Of `happened` and `connections`: in the period."""
    events: tuple[Any, ...] = ()
    """The latest of the period."""
    left_out: int = 0
    """Events of the period that are not among them."""

    @property
    def evicted(self) -> int:
        """Flows that made room for others since the program was loaded."""
        happened = self.happened
        return max(0, happened["FLOW_OPENED"] - happened["FLOW_REPLACED"] - len(self.flows))


class Sampler:
    """Takes one Sample after another of a program's maps."""

    def __init__(self, maps: Mapping[str, Any]) -> None:
        self._maps = maps
        self._started = time.monotonic()
        self._last: Sample | None = None
        self._counts: dict[tuple[int, str], tuple[int, int]] = {}

    def begin(self) -> None:
        """What was there before now is nobody's rate; its events are kept for the first sample."""
        self._read([])

    def take(self) -> Sample:
        """Reads the maps once."""
        return self._read(self._maps["events"].drain())

    def _read(self, events: Sequence[Any]) -> Sample:
        now = time.monotonic()
        seconds, self._started = max(now - self._started, 1e-3), now
        happened, connections = self._totals("happenings"), self._totals("connections")
        earlier = {**self._last.happened, **self._last.connections} if self._last else {}
        self._last = Sample(
            at=time.time(),
            seconds=seconds,
            flows=self._flows(seconds),
            ports=Ports(self._maps["ports"], self._last.ports if self._last else None, seconds),
            interfaces=tuple(self._interfaces(seconds)),
            untracked=self._totals("outcomes"),
            happened=happened,
            connections=connections,
            grown={name: times - earlier.get(name, 0) for name, times in {**happened, **connections}.items()},
            events=tuple(map(rows.event_of, events[-KEPT_EVENTS:])),
            left_out=max(0, len(events) - KEPT_EVENTS),
        )
        return self._last

    def _flows(self, seconds: float) -> Flows:
        return Flows(self._maps["flows"], self._names(), self._last.flows if self._last else None, seconds)

    def _names(self) -> dict[int, str]:
        return {process: rows.clean(name.bytes) for process, name in self._maps["processes"].items()}

    def _totals(self, name: str) -> dict[str, int]:
        return {each.name: times.total() for each, times in self._maps[name].items()}

    def _interfaces(self, seconds: float) -> Iterator[Interface]:
        for (ifindex, layer), count in sorted(layers(self._maps).items()):
            packets, size = self._counts.get((ifindex, layer), (0, 0))
            self._counts[ifindex, layer] = count.packets, count.bytes
            rates = (count.packets - packets) / seconds, (count.bytes - size) / seconds
            yield Interface(interface_name(ifindex), layer, count.packets, count.bytes, *rates)


def layers(maps: Mapping[str, Any]) -> dict[tuple[int, str], Any]:
    """Packets and bytes (`.packets`, `.bytes`) of each interface (ifindex) at each layer that saw some."""
    met = [(number, place) for number, place in maps["places"].items() if place.ifindex]
    names = ("XDP", "TC_INGRESS", "TC_EGRESS")
    return {
        (place.ifindex, name): maps["interfaces"].total(number * len(names) + layer)
        for number, place in met
        for layer, name in enumerate(names)
        if place.layers >> layer & 1
    }


def interface_name(ifindex: int) -> str:
    """In the calling thread's namespace; its number where it has none."""
    try:
        return rows.clean(socket.if_indextoname(ifindex))  # type: ignore[no-any-return]
    except OSError:
        return str(ifindex)
