"""What user space does with analyze_tcp: follows connections, and says what is not as it should be, with the evidence.

program = load(bpf, namespaces=(inode_of(net["server"]),))      # a bpf.load("analyze_tcp") that knows the knobs
with attached(program):
    analysis = Analysis(program)
    ...                                                         # traffic
    analysis.collect()
    for each in analysis.anomalies([net["server"]]):
        print(each)     # RETRANSMIT_STORM 10.0.0.1:40000 -> 10.0.0.2:80: 14 retransmits within a second
    print(analysis.lives[0].timeline())
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from html import escape
from ipaddress import IPv6Address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.bpf.iterate import iterate
from lab.model.table import Table

NS_PER_MS = 1e6
MOST_EVENTS = 500
"""Of one connection, the oldest; a storm needs no more to be seen."""
MOST_LIVES = 10_000
ITERATOR = "survey"
OURS, PEERS = 1, 0


def load(bpf: Any, *, namespaces: tuple[int, ...] = (), samples: int = 0, **knobs: Any) -> Any:
    """Loads it for some network namespaces, by inode number, or for all.

    Options:
        namespaces: inode number of a network namespace (stat -Lc %i /proc/PID/ns/net); the whole machine if not said
        samples: ms between two samples of RTT and congestion window of a connection; 0: none
    """
    watched = [*namespaces, *[0] * (8 - len(namespaces))]
    if len(watched) > 8:
        raise ValueError(f"namespaces: {len(namespaces)} of them, and 8 are the most")
    return bpf.load("analyze_tcp", namespaces=watched, sample_every_ms=samples, **knobs)


def inode_of(namespace: Any) -> int:
    """The number by which the kernel's tracepoints know a namespace (anything with a `netns_fd`)."""
    return os.fstat(namespace.netns_fd).st_ino


@contextmanager
def attached(program: Any) -> Iterator[None]:
    """All of its tracepoints."""
    with ExitStack() as stack:
        for each in _tracepoints(program):
            stack.enter_context(each.attach())
        yield


def attach(program: Any, place: Any) -> Iterator[Any]:
    """For lab attach: all of its tracepoints."""
    for each in _tracepoints(program):
        yield from place.attach(each)


def _tracepoints(program: Any) -> list[Any]:
    return [each for name, each in program.programs.items() if name != ITERATOR]


# ---- What happened ----


@dataclass(frozen=True)
class Moment:
    """Something that happened to a connection, `at_ns` CLOCK_MONOTONIC; `what` is an enum happening."""

    at_ns: int
    what: str
    state: str
    words: str


@dataclass
class Life:
    """A connection from when it was first seen; what is not known yet is 0 or empty."""

    cookie: int
    local: str = ""
    remote: str = ""
    role: str = "UNKNOWN"
    state: str = ""
    opened_ns: int = 0
    closed_ns: int = 0
    spent_ms: dict[str, float] = field(default_factory=dict)
    handshake_ms: float = 0.0
    retransmits: int = 0
    worst_second: int = 0
    srtt_us: int = 0
    segments_out: int = 0
    segments_in: int = 0
    zero_ms: tuple[float, float] = (0.0, 0.0)
    """By the peer's window, and by ours."""
    zero_times: tuple[int, int] = (0, 0)
    error: int = 0
    reset_by: str = ""
    """ "us", "the peer" or ""."""
    reset_why: str = ""
    moments: list[Moment] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Both ends."""
        return f"{self.local} -> {self.remote}"

    def take(self, record: Any, at_ns: int) -> None:
        """What the kernel's record says, as of `at_ns`."""
        states = type(record.state)
        spent = {states(place).name: each / NS_PER_MS for place, each in enumerate(record.spent_ns) if each}
        state = record.state.name
        if state != "CLOSE":
            spent[state] = spent.get(state, 0.0) + max(0, at_ns - record.since_ns) / NS_PER_MS
        self.local, self.remote = show(record.ends.local, record.ends.local_port), _remote(record.ends)
        self.role, self.state, self.opened_ns, self.spent_ms = record.role.name, state, record.opened_ns, spent
        self.handshake_ms = record.handshake_ns / NS_PER_MS
        self.retransmits, self.worst_second = record.retransmits, record.worst_second
        self.srtt_us, self.error = record.srtt_us, record.error
        self.segments_out, self.segments_in = record.segments_out, record.segments_in
        still = [at_ns - since if since and not self.closed_ns else 0 for since in record.zero_since_ns]
        peers, ours = ((each + more) / NS_PER_MS for each, more in zip(record.zero_ns, still, strict=True))
        self.zero_ms, self.zero_times = (peers, ours), tuple(record.zero_times)

    def timeline(self) -> str:
        """A line for each moment, times in ms since the first."""
        lines = [f"{self.name}  {self.role.lower()}, {self.state}"]
        lines += [f"{(each.at_ns - self.moments[0].at_ns) / NS_PER_MS:10.3f} ms  {each.words}" for each in self.moments]
        return "\n".join(lines)


