"""Alerts of monitor_traffic: rules with a threshold, what broke them, and since when.

>>> str(rule_of("flow-rate above 10Mbit/s for 3s of tcp/443"))
'flow-rate above 10Mbit/s for 3s of tcp/443'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import LabError

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
RATES = {"bit/s": 0.125, "kbit/s": 125, "Mbit/s": 125e3, "Gbit/s": 125e6}
RATES |= {"B/s": 1, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9}
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}
UNITS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "flow-rate": (RATES, "10Mbit/s or 1MB/s"),
    "port-rate": (RATES, "10Mbit/s or 1MB/s"),
    "retransmits": ({"%": 0.01}, "5%"),
    "connections": ({"/s": 1}, "100/s"),
    "rtt": (TIMES, "200ms"),
}
"""What may be watched, and how its thresholds are written."""
LEAST_PACKETS = 10
"""That a flow's sockets sent in the period: of fewer, the share sent again means nothing."""
BACK_AT = 0.8
"""Of the threshold: where a rule does not say `until`."""
MOST_SUBJECTS = 100
"""Alerts of a rule at once: what else breaks it is counted, and looked at again in the next period."""
GRAMMAR = "WHAT above VALUE [until VALUE] [for TIME] [of PROTOCOL/PORT]"


@dataclass(frozen=True)
class Rule:
    """Fires when something has been above a threshold for a time; is over when it is at or below `until`."""

    watch: str
    above: float
    """Bytes a second, a share, flows a second, or seconds, by `watch`; as are `until`."""
    until: float
    for_s: float = 0.0
    protocol: int = 0
    """0: any; a port goes with it."""
    port: int = 0
    name: str = ""
    text: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Breach:
    """Something that is above its rule's lower threshold in this period."""

    key: bytes
    subject: str
    value: float
    evidence: str


@dataclass
class Alert:
    """A rule that something broke. `ended` is None while it lasts; times are seconds since 1970."""

    rule: Rule
    subject: str
    value: float
    evidence: str
    since: float
    """When it came above the threshold."""
    fired: float | None = None
    ended: float | None = None
    peak: float = 0.0

    def __str__(self) -> str:
        lasted = "" if self.ended is None else f", over after {self.ended - self.since:.0f} s"
        return f"{self.rule.name}: {self.subject}: {self.evidence}{lasted}"


# ---- Rules as a person writes them ----


def rule_of(text: str, name: str = "") -> Rule:
    """A rule of the command line; ValueError says what is wrong with it."""
    words = text.split()
    if len(words) % 2 == 0 or len(words) < 3:
        raise ValueError(f"{text!r} is no rule: {GRAMMAR}")
    said = {"watch": words[0]}
    for word, value in zip(words[1::2], words[2::2], strict=True):
        if word in said or word not in ("above", "until", "for", "of"):
            raise ValueError(f"{text!r} is no rule, by the word {word!r}: {GRAMMAR}")
        said[word] = value
    return rule_from({**said, **({"name": name} if name else {})})


def rule_from(said: Mapping[str, str]) -> Rule:
    """A rule of the words that describe it: watch, above, until, for, of, name."""
    watch = said.get("watch", "")
    if watch not in UNITS:
        raise ValueError(f"{watch!r} cannot be watched; {', '.join(UNITS)} can")
    if "above" not in said:
        raise ValueError(f"{watch} needs a threshold: above {UNITS[watch][1]}")
    above = quantity(said["above"], watch)
    until = quantity(said["until"], watch) if "until" in said else above * BACK_AT
    if until > above:
        raise ValueError(f"until {said['until']} is more than above {said['above']}: it would end before it begins")
    for_s = _seconds(said["for"]) if "for" in said else 0.0
    protocol, port = _service(said["of"], watch) if "of" in said else (0, 0)
    text = " ".join([watch, *(f"{word} {said[word]}" for word in ("above", "until", "for", "of") if word in said)])
    return Rule(watch, above, until, for_s, protocol, port, said.get("name") or text, text)


def quantity(text: str, watch: str) -> float:
    """A threshold with its unit, as the unit's base; ValueError.

    >>> quantity("10Mbit/s", "flow-rate")
    1250000.0
    """
    units, example = UNITS[watch]
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\S+)", text)
    if not found or found[2] not in units or not float(found[1]):
        raise ValueError(f"{text!r} is no threshold of {watch}, which is written as {example}")
    return float(found[1]) * units[found[2]]


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
    if not found:
        raise ValueError(f"{text!r} is no time: 500ms, 3s, 2m")
    return float(found[1]) * TIMES[found[2]]


def _service(text: str, watch: str) -> tuple[int, int]:
    protocol, _, port = text.partition("/")
    if protocol not in PROTOCOLS or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no service: tcp/443, udp/53")
    return PROTOCOLS[protocol], int(port)


# ---- Rules in a file ----


