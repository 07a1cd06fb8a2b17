"""How monitor_traffic looks: as a screen that fits the terminal, and as tables for a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.bpf.companion import load_module
from lab.model.table import Table

rows = load_module(Path(__file__).with_name("monitor_traffic_rows.py"))

SHORT = {
    "ESTABLISHED": "ESTAB",
    "SYN_SENT": "SYN-SENT",
    "SYN_RECV": "SYN-RECV",
    "TIME_WAIT": "TIME-W",
    "FIN_WAIT1": "FIN-W1",
    "FIN_WAIT2": "FIN-W2",
    "CLOSE_WAIT": "CLOSE-W",
    "LAST_ACK": "LAST-ACK",
    "CLOSE": "CLOSED",
}
"""As `ss` has them, more or less."""
FLOWS_FIRST = 8
"""Flows that must fit before there is room for services and events."""
MOST_FLOWS, PIPED = 500, 20
MOST_ALERTS, MOST_PORTS, MOST_EVENTS, MOST_INTERFACES = 4, 5, 5, 6
SHORTEST_END, LONGEST_END = 12, 47
"""Columns of an address with its port; the longest there is."""
NARROW = 100
"""Columns: a terminal with fewer has one space between two of them instead of two."""


@dataclass(frozen=True)
class Seen:
    """A period, and what else belongs on the screen."""

    sample: Any
    alerts: Any = None
    notes: Sequence[str] = ()
    """Of the history, and of what is served."""
    top: int | None = None
    """Flows at most; None: as many as fit, and 20 in a pipe."""
    by: str = "rate"
    recent: Sequence[Any] = ()
    """Events, the latest last."""
    started: float = field(default_factory=time.time)


# ---- Numbers in few letters ----


def bits(bytes_per_s: float) -> str:
    """Bits a second: "12.5M", "0"."""
    return scaled(bytes_per_s * 8)


def scaled(number: float) -> str:
    """Three digits and a unit.

    >>> scaled(1234567), scaled(999), scaled(0)
    ('1.23M', '999', '0')
    """
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5:
            return f"{number:.3g}{unit}" if unit else f"{number:.0f}"
        number /= 1000
    return f"{number:.0f}P"


def duration(us: float) -> str:
    """ "850us", "12.3ms", "1.2s"; "" for 0."""
    if not us:
        return ""
    if us < 1000:
        return f"{us:.0f}us"
    return f"{us / 1000:.3g}ms" if us < 999_500 else f"{us / 1e6:.3g}s"


def fit(text: str, width: int) -> str:
    """Cut in the middle, so that a port and the start of an address stay.

    >>> fit("[2001:db8::1234:5678]:443", 15)
    '[2001:d…78]:443'
    """
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - tail - 1]}…{text[-tail:]}" if width > 2 else text[:width]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


# ---- The screen ----


@dataclass(frozen=True)
class Column:
    """A column of flows; `least` is how wide a terminal must be to have it."""

    title: str
    width: int
    text: Callable[[Any], str]
    least: int = 0
    right: bool = True


def _idle(now_ns: int) -> Callable[[Any], str]:
    return lambda row: f"{max(0, now_ns - row.flow.last_ns) / 1e9:.0f}s"


def _flags(row: Any) -> str:
    flow = row.flow
    return f"{rows.letters(flow.opener.flags)}/{rows.letters(flow.answerer.flags)}" if flow.protocol == "tcp" else ""


def _ratio(row: Any) -> str:
    return str(row.flow.retransmits) if row.flow.retransmits else ""


def flow_columns(now_ns: int) -> list[Column]:
    """Those behind the two ends."""
    return [
        Column("state", 8, lambda row: SHORT.get(row.flow.state, row.flow.state), right=False),
        Column("out b/s", 7, lambda row: bits(row.bytes_out / row.seconds)),
        Column("in b/s", 7, lambda row: bits(row.bytes_in / row.seconds)),
        Column("rtt", 6, lambda row: duration(row.flow.rtt_us)),
        Column("process", 15, lambda row: row.process, 110, right=False),
        Column("bytes", 7, lambda row: scaled(row.flow.bytes), 100),
        Column("packets", 7, lambda row: scaled(row.flow.packets), 130),
        Column("resent", 6, _ratio, 100),
        Column("flags", 11, _flags, 150, right=False),
        Column("idle", 5, _idle(now_ns), 120),
    ]


class Screen:
    """What rich prints: as many lines as the terminal has, none of them folded."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        lines = list(self.lines(options.max_width, console.size.height))
        yield Text("\n", no_wrap=True, overflow="crop").join(
            Text(rows.clean(line)[: options.max_width], style) for line, style in lines
        )

    def lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """Each with its style."""
        seen, sample = self._seen, self._seen.sample
        above = [self._head(width), *self._interfaces(), *self._alerts(width)]
        ports, notes = self._ports(width), [(fit(note, width), "dim") for note in (*seen.notes, *_untracked(sample))]
        parts = [part for part in (ports, self._events(width)) if part]
        room = height - 2 - len(above) - len(notes)  # a line of titles, and one where the cursor stays
        flows = min(len(sample.flows), seen.top or MOST_FLOWS)
        while parts and room - sum(map(len, parts)) < min(flows, FLOWS_FIRST):
            parts.pop()
        room = max(1, room - sum(map(len, parts)))
        below = [line for part in parts for line in part]
        return [*above, *self._flows(width, min(room, flows)), *below, *notes][: height - 1]

    def _head(self, width: int) -> tuple[str, str]:
        sample = self._seen.sample
        lasted = time.strftime("%H:%M:%S", time.gmtime(max(0, sample.at - self._seen.started)))
        new, again = sample.grown["FLOW_OPENED"] / sample.seconds, sample.grown["SEGMENT_RETRANSMITTED"]
        told = f"{len(sample.flows):,} flows, {scaled(new)} new/s, {again:,} segments resent"
        clock = time.strftime("%H:%M:%S", time.localtime(sample.at))
        return _cut(f"monitor_traffic  {clock}, up {lasted}  {told}", width), "bold"

    def _interfaces(self) -> Iterator[tuple[str, str]]:
        every = by_interface(self._seen.sample.interfaces)
        width = max(map(len, every), default=0)
        for name, (came, went) in list(every.items())[:MOST_INTERFACES]:
            yield f"{name:{width}}  in {_rates(came)}   out {_rates(went)}", ""
        if len(every) > MOST_INTERFACES:
            yield f"and {len(every) - MOST_INTERFACES} more interfaces", "dim"

    def _alerts(self, width: int) -> Iterator[tuple[str, str]]:
        active = self._seen.alerts.active if self._seen.alerts else []
        for alert in active[:MOST_ALERTS]:
            since = time.strftime("%H:%M:%S", time.localtime(alert.since))
            yield _cut(f"! {since} {alert}", width), "bold red"
        if len(active) > MOST_ALERTS:
            yield f"! and {len(active) - MOST_ALERTS} more alerts", "bold red"

    def _flows(self, width: int, most: int) -> Iterator[tuple[str, str]]:
        sample = self._seen.sample
        columns = [each for each in flow_columns(time.monotonic_ns()) if each.least <= width]
        shown = sample.flows.top(most, self._seen.by)
        gap = 1 if width < NARROW else 2
        rest = width - 5 - 2 * gap - sum(each.width + gap for each in columns)
        longest = max((len(str(end)) for row in shown for end in (row.flow.opener, row.flow.answerer)), default=0)
        end = max(SHORTEST_END, min(LONGEST_END, longest, rest // 2))
        yield self._line(columns, (end, gap), ("", "from", "to"), [each.title for each in columns]), "dim"
        for row in shown:
            flow = row.flow
            told = [each.text(row) for each in columns]
            style = "" if row.bytes_out or row.bytes_in else "dim"
            yield self._line(columns, (end, gap), (flow.protocol, str(flow.opener), str(flow.answerer)), told), style
        if not shown:
            yield "no packets yet", "dim"

    def _line(
        self, columns: Sequence[Column], room: tuple[int, int], ends: tuple[str, str, str], told: Sequence[str]
    ) -> str:
        (end, gap), (protocol, source, dest) = room, ends
        parts = [f"{protocol[:5]:5}", f"{fit(source, end):{end}}", f"{fit(dest, end):{end}}"]
        for column, text in zip(columns, told, strict=True):
            cut = fit(text, column.width)
            parts.append(cut.rjust(column.width) if column.right else cut.ljust(column.width))
        return (" " * gap).join(parts).rstrip()

    def _ports(self, width: int) -> list[tuple[str, str]]:
        busiest = self._seen.sample.ports.top(MOST_PORTS)
        if not busiest:
            return []
        told = [(f"{'service':16}{'to bit/s':>10}{'from bit/s':>12}{'bytes to':>10}{'bytes from':>12}", "dim")]
        for row in busiest:
            name, port = f"{row.port.protocol}/{row.port.number}", row.port
            rates = f"{bits(row.bytes_in / row.seconds):>10}{bits(row.bytes_out / row.seconds):>12}"
            told.append((f"{name:16}{rates}{scaled(port.bytes_in):>10}{scaled(port.bytes_out):>12}", ""))
        return [("", ""), *told]

    def _events(self, width: int) -> list[tuple[str, str]]:
        latest = list(self._seen.recent)[-MOST_EVENTS:]
        return [("", ""), *((_cut(str(event), width), "") for event in latest)] if latest else []


def by_interface(interfaces: Sequence[Any]) -> dict[str, tuple[Any, Any]]:
    """What came in, by XDP or else by tc, and what went out; None where that layer is not attached."""
    layers: dict[str, dict[str, Any]] = {}
    for each in interfaces:
        layers.setdefault(each.name, {})[each.layer] = each
    return {
        name: (found.get("XDP") or found.get("TC_INGRESS"), found.get("TC_EGRESS")) for name, found in layers.items()
    }


def summary_text(sample: Any) -> str:
    """ "12 flows, 146 packets in, 146 out; in no flow: nothing"."""
    both = by_interface(sample.interfaces).values()
    came, went = (sum(ends[way].packets for ends in both if ends[way]) for way in (0, 1))
    missed = missed_text(sample.untracked) or "nothing"
    return f"{sample.happened['FLOW_OPENED']:,} flows, {came:,} packets in, {went:,} out; in no flow: {missed}"


def _rates(count: Any) -> str:
    if count is None:
        return f"{'-':>6} bit/s {'-':>6} packets/s"
    return f"{bits(count.bytes_per_s):>6} bit/s {scaled(count.packets_per_s):>6} packets/s"


def _untracked(sample: Any) -> Iterator[str]:
    missed = missed_text(sample.untracked)
    if missed:
        yield f"in no flow: {missed}"
    if sample.evicted:
        yield f"{sample.evicted:,} flows made room for others"


def missed_text(untracked: Mapping[str, int]) -> str:
    """ "12 not_ip, 1 fragment"; "" for nothing."""
    return ", ".join(f"{times:,} {name.lower()}" for name, times in untracked.items() if times)


# ---- Tables, for a pipe ----


def tables(seen: Seen) -> list[Table]:
    """Flows, ports, interfaces and alerts: raw values."""
    found = [_flow_table(seen), _port_table(seen), _interface_table(seen.sample)]
    return [*found, _alert_table(seen.alerts)] if seen.alerts is not None and seen.alerts.rules else found


def _flow_table(seen: Seen) -> Table:
    now_ns = time.monotonic_ns()
    columns = ("proto", "from", "to", "state", "flags", "pkts out", "bytes out", "pkts in", "bytes in", "bytes/s")
    told = [
        (*_row(each), round((now_ns - each.flow.last_ns) / 1e9, 1))
        for each in seen.sample.flows.top(seen.top or PIPED, seen.by)
    ]
    missed = missed_text(seen.sample.untracked) or "nothing"
    notes = [
        f"in no flow: {missed}",
        *([f"{seen.sample.evicted} made room"] if seen.sample.evicted else []),
        *seen.notes,
    ]
    columns = (*columns, "rtt us", "resent", "process", "idle s")
    return Table(f"{len(seen.sample.flows)} flows", columns, told, note="; ".join(notes))


def _row(each: Any) -> tuple[Any, ...]:
    flow, out, back = each.flow, each.flow.opener, each.flow.answerer
    numbers = (out.packets, out.bytes, back.packets, back.bytes, round(each.bytes_per_s), flow.rtt_us, flow.retransmits)
    return (flow.protocol, str(out), str(back), flow.state, _flags(each), *numbers, each.process)


def _port_table(seen: Seen) -> Table:
    told = [(row.port.protocol, row.port.number, *_port(row)) for row in seen.sample.ports.top(seen.top or PIPED)]
    columns = ("proto", "port", "pkts to", "bytes to", "pkts from", "bytes from", "bytes/s")
    return Table("service ports", columns, told)


def _port(row: Any) -> tuple[int, ...]:
    port = row.port
    return port.packets_in, port.bytes_in, port.packets_out, port.bytes_out, round(row.bytes_per_s)


def _interface_table(sample: Any) -> Table:
    told = [
        (each.name, each.layer, each.packets, each.bytes, round(each.packets_per_s), round(each.bytes_per_s))
        for each in sample.interfaces
    ]
    columns = ("interface", "layer", "packets", "bytes", "packets/s", "bytes/s")
    return Table("interfaces, by layer", columns, told)


def _alert_table(alerts: Any) -> Table:
    told = [(each.rule.name, each.subject, each.evidence) for each in alerts.active]
    fired = ", ".join(f"{name}: {times}" for name, times in alerts.fired.items())
    return Table("alerts", ("rule", "subject", "evidence"), told, note=f"fired so far: {fired}")