def show(address: IPv6Address, port: int) -> str:
    """ "10.0.0.1:80" or "[fd00::1]:80"."""
    return f"{address.ipv4_mapped}:{port}" if address.ipv4_mapped else f"[{address}]:{port}"


def _remote(ends: Any) -> str:
    return show(ends.remote, ends.remote_port)


def words(event: Any) -> str:
    """What an event says, for a person."""
    whose = "our" if event.ours else "the peer's"
    said = {
        "STATE": f"{event.before.name} -> {event.state.name}",
        "RETRANSMIT": f"retransmit in {event.state.name}, {event.number} within a second",
        "RESET_SENT": f"reset sent in {event.state.name}: {event.why.name.lower().replace('_', ' ')}",
        "RESET_RECEIVED": f"reset received in {event.state.name}",
        "ZERO_WINDOW": f"{whose} window is zero",
        "WINDOW_OPEN": f"{whose} window is open, after {event.number} ms",
        "SAMPLE": f"srtt {event.number} us, congestion window {event.window}",
    }
    return said[event.what.name]


@dataclass(frozen=True)
class Refusal:
    """A reset that was sent for want of a listener, or of a connection."""

    at_ns: int
    local: str
    remote: str
    remote_address: str
    local_port: int


@dataclass(frozen=True)
class Survey:
    """What waits at the listeners of a namespace, and what its kernel has counted since the last survey."""

    listeners: list[Any]
    half_open: list[Any]
    counted: dict[str, int]


@dataclass(frozen=True)
class Anomaly:
    """What is not as it should be, where, and by what one can tell."""

    kind: str
    where: str
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.where}: {'; '.join(self.evidence)}"


@dataclass(frozen=True)
class Limits:
    """From when on it is an anomaly."""

    half_open: int = 64
    """Handshakes at one listener that are not done."""
    storm: int = 10
    """Retransmits of one connection within a second."""
    zero_ms: float = 100.0
    """A window of zero, all such times of a connection together."""
    refusals: int = 20
    """Ports that one address was refused at."""
    pending: int = 16
    """Connections of our own to one place that have had no answer for `pending_ms`."""
    pending_ms: float = 500.0


COOKIES = ("SyncookiesSent", "TCPReqQFullDoCookies", "TCPReqQFullDrop", "ListenOverflows", "ListenDrops")
"""Of TcpExt in /proc/net/netstat: what the kernel does when a listener has no room."""


