"""The policy of tc_segment: rules, read from YAML with errors that say line and column, and compiled to bitmaps.

policy = read(text, "shop.yaml")        # PolicyError lists every mistake: shop.yaml:7:12: ports: 70000 is no port
tables = compile_rules(policy.rules)    # bit n of each mask: rule n, the strongest first
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lab.errors import LabError

PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "sctp": 132}
WITH_PORTS = (6, 17, 132)
ICMP = (1, 58)
DIRECTIONS = ("ingress", "egress")
ACTIONS = ("allow", "deny", "log")
FULL = ("closed", "open", "evict")
RUNNING = ("recheck", "keep")
TIMEOUTS_S = {
    "one_way": 30.0,
    "two_way": 120.0,
    "opening": 60.0,
    "established": 7440.0,  # RFC 5382, REQ-5: no less than 2 hours 4 minutes
    "closing": 240.0,
    "time_wait": 60.0,
    "reset": 10.0,
    "icmp": 60.0,  # RFC 5508, REQ-2
}
UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
MOST_TIMEOUT_S = 20 * 86400
"""The program's clock has 32 bits of milliseconds, and compares with a sign."""
MOST_RULES = 1024

Prefix = tuple[int, int]
"""Of an IPv6 address, or an IPv4 address mapped into one: the number, how many bits count."""
Range = tuple[int, int]


class PolicyError(LabError):
    """What is wrong with a policy, a line for each mistake; nothing of it was applied."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(mistakes))


@dataclass(frozen=True)
class Rule:
    """What a session must fit, and what becomes of it then. Empty: anything fits."""

    name: str
    action: str
    directions: tuple[int, ...] = (0, 1)
    sources: tuple[Prefix, ...] = ()
    destinations: tuple[Prefix, ...] = ()
    protocols: tuple[int, ...] = ()
    ports: tuple[Range, ...] = ()
    source_ports: tuple[Range, ...] = ()
    priority: int = 0
    log: bool = False


@dataclass(frozen=True)
class Policy:
    """Rules in the order of their strength, defaults, and what holds for all sessions. `data` is what was read."""

    rules: tuple[Rule, ...] = ()
    allows: tuple[bool, bool] = (False, False)
    logs: tuple[bool, bool] = (False, False)
    rechecks: bool = True
    full: str = "evict"
    timeouts_s: Mapping[str, float] = field(default_factory=lambda: dict(TIMEOUTS_S))
    data: Mapping[str, Any] = field(default_factory=dict)


# ---- Reading ----


def read(text: str, name: str = "policy") -> Policy:
    """The policy of a YAML text; PolicyError with `name:line:column: what` for all that is wrong with it."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise PolicyError([f"{where}: {error.problem or error}"]) from error
    except yaml.YAMLError as error:
        raise PolicyError([f"{name}: {error}"]) from error
    reader = _Reader(name)
    policy = reader.policy(root) if root is not None else Policy()
    if reader.mistakes:
        raise PolicyError([each for _, each in sorted(reader.mistakes)])
    return replace(policy, data=data or {})


class _Refused(Exception):
    """A node says what cannot be; noted, and reading goes on with the next."""