def rules_in(path: Path) -> list[Rule]:
    """The rules of a YAML file; LabError names the line of what is wrong.

    alerts:
      - {watch: flow-rate, above: 10Mbit/s, until: 8Mbit/s, for: 3s, of: tcp/443, name: heavy}
    """
    import yaml

    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"read alerts of {path}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise LabError(f"read alerts of {path}{where}: {getattr(error, 'problem', None) or error}") from error
    return _Reader(path).rules(tree)


class _Reader:
    """Makes rules of YAML nodes, which know their lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rules(self, tree: Any) -> list[Rule]:
        found = dict(self._pairs(tree, ("alerts",))) if tree is not None else {}
        if "alerts" not in found:
            raise self._wrong(tree, "there is no list named alerts")
        if found["alerts"].id != "sequence":
            raise self._wrong(found["alerts"], "alerts is no list")
        return [self._rule(each) for each in found["alerts"].value]

    def _rule(self, node: Any) -> Rule:
        if node.id == "scalar":
            return self._made(node, lambda: rule_of(node.value))
        said = {}
        for name, value in self._pairs(node, ("watch", "above", "until", "for", "of", "name")):
            if value.id != "scalar":
                raise self._wrong(value, f"{name} is no single value")
            said[name] = value.value
        return self._made(node, lambda: rule_from(said))

    def _pairs(self, node: Any, known: Sequence[str]) -> Iterator[tuple[str, Any]]:
        if node.id != "mapping":
            raise self._wrong(node, f"expected {', '.join(known)}")
        seen: set[str] = set()
        for key, value in node.value:
            if key.id != "scalar" or key.value not in known:
                raise self._wrong(key, f"{getattr(key, 'value', '')!r} means nothing here; {', '.join(known)} do")
            if key.value in seen:
                raise self._wrong(key, f"{key.value} stands there twice")
            seen.add(key.value)
            yield key.value, value

    def _made(self, node: Any, make: Callable[[], Rule]) -> Rule:
        try:
            return make()
        except ValueError as error:
            raise self._wrong(node, str(error)) from error

    def _wrong(self, node: Any, why: str) -> LabError:
        line = node.start_mark.line + 1 if node is not None else 1
        return LabError(f"read alerts of {self._path}, line {line}: {why}", mend=f"a rule is: {GRAMMAR}")


def named_apart(rules: Sequence[Rule]) -> list[Rule]:
    """The rules; LabError where two have one name, because they would be counted as one."""
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise LabError(f"two alerts are named {name!r}", mend="give one of them another name")
    return list(rules)


# ---- What breaks them ----


@dataclass
class Alerts:
    """All rules, and what is above their thresholds now."""

    rules: Sequence[Rule]
    fired: dict[str, int] = field(default_factory=dict)
    """How often, by the rule's name."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What broke a rule, but was more than MOST_SUBJECTS at once; by the rule's name."""
    _pending: dict[tuple[str, bytes], Alert] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rule in self.rules:
            self.fired[rule.name] = self.left_out[rule.name] = 0

    @property
    def active(self) -> list[Alert]:
        """Those that have fired and last, the oldest first."""
        every = list(self._pending.values())  # at once: the exporter asks from another thread
        return sorted((each for each in every if each.fired), key=lambda each: each.since)

    def check(self, sample: Any) -> list[Alert]:
        """What this period changed: alerts that fired, and those that are over (`ended`)."""
        changed = []
        for rule in self.rules:
            breaches = sorted(WATCHES[rule.watch](rule, sample), key=lambda each: each.value, reverse=True)
            known = {each.key for each in breaches}
            changed += [self._over(key, sample.at) for key in self._lost(rule, known)]
            for each in breaches:
                changed += self._told(rule, each, sample)
        return [each for each in changed if each.fired]

    def _lost(self, rule: Rule, known: set[bytes]) -> list[tuple[str, bytes]]:
        return [key for key in self._pending if key[0] == rule.name and key[1] not in known]

    def _over(self, key: tuple[str, bytes], at: float) -> Alert:
        alert = self._pending.pop(key)
        alert.ended = at
        return alert

    def _told(self, rule: Rule, breach: Breach, sample: Any) -> list[Alert]:
        key = rule.name, breach.key
        alert = self._pending.get(key)
        if alert is None or not alert.fired:
            if breach.value <= rule.above:  # between the thresholds nothing begins, and what has not fired is forgotten
                self._pending.pop(key, None)
                return []
            if alert is None and sum(name == rule.name for name, _ in self._pending) >= MOST_SUBJECTS:
                self.left_out[rule.name] += 1
                return []
        if alert is None:
            alert = self._pending[key] = Alert(rule, breach.subject, breach.value, breach.evidence, sample.at)
        alert.value, alert.evidence, alert.peak = breach.value, breach.evidence, max(alert.peak, breach.value)
        if alert.fired or sample.at - alert.since < rule.for_s:
            return []
        alert.fired = sample.at
        self.fired[rule.name] += 1
        return [alert]


def rate_text(bytes_per_s: float) -> str:
    """ "12.5 Mbit/s"."""
    bits = bytes_per_s * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits < 1000:
            return f"{bits:.3g} {unit}"
        bits /= 1000
    return f"{bits:.3g} Gbit/s"


def _flow_rate(rule: Rule, sample: Any) -> Iterator[Breach]:
    rates = sample.flows.bytes.sum(axis=1) / sample.seconds
    for place in _greatest(rule, sample.flows, rates):
        row = sample.flows.row(place)
        told = f"{row.bytes_out + row.bytes_in:,} bytes in {sample.seconds:.2f} s"
        yield Breach(sample.flows.key(place), row.flow.name, float(rates[place]), f"{rate_text(rates[place])}: {told}")


def _port_rate(rule: Rule, sample: Any) -> Iterator[Breach]:
    ports = sample.ports
    if not len(ports):
        return
    chosen = ports.rates > rule.until
    if rule.port:
        chosen &= ports.names == (rule.protocol << 16 | rule.port)
    for row in map(ports.row, map(int, chosen.nonzero()[0])):
        told = f"{row.bytes_in:,} bytes in and {row.bytes_out:,} out in {sample.seconds:.2f} s"
        name = f"{row.port.protocol}/{row.port.number}"
        yield Breach(name.encode(), name, row.bytes_per_s, f"{rate_text(row.bytes_per_s)}: {told}")


def _retransmits(rule: Rule, sample: Any) -> Iterator[Breach]:
    import numpy as np

    flows = sample.flows
    here = flows.now.side("state") > 0  # a socket counts what it sent itself
    sent = np.where(here, flows.packets, 0).sum(axis=1)
    again = flows.retransmits.sum(axis=1)
    shares = np.where(sent >= LEAST_PACKETS, again / np.maximum(sent, 1), 0.0)
    for place in _greatest(rule, flows, shares):
        told = f"{again[place]:,} of {sent[place]:,} packets sent again in {sample.seconds:.2f} s"
        value = float(shares[place])
        yield Breach(flows.key(place), flows.row(place).flow.name, value, f"{value:.1%}: {told}")


def _rtt(rule: Rule, sample: Any) -> Iterator[Breach]:
    import numpy as np

    flows = sample.flows
    moving = flows.packets.sum(axis=1) > 0
    rtt_s = np.where(moving, flows.rtt_us, 0) / 1e6
    for place in _greatest(rule, flows, rtt_s):
        value = float(rtt_s[place])
        how = "smoothed, of its socket" if flows.row(place).flow.srtt_us else "of its handshake"
        yield Breach(flows.key(place), flows.row(place).flow.name, value, f"{value * 1000:.3g} ms {how}")


def _connections(rule: Rule, sample: Any) -> Iterator[Breach]:
    opened = sample.grown["TCP_FLOW_OPENED"]
    if rule.port:
        opened = int((sample.flows.is_new & sample.flows.of(rule.protocol, rule.port)).sum())
    rate = opened / sample.seconds
    if rate <= rule.until:
        return
    who = _busiest_opener(rule, sample.flows)
    protocol = {number: name for name, number in PROTOCOLS.items()}.get(rule.protocol)
    subject = f"new flows of {protocol}/{rule.port}" if rule.port else "new TCP flows"
    yield Breach(b"", subject, rate, f"{rate:,.0f}/s: {opened:,} in {sample.seconds:.2f} s{who}")


def _busiest_opener(rule: Rule, flows: Any) -> str:
    """Who opened most of the new ones, by address."""
    import numpy as np

    wanted = flows.of(rule.protocol, rule.port) if rule.port else flows.now.fields["protocol"] == PROTOCOLS["tcp"]
    new = flows.is_new & wanted
    places = np.flatnonzero(new)
    if not len(places):
        return ""
    upper = (flows.now.values["opener"][places] & 1).astype(bool)
    address = np.where(upper[:, None], flows.now.keys[places, 2:4], flows.now.keys[places, 0:2])
    _, first, counts = np.unique(address, axis=0, return_index=True, return_counts=True)
    most = int(counts.argmax())
    opener = flows.row(int(places[first[most]])).flow.opener.address
    return f", {counts[most]:,} by {opener}"


def _greatest(rule: Rule, flows: Any, values: Any) -> list[int]:
    """Where the flows are that are above `until`, the greatest first; not many more than may fire."""
    import numpy as np

    chosen = values > rule.until
    if rule.port:
        chosen &= flows.of(rule.protocol, rule.port)
    places = np.flatnonzero(chosen)
    return [int(each) for each in places[np.argsort(values[places])[::-1]][: 2 * MOST_SUBJECTS]]


WATCHES: Mapping[str, Callable[[Rule, Any], Iterator[Breach]]] = {
    "flow-rate": _flow_rate,
    "port-rate": _port_rate,
    "retransmits": _retransmits,
    "connections": _connections,
    "rtt": _rtt,
}