class Analysis:
    """Reads a program's events as they come, and keeps what they say of each connection."""

    def __init__(self, program: Any, limits: Limits = Limits()) -> None:
        self.program = program
        self.limits = limits
        self.by_cookie: dict[int, Life] = {}
        self.refusals: deque[Refusal] = deque(maxlen=MOST_LIVES)
        self.synack_retransmits: Counter[str] = Counter()
        self._counted: dict[int, dict[str, int]] = {}

    @property
    def lives(self) -> list[Life]:
        """All connections seen, the first opened first."""
        return sorted(self.by_cookie.values(), key=lambda each: each.opened_ns)

    @property
    def lost(self) -> int:
        """Events for which a ring buffer had no room."""
        return int(self.program.maps["totals"].total("EVENT_LOST"))

    def collect(self) -> None:
        """All that has happened since, and the records as they stand."""
        maps = self.program.maps
        for event in maps["events"].drain():
            self._take(event)
        for last in maps["closed"].drain():
            life = self._life(last.cookie)
            life.closed_ns = last.at_ns
            life.take(last.connection, last.at_ns)
        now_ns = time.monotonic_ns()
        for cookie, record in maps["connections"].items():
            self._life(cookie).take(record, now_ns)
        while len(self.by_cookie) > MOST_LIVES:
            del self.by_cookie[next(iter(self.by_cookie))]

    def survey(self, namespace: Any = None) -> Survey:
        """Listeners and half-open handshakes of a namespace (of the calling thread's for None)."""
        program, surveyed = self.program.programs[ITERATOR], self.program.maps["surveyed"]
        surveyed.drain()
        if namespace is None:
            iterate(program)
            counted, place = read_counters(), 0
        else:
            namespace.run(iterate, program)
            counted, place = namespace.run(read_counters), inode_of(namespace)
        before = self._counted.get(place, counted)
        self._counted[place] = counted
        found = surveyed.drain()
        return Survey(
            [each for each in found if each.found.name == "LISTENER"],
            [each for each in found if each.found.name == "HALF_OPEN"],
            {name: counted[name] - before.get(name, 0) for name in counted},
        )

    def anomalies(self, namespaces: Iterable[Any] = (None,)) -> list[Anomaly]:
        """Everything beyond the limits; of each of these namespaces what waits now, too."""
        found = [*self._storms(), *self._zero_windows(), *self._pending(), *self._scans()]
        for namespace in namespaces:
            found += self._floods(self.survey(namespace))
        return found

    # One event.

    def _take(self, event: Any) -> None:
        what = event.what.name
        if what == "RETRANSMIT_SYNACK":
            self.synack_retransmits[show(event.ends.local, event.ends.local_port)] += 1
            return
        if not event.cookie:
            local = show(event.ends.local, event.ends.local_port)
            address = str(event.ends.remote.ipv4_mapped or event.ends.remote)
            self.refusals.append(Refusal(event.at_ns, local, _remote(event.ends), address, event.ends.local_port))
            return
        life = self._life(event.cookie)
        if not life.opened_ns:
            life.opened_ns = event.at_ns
        life.local, life.remote = show(event.ends.local, event.ends.local_port), _remote(event.ends)
        if what == "RESET_SENT":
            life.reset_by, life.reset_why = "us", event.why.name
        elif what == "RESET_RECEIVED":
            life.reset_by = "the peer"
        if len(life.moments) < MOST_EVENTS:
            life.moments.append(Moment(event.at_ns, what, event.state.name, words(event)))

    def _life(self, cookie: int) -> Life:
        return self.by_cookie.setdefault(cookie, Life(cookie))

    # What is not as it should be.

    def _storms(self) -> Iterator[Anomaly]:
        for life in self.lives:
            if life.worst_second >= self.limits.storm:
                share = 100 * life.retransmits / max(life.segments_out, 1)
                yield Anomaly(
                    "RETRANSMIT_STORM",
                    life.name,
                    (
                        f"{life.worst_second} retransmits within a second",
                        f"{life.retransmits} of {life.segments_out} segments in all ({share:.0f} %)",
                        f"srtt {life.srtt_us} us",
                    ),
                )

    def _zero_windows(self) -> Iterator[Anomaly]:
        for life in self.lives:
            for whose, who in ((PEERS, "the peer has"), (OURS, "this side has")):
                if life.zero_ms[whose] >= self.limits.zero_ms:
                    times = life.zero_times[whose]
                    evidence = f"{who} had no room for {life.zero_ms[whose]:.0f} ms, {times} time{'s' * (times > 1)}"
                    yield Anomaly("ZERO_WINDOW", life.name, (evidence,))

    def _pending(self) -> Iterator[Anomaly]:
        waiting: dict[str, list[Life]] = defaultdict(list)
        for life in self.lives:
            if life.state == "SYN_SENT" and life.spent_ms.get("SYN_SENT", 0.0) >= self.limits.pending_ms:
                waiting[life.remote].append(life)
        for remote, lives in waiting.items():
            if len(lives) >= self.limits.pending:
                longest = max(each.spent_ms["SYN_SENT"] for each in lives)
                again = sum(each.retransmits for each in lives)
                evidence = (f"{len(lives)} in SYN_SENT, the oldest for {longest:.0f} ms", f"{again} SYNs sent again")
                yield Anomaly("NO_ANSWER", f"to {remote}", evidence)

    def _scans(self) -> Iterator[Anomaly]:
        ports: dict[str, set[int]] = defaultdict(set)
        for each in self.refusals:
            ports[each.remote_address].add(each.local_port)
        for address, refused in ports.items():
            if len(refused) >= self.limits.refusals:
                some = ", ".join(str(port) for port in sorted(refused)[:5])
                yield Anomaly("PORT_SCAN", f"by {address}", (f"refused at {len(refused)} ports: {some}, ...",))

    def _floods(self, survey: Survey) -> Iterator[Anomaly]:
        by_port: dict[int, list[Any]] = defaultdict(list)
        for each in survey.half_open:
            by_port[each.ends.local_port].append(each)
        for port, handshakes in by_port.items():
            if len(handshakes) >= self.limits.half_open:
                yield self._flood(port, handshakes, survey)

    def _flood(self, port: int, handshakes: list[Any], survey: Survey) -> Anomaly:
        """A flood has a new source each time, since nobody needs the answer; a pile-up has few."""
        sources = Counter(str(each.ends.remote.ipv4_mapped or each.ends.remote) for each in handshakes)
        kind = "SYN_FLOOD" if len(sources) > len(handshakes) / 2 else "HALF_OPEN_PILE_UP"
        retransmitted = sum(each.retransmits > 0 for each in handshakes)
        evidence = [
            f"{len(handshakes)} handshakes not done, {retransmitted} of them with the SYN+ACK sent again",
            f"{len(sources)} sources, most from {', '.join(_networks(sources))}",
        ]
        listener = next((each for each in survey.listeners if each.ends.local_port == port), None)
        if listener:
            evidence.append(f"{listener.waiting} of {listener.most} wait for accept()")
        evidence += [f"{name} +{times}" for name, times in survey.counted.items() if times]
        return Anomaly(kind, f"at port {port}", tuple(evidence))