class _Reader:
    """Walks over the nodes, which know where they stand, and notes every mistake."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mistakes: list[tuple[tuple[int, int], str]] = []
        self.workloads: dict[str, tuple[Prefix, ...]] = {}

    def refuse(self, node: Any, what: str) -> None:
        """Notes a mistake at a node."""
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.mistakes.append(((line, column), f"{self.name}:{line}:{column}: {what}"))

    def tried(self, read: Callable[[Any], Any], node: Any, otherwise: Any) -> Any:
        """What `read` makes of a node; `otherwise` after noting why it makes nothing."""
        try:
            return read(node)
        except _Refused as error:
            self.refuse(node, str(error))
            return otherwise

    def fields(self, node: Any, known: Iterable[str], what: str) -> dict[str, Any]:
        """The values of a mapping by key; unknown and repeated keys are mistakes."""
        import yaml

        known = tuple(known)
        found: dict[str, Any] = {}
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"{what} is a mapping, with {', '.join(known) or 'names'}")
            return found
        for key, value in node.value:
            name = str(key.value)
            if known and name not in known:
                self.refuse(key, f"{name!r}: {what} has {', '.join(known)}")
            elif name in found:
                self.refuse(key, f"{name!r} for the second time")
            else:
                found[name] = value
        return found

    def items(self, node: Any) -> list[Any]:
        """The elements of a list; a scalar is a list of one."""
        import yaml

        return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]

    # The whole.

    def policy(self, root: Any) -> Policy:
        """All of it."""
        parts = self.fields(
            root, ("default", "log_default", "running", "full", "timeouts", "workloads", "rules"), "a policy"
        )
        for name, node in self.fields(parts["workloads"], (), "workloads").items() if "workloads" in parts else ():
            self.workloads[name] = self.prefixes(node)
        rules = self.rules(parts["rules"]) if "rules" in parts else ()
        return Policy(
            rules=rules,
            allows=self.by_direction(parts.get("default"), ("deny", "allow")),
            logs=self.by_direction(parts.get("log_default"), ("false", "true")),
            rechecks=self.word(parts.get("running"), RUNNING, "recheck") == "recheck",
            full=self.word(parts.get("full"), FULL, "evict"),
            timeouts_s=self.timeouts(parts.get("timeouts")),
        )

    def word(self, node: Any, words: Sequence[str], otherwise: str) -> str:
        """One of some words."""
        if node is None:
            return otherwise
        given = str(node.value).lower()
        if given not in words:
            self.refuse(node, f"{_shown(node)}: one of {', '.join(words)}")
            return otherwise
        return given

    def by_direction(self, node: Any, words: tuple[str, str]) -> tuple[bool, bool]:
        """A word for both directions, or one for each."""
        import yaml

        if isinstance(node, yaml.MappingNode):
            each = self.fields(node, DIRECTIONS, "a default")
            ingress, egress = (self.word(each.get(name), words, words[0]) == words[1] for name in DIRECTIONS)
            return ingress, egress
        both = self.word(node, words, words[0]) == words[1]
        return both, both

    def timeouts(self, node: Any) -> dict[str, float]:
        """Seconds by name; those not named keep theirs."""
        found = dict(TIMEOUTS_S)
        for name, value in self.fields(node, TIMEOUTS_S, "timeouts").items() if node is not None else ():
            found[name] = self.tried(_seconds, value, found[name])
        return found

    # Rules.

    def rules(self, node: Any) -> tuple[Rule, ...]:
        """The strongest first: by priority, then by place in the list."""
        import yaml

        if not isinstance(node, yaml.SequenceNode):
            self.refuse(node, "rules are a list")
            return ()
        found: list[Rule] = []
        names: set[str] = set()
        for each in node.value:
            rule = self.rule(each)
            if rule.name and rule.name in names:
                self.refuse(each, f"there is a rule {rule.name!r} already")
            names.add(rule.name)
            found.append(rule)
        if len(found) > MOST_RULES:
            self.refuse(node, f"{len(found)} rules: {MOST_RULES} at most; a rule may name many prefixes and ports")
        return tuple(sorted(found, key=lambda rule: -rule.priority))

    def rule(self, node: Any) -> Rule:
        """One of them."""
        known = (
            "name",
            "action",
            "direction",
            "from",
            "to",
            "protocol",
            "ports",
            "source_ports",
            "types",
            "priority",
            "log",
        )
        parts = self.fields(node, known, "a rule")
        for needed in ("name", "action"):
            if needed not in parts:
                self.refuse(node, f"a rule needs a {needed}")
        direction = self.word(parts.get("direction"), (*DIRECTIONS, "both"), "both")
        protocols = self.many(parts.get("protocol"), _protocol)
        ports = self.many(parts.get("ports"), _range)
        source_ports = self.many(parts.get("source_ports"), _range)
        types = self.many(parts.get("types"), _type)
        if (ports or source_ports) and not set(protocols or WITH_PORTS) <= set(WITH_PORTS):
            self.refuse(parts.get("ports") or parts["source_ports"], "only tcp, udp and sctp have ports")
        if types and (not protocols or not set(protocols) <= set(ICMP)):
            self.refuse(parts["types"], "types need protocol: icmp, or icmpv6")
        return Rule(
            name=self.tried(_name, parts["name"], "") if "name" in parts else "",
            action=self.word(parts.get("action"), ACTIONS, "deny"),
            directions=(0, 1) if direction == "both" else (DIRECTIONS.index(direction),),
            sources=self.prefixes(parts["from"]) if "from" in parts else (),
            destinations=self.prefixes(parts["to"]) if "to" in parts else (),
            protocols=protocols or (WITH_PORTS if ports or source_ports else ()),
            ports=ports or types,
            source_ports=source_ports,
            priority=self.tried(_integer, parts["priority"], 0) if "priority" in parts else 0,
            log=self.word(parts.get("log"), ("true", "false"), "false") == "true",
        )

    def many(self, node: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
        """Of a scalar or a list; mistakes are left out."""
        if node is None:
            return ()
        found = (self.tried(read, each, None) for each in self.items(node))
        return tuple(each for each in found if each is not None)

    def prefixes(self, node: Any) -> tuple[Prefix, ...]:
        """Prefixes and names of workloads; "any" is no condition."""
        found: list[Prefix] = []
        for each in self.items(node):
            text = str(each.value)
            if text == "any":
                return ()
            if text in self.workloads:
                found += self.workloads[text]
                continue
            prefix = self.tried(_prefix, each, None)
            if prefix is not None:
                found.append(prefix)
        if not found and not self.mistakes:
            self.refuse(node, "no prefix: write any")
        return tuple(found)


def _shown(node: Any) -> str:
    return repr(node.value) if isinstance(node.value, str) else "a list or mapping"


def _scalar(node: Any) -> str:
    if not isinstance(node.value, str):
        raise _Refused("a single value is wanted here")
    return node.value


def _name(node: Any) -> str:
    text = _scalar(node)
    if not node.tag.endswith(":str"):
        raise _Refused(f"{text!r} is no text in YAML: write it in quotes")
    return text


def _integer(node: Any) -> int:
    try:
        return int(_scalar(node))
    except ValueError:
        raise _Refused(f"{node.value!r} is no whole number") from None


def _seconds(node: Any) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", _scalar(node))
    if not found:
        raise _Refused(f"{node.value!r} is no time: 500ms, 30s, 2m, 1h, 1d")
    seconds = float(found[1]) * UNITS_S[found[2] or "s"]
    if not 0.001 <= seconds <= MOST_TIMEOUT_S:
        raise _Refused(f"{node.value!r}: 1ms to 20d")
    return seconds


def _prefix(node: Any) -> Prefix:
    text = _scalar(node)
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        why = (
            "bits are set behind the prefix" if "host bits" in str(error) else "no prefix, and no workload of that name"
        )
        raise _Refused(f"{text!r}: {why}") from None
    number = int(network.network_address)
    if network.version == 4:
        return number | 0xFFFF << 32, network.prefixlen + 96
    return number, network.prefixlen


def _protocol(node: Any) -> int:
    text = _scalar(node).lower()
    number = PROTOCOLS.get(text, int(text) if text.isdigit() else -1)
    if not 0 <= number <= 255:
        raise _Refused(f"{node.value!r}: a protocol is 0 to 255, or one of {', '.join(PROTOCOLS)}")
    return number


def _range(node: Any) -> Range:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", _scalar(node))
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not 0 <= first <= last <= 65535:
        raise _Refused(f"{node.value!r} is no port: 443, or 8000-8999, from 0 to 65535")
    return first, last


def _type(node: Any) -> Range:
    number = _integer(node)
    if not 0 <= number <= 255:
        raise _Refused(f"{node.value!r} is no ICMP type: 0 to 255")
    return number, number


# ---- Compiling: masks of rules, bit 0 the strongest ----


@dataclass(frozen=True)
class Masks:
    """Which rules match, by what a packet has; sides are source, destination; directions ingress, egress."""

    prefixes: tuple[dict[Prefix, int], ...]
    ports: tuple[list[tuple[int, int]], ...]
    """(first port, mask), up to the next one's first."""
    protocols: tuple[list[int], ...]