def _networks(sources: Counter[str], most: int = 3) -> list[str]:
    """The /24 or /48 networks from which most came."""
    found: Counter[str] = Counter()
    for address, times in sources.items():
        network = ip_network(f"{address}/{48 if ':' in address else 24}", strict=False)
        found[str(network)] += times
    return [f"{network} ({times})" for network, times in found.most_common(most)]


def read_counters() -> dict[str, int]:
    """Of the calling thread's network namespace, those that tell of a listener under pressure."""
    lines = [line.split() for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()]
    names, values = next((a, b) for a, b in pairwise(lines) if a[0] == b[0] == "TcpExt:")
    all_of_them = dict(zip(names[1:], map(int, values[1:]), strict=True))
    return {name: all_of_them[name] for name in COOKIES if name in all_of_them}


# ---- For the report ----

WAITS, OPEN, WE_CLOSED, PEER_CLOSED = "#d9a300", "#4c9f70", "#7c8fb5", "#a98bb8"
COLOURS = {
    **dict.fromkeys(("SYN_SENT", "SYN_RECV"), WAITS),
    "ESTABLISHED": OPEN,
    **dict.fromkeys(("FIN_WAIT1", "FIN_WAIT2", "CLOSING"), WE_CLOSED),
    **dict.fromkeys(("CLOSE_WAIT", "LAST_ACK"), PEER_CLOSED),
}
NO_ROOM, AGAIN, RESET = "#e67e22", "#c0392b", "#7a1fa2"
MARKS = {"RETRANSMIT": AGAIN, "RESET_SENT": RESET, "RESET_RECEIVED": RESET}
LEGEND = {
    "handshake": WAITS, "established": OPEN, "we closed first": WE_CLOSED, "the peer closed first": PEER_CLOSED,
    "retransmit": AGAIN, "reset": RESET, "no window": NO_ROOM,
}  # fmt: skip
NAME_WIDTH, BAR_WIDTH, ROW_HEIGHT = 330, 560, 22


def picture(lives: list[Life], most: int = 30) -> str:
    """An SVG with a bar for each connection, coloured by state, and a stroke where something went wrong."""
    shown = [each for each in lives if each.moments][:most]
    first = min((each.moments[0].at_ns for each in shown), default=0)
    last = max((max(each.moments[-1].at_ns, each.closed_ns) for each in shown), default=1)
    scale = _Scale(first, last)
    rows = [_row(life, place * ROW_HEIGHT, scale) for place, life in enumerate(shown)]
    height = ROW_HEIGHT * (len(shown) + 2)
    size = f'viewBox="0 0 {NAME_WIDTH + BAR_WIDTH + 10} {height}" font-size="11" fill="currentColor"'
    axis = _text(NAME_WIDTH, height - ROW_HEIGHT - 6, f"0 to {(last - first) / NS_PER_MS:.1f} ms")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(rows)}{axis}{_legend(height - 6)}</svg>'


@dataclass(frozen=True)
class _Scale:
    """From times to places."""

    first_ns: int
    last_ns: int

    def x(self, at_ns: int) -> float:
        return NAME_WIDTH + (at_ns - self.first_ns) * BAR_WIDTH / max(self.last_ns - self.first_ns, 1)

    def bar(self, start_ns: int, end_ns: int, top: float, height: float, colour: str) -> str:
        width = max(self.x(end_ns) - self.x(start_ns), 1)
        return _rect(self.x(start_ns), top, width, height, colour)


def _row(life: Life, top: int, scale: _Scale) -> str:
    end_ns = life.closed_ns or scale.last_ns
    parts = [_text(0, top + 15, f"{life.name} {life.role.lower()}")]
    changes = [each for each in life.moments if each.what == "STATE"]
    for change, next_ns in zip(changes, [*(each.at_ns for each in changes[1:]), end_ns], strict=True):
        if change.state in COLOURS:
            parts.append(scale.bar(change.at_ns, next_ns, top + 3, ROW_HEIGHT - 6, COLOURS[change.state]))
    for place, moment in enumerate(life.moments):
        if moment.what == "ZERO_WINDOW":
            later = life.moments[place:]
            opened_ns = next((each.at_ns for each in later if each.what == "WINDOW_OPEN"), end_ns)
            parts.append(scale.bar(moment.at_ns, opened_ns, top + 13, 6, NO_ROOM))
        elif moment.what in MARKS:
            parts.append(_rect(scale.x(moment.at_ns) - 1, top, 2, ROW_HEIGHT, MARKS[moment.what]))
    return "".join(parts)


def _legend(y: float) -> str:
    parts, x = [], 0.0
    for words, colour in LEGEND.items():
        parts += [_rect(x, y - 9, 10, 10, colour), _text(x + 14, y, words)]
        x += 32 + 6 * len(words)
    return "".join(parts)


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x}" y="{y}">{escape(words)}</text>'


def evidence(analysis: Analysis, anomalies: Iterable[Anomaly] = ()) -> dict[str, str]:
    """For the journal, kind "evidence": what was found, the lines of each connection, and the picture."""
    found = [str(each) for each in anomalies]
    lines = [each.timeline() for each in analysis.lives[:10]]
    return {"title": "TCP connections", "text": "\n\n".join([*found, *lines]), "svg": picture(analysis.lives)}


# ---- For a person: lab analyze_tcp ----


def view(program: Any, *, top: int = 20) -> Iterator[list[Table]]:
    """What is not as it should be, and the connections, the most troubled first.

    Options:
        top: connections shown
    """
    analysis = Analysis(program)
    while True:
        analysis.collect()
        yield _tables(analysis, top)


def _tables(analysis: Analysis, top: int) -> list[Table]:
    anomalies = analysis.anomalies()
    rows = [(each.kind, each.where, "; ".join(each.evidence)) for each in anomalies]
    lives = sorted(analysis.lives, key=lambda each: (-each.retransmits, -sum(each.zero_ms), each.opened_ns))
    columns = (
        "local",
        "remote",
        "role",
        "state",
        "handshake ms",
        "retransmits",
        "no window ms",
        "srtt us",
        "reset",
        "most of its time",
    )
    note = f"{analysis.lost} events lost" if analysis.lost else ""
    return [
        Table(f"{len(anomalies)} anomalies", ("what", "where", "evidence"), rows),
        Table(f"{len(lives)} connections", columns, [_cells(each) for each in lives[:top]], note=note),
    ]


def _cells(life: Life) -> tuple[Any, ...]:
    reset = f"by {life.reset_by}" + (f": {life.reset_why.lower().replace('_', ' ')}" if life.reset_why else "")
    state, spent = max(life.spent_ms.items(), key=lambda pair: pair[1], default=("", 0.0))
    return (
        life.local,
        life.remote,
        life.role.lower(),
        life.state,
        round(life.handshake_ms, 3) or "",
        life.retransmits,
        round(sum(life.zero_ms)),
        life.srtt_us,
        reset if life.reset_by else "",
        f"{state} {spent:.1f} ms",
    )


def summary(program: Any) -> str:
    """What happened, in a sentence."""
    totals = {what.name: times.total() for what, times in program.maps["totals"].items()}
    said = {
        "changes of state": "STATE",
        "retransmits": "RETRANSMIT",
        "resets sent": "RESET_SENT",
        "received": "RESET_RECEIVED",
        "windows of zero": "ZERO_WINDOW",
        "events lost": "EVENT_LOST",
    }
    return ", ".join(f"{totals[name]} {words}" for words, name in said.items())