def compile_rules(rules: Sequence[Rule]) -> Masks:
    """Every dimension for itself; a packet's rules are those in all of them."""
    return Masks(
        prefixes=(_by_prefix(each.sources for each in rules), _by_prefix(each.destinations for each in rules)),
        ports=(_by_port(each.source_ports for each in rules), _by_port(each.ports for each in rules)),
        protocols=tuple(_by_protocol(rules, direction) for direction in (0, 1)),
    )


def _by_prefix(wanted: Iterable[tuple[Prefix, ...]]) -> dict[Prefix, int]:
    """For each prefix that is named, and for all: the rules that name it or one around it."""
    named: dict[Prefix, int] = {(0, 0): 0}
    for number, prefixes in enumerate(wanted):
        for prefix in prefixes or ((0, 0),):
            named[prefix] = named.get(prefix, 0) | 1 << number
    around: list[tuple[int, int]] = []
    for address, length in sorted(named):
        while around and address >= around[-1][0]:
            around.pop()
        named[address, length] |= around[-1][1] if around else 0
        around.append((address + (1 << 128 - length), named[address, length]))
    return named


def _by_port(wanted: Iterable[tuple[Range, ...]]) -> list[tuple[int, int]]:
    changes: dict[int, list[tuple[bool, int]]] = {0: []}
    always = 0
    for number, ranges in enumerate(wanted):
        if not ranges:
            always |= 1 << number
        for first, last in _merged(ranges):
            changes.setdefault(first, []).append((True, 1 << number))
            changes.setdefault(last + 1, []).append((False, 1 << number))
    mask, found = always, []
    for port in sorted(changes):
        for added, bit in changes[port]:
            mask = mask | bit if added else mask & ~bit
        found.append((port, mask))
    return [each for each in found if each[0] < 65536]


def _merged(ranges: Iterable[Range]) -> Iterator[Range]:
    """Without overlaps."""
    whole: list[int] = []
    for first, last in sorted(ranges):
        if whole and first <= whole[1] + 1:
            whole[1] = max(whole[1], last)
            continue
        if whole:
            yield whole[0], whole[1]
        whole = [first, last]
    if whole:
        yield whole[0], whole[1]


def _by_protocol(rules: Sequence[Rule], direction: int) -> list[int]:
    masks = [0] * 256
    for number, rule in enumerate(rules):
        if direction in rule.directions:
            for protocol in rule.protocols or range(256):
                masks[protocol] |= 1 << number
    return masks
