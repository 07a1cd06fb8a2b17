"""Rules for xdp_filter, and what makes its tables of them.

    filter = Filter(program.maps)
    office = allow("192.0.2.0/24", protocol="tcp", ports=22)
    filter.replace([office, deny(protocol="tcp", ports=22), deny("10.0.0.0/8", "198.51.100.1")], default="ALLOW")
    filter.add(deny(ports="8000-8999"))       # one change, however many rules it names
    filter.counts(office)                     # Counts(packets=3, bytes=222)

Of the rules that match a packet the strongest decides: highest priority, longest source prefix, longest destination
prefix, narrowest destination ports, narrowest source ports, one with a protocol, first in the list.

A change is compiled as a whole, written beside the rules in force and switched on by one map update: each packet sees
the old rules or the new ones. When the call returns, no packet sees the old ones any more.
"""

from __future__ import annotations

import gc
import re
import struct
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from lab.kernel import bpf as kernel
from lab.model.table import Table

PROTOCOLS = {"icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "icmpv6": 58, "sctp": 132}
WITH_PORTS = (6, 17, 132)
ALL_PORTS = (0, 65535)

ROW, STEP, NODE = 0x4000_0000, 0x8000_0000, 0xC000_0000
NODE_OCTET = 26
LEAF_STEPS = 4
FIRST_COUNTER = 8
LOW_64 = (1 << 64) - 1
MOST_ENTRIES = 1 << 27
"""Cells, or pairs, of one rule set: 0.5 GB. Two of them and a quarter in reserve are within the 4 GB of a map."""

Entry = tuple[int, int, int]
"""A prefix and where it leads: address as a number, length, reference."""
Named = tuple[int, int, int, bool]
"""A prefix and who names it: address as a number, length, number of the rule, whether that names another prefix."""


# ---- Rules ----


class Prefix(NamedTuple):
    """An address as a number, and how many of its bits count. `family` is 4 or 6."""

    family: int
    number: int
    length: int

    @classmethod
    def of(cls, text: object) -> Prefix:
        """From "10.0.0.0/8", "2001:db8::1" or an object of the ipaddress module; bits behind the prefix must be 0."""
        host, slash, tail = str(text).partition("/")
        family, kind, width = (6, AF_INET6, 128) if ":" in host else (4, AF_INET, 32)
        try:
            number = int.from_bytes(inet_pton(kind, host), "big")
            length = int(tail) if slash else width
        except (OSError, ValueError):
            raise ValueError(f'{text}: no address and no prefix; write "10.0.0.0/8" or "2001:db8::1"') from None
        if not 0 <= length <= width:
            raise ValueError(f"{text}: a prefix of IPv{family} has 0 to {width} bits")
        if number & ((1 << width - length) - 1):
            raise ValueError(f"{text}: has bits set behind its prefix of {length}")
        return cls(family, number, length)

    def __str__(self) -> str:
        kind, octets = (AF_INET, 4) if self.family == 4 else (AF_INET6, 16)
        return f"{inet_ntop(kind, self.number.to_bytes(octets, 'big'))}/{self.length}"


class Rule(NamedTuple):
    """What a packet must fit, and what becomes of it then; `allow()` and `deny()` make them. None: anything fits.

    Ports are first and last. Equal rules share one counter, which a rule keeps while others come and go.
    """

    action: str
    source: Prefix | None = None
    destination: Prefix | None = None
    protocol: int | None = None
    ports: tuple[int, int] | None = None
    source_ports: tuple[int, int] | None = None
    priority: int = 0

    @property
    def strength(self) -> tuple[int, ...]:
        """Of two rules that match, the one with the greater strength decides."""
        return (
            self.priority,
            self.source.length if self.source else -1,
            self.destination.length if self.destination else -1,
            -_width(self.ports),
            -_width(self.source_ports),
            self.protocol is not None,
        )

    @property
    def by_prefix_alone(self) -> bool:
        """It names neither protocol nor ports."""
        return self.protocol is None and self.ports is None and self.source_ports is None

    def __str__(self) -> str:
        names = {number: name for name, number in PROTOCOLS.items()}
        words = [self.action.lower()]
        if self.protocol is not None:
            words.append(names.get(self.protocol, f"protocol {self.protocol}"))
        for word, prefix, ports in (
            ("from", self.source, self.source_ports),
            ("to", self.destination, self.ports),
        ):
            if prefix or ports:
                words += [word, str(prefix or "any")]
            if ports:
                words.append(f"port {ports[0]}" if ports[0] == ports[1] else f"ports {ports[0]}-{ports[1]}")
        return " ".join(words) + (f" (priority {self.priority})" if self.priority else "")


def allow(source: object = None, destination: object = None, **options: Any) -> Rule:
    """A rule that lets packets through; options as of `deny`."""
    return _rule("ALLOW", source, destination, **options)


def deny(source: object = None, destination: object = None, **options: Any) -> Rule:
    """A rule that drops packets.

    Options: `protocol`, a number or one of PROTOCOLS; `ports` (of the destination) and `source_ports`, a number,
    "8000-8999" or (8000, 8999), both included; `priority`, 0 unless given, the greater the stronger.

    >>> str(deny("10.0.0.0/8", protocol="tcp", ports="8000-8999"))
    'deny tcp from 10.0.0.0/8 to any ports 8000-8999'
    """
    return _rule("DENY", source, destination, **options)


def _rule(
    action: str,
    source: object,
    destination: object,
    *,
    protocol: str | int | None = None,
    ports: object = None,
    source_ports: object = None,
    priority: int = 0,
) -> Rule:
    rule = Rule(
        action,
        None if source is None else Prefix.of(source),
        None if destination is None else Prefix.of(destination),
        None if protocol is None else _protocol(protocol),
        None if ports is None else _ports(ports),
        None if source_ports is None else _ports(source_ports),
        priority,
    )
    if rule.source and rule.destination and rule.source.family != rule.destination.family:
        raise ValueError(f"{rule}: no packet has addresses of both families")
    if (ports is not None or source_ports is not None) and rule.protocol not in (None, *WITH_PORTS):
        raise ValueError(f"{rule}: only TCP, UDP and SCTP have ports")
    return rule


def _protocol(given: str | int) -> int:
    number = PROTOCOLS.get(given.lower(), -1) if isinstance(given, str) else given
    if not 0 <= number <= 255:
        raise ValueError(f"protocol {given!r}: 0 to 255, or one of {', '.join(PROTOCOLS)}")
    return number


def _ports(given: object) -> tuple[int, int]:
    parts = str(given).split("-") if isinstance(given, str | int) else given
    try:
        first, last = (int(parts[0]), int(parts[-1]))  # type: ignore[index]
    except (TypeError, ValueError, IndexError):
        raise ValueError(f'ports {given!r}: a number, "8000-8999" or (8000, 8999)') from None
    if len(parts) > 2 or not 0 <= first <= last <= 65535:  # type: ignore[arg-type]
        raise ValueError(f"ports {given!r}: first and last, 0 to 65535, the first not above the last")
    return first, last


def _width(ports: tuple[int, int] | None) -> int:
    return 65537 if ports is None else ports[1] - ports[0]


# ---- Compilation: from rules to the tables of one generation ----


@dataclass
class Tables:
    """What one generation holds; names and entries are those of the maps."""

    rule_set: dict[str, int] = field(default_factory=dict)
    roots: list[array[int]] = field(default_factory=list)
    steps: list[bytes] = field(default_factory=list)
    nodes: list[array[int]] = field(default_factory=list)
    rows: list[tuple[int, int, int]] = field(default_factory=lambda: [(0, 0, 0)])
    pairs: array[int] = field(default_factory=lambda: array("I"))
    protocols: list[tuple[int, int]] = field(default_factory=list)
    port_classes: list[array[int]] = field(default_factory=list)
    cells: array[int] = field(default_factory=lambda: array("I", [0]))
    rules: list[tuple[int, int]] = field(default_factory=list)

    def entries(self) -> Iterator[tuple[str, int, bytes]]:
        """For each map its number of entries and their bytes, back to back."""
        yield "roots", len(self.roots), b"".join(map(array.tobytes, self.roots))
        yield "steps", len(self.steps), b"".join(self.steps)
        yield "nodes", len(self.nodes), b"".join(map(array.tobytes, self.nodes))
        yield "rows", len(self.rows), _packed(self.rows)
        yield "pairs", len(self.pairs), self.pairs.tobytes()
        yield "protocols", len(self.protocols), _packed(self.protocols)
        yield "port_classes", len(self.port_classes), b"".join(map(array.tobytes, self.port_classes))
        yield "cells", len(self.cells), self.cells.tobytes()
        yield "rules", len(self.rules), _packed(self.rules)


def _packed(records: Sequence[tuple[int, ...]]) -> bytes:
    """Structs of 32-bit numbers alone, back to back."""
    return array("I", chain.from_iterable(records)).tobytes()


def ranked(rules: Iterable[Rule]) -> list[Rule]:
    """The weakest first; of equally strong rules the one listed first is the stronger.

    ValueError when two rules match the very same packets: one of them would be without effect.
    """
    listed = list(rules)
    seen: set[tuple[object, ...]] = set()
    for rule in listed:
        matched = (rule.source, rule.destination, rule.protocol, rule.ports, rule.source_ports)
        if matched in seen:
            raise ValueError(f"{rule}: another rule matches the same packets; only one of them could ever decide")
        seen.add(matched)
    return sorted(reversed(listed), key=lambda rule: rule.strength)


class Compiler:
    """Makes the tables of rules whose place in `order` is their number, less one."""

    def __init__(
        self,
        order: Sequence[Rule],
        default: str,
        counters: Mapping[Rule, int],
        most: Mapping[str, int] | None = None,
    ) -> None:
        self.order = order
        self.most = most or {}
        self.tables = Tables()
        self.tables.rules = [(0, default == "DENY"), *((counters[rule], rule.action == "DENY") for rule in order)]
        self.kinds: list[tuple[int | None, bool, int]] = []
        self.cells_of: dict[tuple[int, ...], int] = {(): 0}
        self.row_of: dict[tuple[int, int, int], int] = {}
        self.lines: dict[frozenset[int], int] = {}
        self.columns: dict[frozenset[int], int] = {}

    def compile(self) -> Tables:
        """Everything, in the order in which one thing needs the other."""
        self._classify_ports()
        self._classify_protocols()
        by_source, by_destination, anywhere = self._by_direction()
        for family in (4, 6):
            self._add_trie(family, by_source[family], self.lines)
            self._add_trie(family, by_destination[family], self.columns)
        self._pair()
        self.tables.rule_set = {
            "any_row": self._reference(sorted(anywhere, reverse=True), 0),
            "dest_classes": self.dest_classes,
            "dest_groups": len(self.columns) + 1,
        }
        return self.tables

    def _by_direction(self) -> tuple[dict[int, list[Named]], dict[int, list[Named]], list[int]]:
        """Which rule names which prefix as its source, and as its destination, by family; and the others."""
        by_source: dict[int, list[Named]] = {4: [], 6: []}
        by_destination: dict[int, list[Named]] = {4: [], 6: []}
        anywhere = []
        for number, rule in enumerate(self.order, 1):
            source, destination = rule.source, rule.destination
            is_pair = source is not None and destination is not None
            if source is not None:
                by_source[source.family].append((source.number, source.length, number, is_pair))
            if destination is not None:
                by_destination[destination.family].append((destination.number, destination.length, number, is_pair))
            if source is None and destination is None:
                anywhere.append(number)
        return by_source, by_destination, anywhere

    def _reserve(self, name: str, entries: int) -> None:
        """ValueError before memory is taken that no map has: these two tables hold products of what rules name."""
        if entries > self.most.get(name, MOST_ENTRIES):
            raise ValueError(_no_room(name, 2 * entries))

    # Ports and protocols: which cell of a row.

    def _classify_ports(self) -> None:
        """Ports that no rule tells apart are one class: those between two neighbouring ends of ranges."""
        self.starts: list[list[int]] = []
        for name in ("source_ports", "ports"):
            ranges = {getattr(rule, name) for rule in self.order} - {None}
            ends = {0} | {first for first, _ in ranges} | {last + 1 for _, last in ranges}
            starts = sorted(ends - {65536})
            classes = array("H")
            for place, (start, end) in enumerate(zip(starts, [*starts[1:], 65536], strict=True)):
                classes.extend(array("H", [place]) * (end - start))
            self.starts.append(starts)
            self.tables.port_classes.append(classes)
        self.dest_classes = len(self.starts[1])

    def _classify_protocols(self) -> None:
        """Each protocol that a rule names is a class, the rest are one; each with ports and without."""
        named = {rule.protocol for rule in self.order} - {None}
        size = len(self.starts[0]) * self.dest_classes
        at = 0
        places: dict[tuple[int | None, bool], int] = {}
        for has_ports in (False, True):
            for protocol in (None, *sorted(number for number in named if number is not None)):
                if not has_ports or protocol in (None, *WITH_PORTS):
                    self.kinds.append((protocol, has_ports, at))
                    places[protocol, has_ports] = at
                    at += size if has_ports else 1
        self.row_cells = at
        for has_ports in (True, False):
            self.tables.protocols += [
                _protocol_class(places, number if number in named else None, has_ports and number in WITH_PORTS)
                for number in range(256)
            ]

    def _cells(self, numbers: tuple[int, ...]) -> int:
        """Where the cells of these rules, weakest first, begin; equal ones are shared."""
        if numbers not in self.cells_of:
            self._reserve("cells", len(self.tables.cells) + self.row_cells)
            row = array("I", [0]) * self.row_cells
            for number in numbers:
                self._paint(row, number)
            self.cells_of[numbers] = len(self.tables.cells)
            self.tables.cells.extend(row)
        return self.cells_of[numbers]

    def _paint(self, row: array[int], number: int) -> None:
        """Writes a rule's number over every cell that it matches."""
        rule = self.order[number - 1]
        names_ports = rule.ports is not None or rule.source_ports is not None
        first, last = self._span(1, rule.ports)
        brush = array("I", [number]) * (last - first)
        for protocol, has_ports, at in self.kinds:
            if rule.protocol not in (None, protocol) or (names_ports and not has_ports):
                continue
            if not has_ports:
                row[at] = number
                continue
            for line in range(*self._span(0, rule.source_ports)):
                start = at + line * self.dest_classes
                row[start + first : start + last] = brush

    def _span(self, side: int, ports: tuple[int, int] | None) -> tuple[int, int]:
        """The classes of a range of ports: the first, and the one behind the last."""
        starts = self.starts[side]
        first, last = ports or ALL_PORTS
        return bisect_right(starts, first) - 1, bisect_right(starts, last)

    # Prefixes: which row.

    def _reference(self, numbers: Sequence[int], group: int) -> int:
        """Of rules, strongest first, of which the first without ports and protocol ends all questions."""
        conditional: list[int] = []
        alone = 0
        for number in numbers:
            if self.order[number - 1].by_prefix_alone:
                alone = number
                break
            conditional.append(number)
        if not conditional and not group:
            return alone
        row = (self._cells(tuple(reversed(conditional))), alone, group)
        if row not in self.row_of:
            self.row_of[row] = len(self.tables.rows)
            self.tables.rows.append(row)
        return ROW | self.row_of[row]

    def _add_trie(self, family: int, named: list[Named], groups: dict[frozenset[int], int]) -> None:
        width = 32 if family == 4 else 128
        trie = Trie(width, self.tables)
        self.tables.roots.append(trie.root(list(self._entries(width, named, groups))))

    def _entries(self, width: int, named: list[Named], groups: dict[frozenset[int], int]) -> Iterator[Entry]:
        """Each prefix with the reference that it and the prefixes around it make, in the order of addresses."""
        around: list[tuple[int, list[int], frozenset[int]]] = [(1 << width, [], frozenset())]
        for (number, length), alike in groupby(sorted(named), key=itemgetter(0, 1)):
            own: list[int] = []
            own_pairs: list[int] = []
            for _, _, rule, is_pair in alike:
                (own_pairs if is_pair else own).append(rule)
            while number >= around[-1][0]:
                around.pop()
            _, outer, pairs = around[-1]
            rules = sorted(own + outer, reverse=True) if outer else own[::-1]
            rules = self._needed(rules)
            pairs = pairs.union(own_pairs) if own_pairs else pairs
            around.append((number + (1 << width - length), rules, pairs))
            group = groups.setdefault(pairs, len(groups) + 1) if pairs else 0
            yield number, length, self._reference(rules, group)

    def _needed(self, numbers: list[int]) -> list[int]:
        """Without those behind the first that matches whatever the ports are."""
        for place, number in enumerate(numbers):
            if self.order[number - 1].by_prefix_alone:
                return numbers[: place + 1]
        return numbers

    def _pair(self) -> None:
        """A line for each set of rules that a source can meet, a column for each that a destination can."""
        self._reserve("pairs", (len(self.lines) + 1) * (len(self.columns) + 1))
        lines, columns = _membership(self.lines), _membership(self.columns)
        met: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, among in lines.items():
            for line in among:
                for column in columns[number]:
                    met[line, column].append(number)
        width = len(self.columns) + 1
        self.tables.pairs = array("I", [0]) * ((len(self.lines) + 1) * width)
        for (line, column), numbers in met.items():
            self.tables.pairs[line * width + column] = self._reference(sorted(numbers, reverse=True), 0)


def _protocol_class(places: Mapping[Any, int], protocol: int | None, has_ports: bool) -> tuple[int, int]:
    return places[protocol, has_ports], has_ports


def _membership(groups: Mapping[frozenset[int], int]) -> dict[int, list[int]]:
    """For each rule the groups that it is in."""
    found: dict[int, list[int]] = defaultdict(list)
    for numbers, group in groups.items():
        for number in numbers:
            found[number].append(group)
    return found


class Trie:
    """Prefixes of one family as a root by 16 bits, and below it steps: a few to compare, or a node by one byte."""

    def __init__(self, width: int, tables: Tables) -> None:
        self.width = width
        self.tables = tables
        everything = (1 << width) - 1
        self.masks = [everything ^ ((1 << width - length) - 1) for length in range(width + 1)]

    def root(self, entries: list[Entry]) -> array[int]:
        """The root of prefixes in the order of addresses, no two alike."""
        below = self.width - 16
        root = array("I", [0]) * 65536
        self._spread(root, [each for each in entries if each[1] <= 16], below)
        longer = (each for each in entries if each[1] > 16)
        for slot, group in groupby(longer, key=lambda each: each[0] >> below):
            root[slot] = self._below(list(group), root[slot], 16)
        return root

    def _below(self, group: list[Entry], outside: int, known: int) -> int:
        """What tells these prefixes apart, whose first `known` bits are; `outside` holds where none of them does.

        In the order of addresses a prefix comes before those within it; the last is looked at first.
        """
        if len(group) <= LEAF_STEPS:
            reference = outside
            for number, length, inside in group:
                reference = self._step(number, length, inside, reference)
            return reference
        return self._fan_out(group, outside, known)

    def _fan_out(self, group: list[Entry], outside: int, known: int) -> int:
        """A node by the first byte in which they differ, or in which the shortest of them ends.

        Before it stands a step, where they share more bits than are known.
        """
        differing = (group[0][0] ^ group[-1][0]).bit_length()
        octet = min(self.width - differing, min(length for _, length, _ in group)) // 8
        shift = self.width - 8 * (octet + 1)
        covering = [inside for _, length, inside in group if length == 8 * octet]
        node = array("I", covering or [outside]) * 256
        place = len(self.tables.nodes)
        self.tables.nodes.append(node)
        self._spread(node, [each for each in group if 8 * octet < each[1] <= 8 * octet + 8], shift)
        longer = (each for each in group if each[1] > 8 * octet + 8)
        for slot, part in groupby(longer, key=lambda each: each[0] >> shift & 0xFF):
            node[slot] = self._below(list(part), node[slot], 8 * octet + 8)
        reference = NODE | 15 - shift // 8 << NODE_OCTET | place
        return reference if known == 8 * octet else self._step(group[0][0], 8 * octet, reference, outside)

    def _spread(self, slots: array[int], entries: Iterable[Entry], shift: int) -> None:
        """Writes prefixes over all slots that they cover, the longer over the shorter; `shift` bits choose none."""
        for number, length, reference in sorted(entries, key=itemgetter(1)):
            slot = (number >> shift) % len(slots)
            covered = 1 << self.width - length - shift
            slots[slot : slot + covered] = array("I", [reference]) * covered

    def _step(self, number: int, length: int, inside: int, outside: int) -> int:
        """A new step."""
        mask = self.masks[length]
        prefix = number & mask
        words = (prefix >> 64, prefix & LOW_64, mask >> 64, mask & LOW_64, inside, outside)
        self.tables.steps.append(struct.pack("=QQQQII", *words))
        return STEP | len(self.tables.steps) - 1


# ---- The filter ----


@dataclass(frozen=True)
class Counts:
    """Packets and bytes, over all CPUs."""

    packets: int
    bytes: int


class Filter:
    """The rule set of a loaded xdp_filter. One Filter owns a program's maps.

    A new one begins with the program's default policy alone in its books, whatever the tables hold: `replace` first.
    """

    def __init__(self, maps: Mapping[str, Any]) -> None:
        self.maps = maps
        self.default = "ALLOW"
        self._counters: dict[Rule, int] = {}
        self._free = list(range(maps["counts"].facts.max_entries - 1, FIRST_COUNTER - 1, -1))
        self._inner = [maps["active"].new_inner() for _ in range(2)]
        self._written: list[dict[str, bytes]] = [{}, {}]
        # Counters that may not be 0: all of them where a Filter was at work before.
        self._used = set(self._free) if self._in_force().dest_groups else set()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those in force, in the order in which they were listed."""
        return tuple(self._counters)

    def replace(self, rules: Iterable[Rule], *, default: str | None = None) -> None:
        """Puts these rules in the place of all others, at one moment; `default` is "ALLOW", "DENY" or as it was.

        A rule that was in force before goes on counting where it was, a new one begins at 0. ValueError when two rules
        match the same packets, or the tables have no room (see `room`); the old rules are then still in force.
        """
        listed = list(rules)
        default = self.default if default is None else default
        if default not in ("ALLOW", "DENY"):
            raise ValueError(f'default {default!r}: "ALLOW" or "DENY"')
        order, counters = ranked(listed), self._assign(listed)
        with _uncollected():
            tables = Compiler(order, default, counters, self._halves()).compile()
            entries = list(tables.entries())
        self._check(entries)
        began = [slot for rule, slot in counters.items() if rule not in self._counters]
        self._reset(began)
        self._switch(tables.rule_set, entries)
        del self._free[len(self._free) - len(began) :]
        self._free += [slot for rule, slot in self._counters.items() if rule not in counters]
        self._counters, self.default = counters, default

    def add(self, *rules: Rule) -> None:
        """Adds rules behind those that are there, all at one moment."""
        self.replace((*self.rules, *rules))

    def remove(self, *rules: Rule) -> None:
        """Takes rules out, all at one moment; KeyError for one that is not in force."""
        gone = set(rules)
        for rule in gone - set(self._counters):
            raise KeyError(str(rule))
        self.replace(rule for rule in self.rules if rule not in gone)

    def counts(self, rule: Rule) -> Counts:
        """What a rule has decided since it came into force; KeyError for one that is not."""
        total = self.maps["counts"].total(self._counters[rule])
        return Counts(total.packets, total.bytes)

    def default_counts(self) -> Counts:
        """What the default policy has decided since the program was loaded."""
        total = self.maps["counts"].total("DEFAULT_POLICY")
        return Counts(total.packets, total.bytes)

    # One change, step by step.

    def _in_force(self) -> Any:
        return self.maps["active"][0][0]

    def _assign(self, rules: Sequence[Rule]) -> dict[Rule, int]:
        """A counter for each rule: the one it has, or one that no rule in force has."""
        new = sum(rule not in self._counters for rule in rules)
        if new > len(self._free):
            raise ValueError(_no_room("counts", FIRST_COUNTER + len(self._counters) + new))
        free = iter(reversed(self._free))
        return {rule: self._counters[rule] if rule in self._counters else next(free) for rule in rules}

    def _halves(self) -> dict[str, int]:
        """What the tables that can grow out of hand hold of one rule set."""
        return {name: self.maps[name].facts.max_entries // 2 for name in ("cells", "pairs")}

    def _check(self, entries: Sequence[tuple[str, int, bytes]]) -> None:
        for name, count, _ in entries:
            if 2 * count > self.maps[name].facts.max_entries:
                raise ValueError(_no_room(name, 2 * count))

    def _reset(self, slots: Sequence[int]) -> None:
        """No rule in force counts there, so nothing is lost."""
        self.maps["counts"].update({slot: (0, 0) for slot in slots if slot in self._used})
        self._used.update(slots)

    def _switch(self, rule_set: Mapping[str, int], entries: Sequence[tuple[str, int, bytes]]) -> None:
        """Fills the half of each table that no packet looks at, and replaces the map that says which one is in force.

        The kernel waits, in the update of a map of maps, for all programs that may still hold the old one
        (maybe_wait_bpf_programs, Linux 5.0): then the other half can be filled the next time.
        """
        generation = 1 - self._in_force().generation
        begin = {name: generation * (self.maps[name].facts.max_entries // 2) for name, _, _ in entries}
        for name, count, raw in entries:
            if count and self._written[generation].get(name) != raw:
                places = array("I", range(begin[name], begin[name] + count))
                self._written[generation].pop(name, None)
                kernel.map_update_batch(self.maps[name].fd, places.tobytes(), raw, count)
                self._written[generation][name] = raw
        self._inner[generation][0] = {"generation": generation, **begin, **rule_set}
        self.maps["active"][0] = self._inner[generation]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would walk 100,000 rules again and again and find nothing: 0.4 s."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def room(rules: Iterable[Rule]) -> dict[str, int]:
    """What load("xdp_filter", max_entries=room(rules)) needs, so that these rules can be replaced by as many others.

    ValueError when no map is large enough: too many prefixes with ports, or with other prefixes, of their own.
    """
    order = ranked(rules)
    with _uncollected():
        tables = Compiler(order, "ALLOW", dict.fromkeys(order, 0)).compile()
    sizes = {name: 2 * count for name, count, _ in tables.entries()}
    least = {"steps": 8192, "nodes": 512, "rows": 2048, "pairs": 8192, "cells": 131_072, "rules": 2048}
    wanted = {name: max(size, sizes[name] * 5 // 4 & ~1) for name, size in least.items()}
    return {**wanted, "counts": FIRST_COUNTER + wanted["rules"]}


def _no_room(name: str, entries: int) -> str:
    if name in ("cells", "pairs") and entries > 2 * MOST_ENTRIES:
        own = "ports" if name == "cells" else "prefixes on the other side"
        return f"no map {name} is large enough: {entries:,} entries and more; too many prefixes have {own} of their own"
    return (
        f'no room in the map {name}: at least {entries:,} entries needed; load("xdp_filter", max_entries=room(rules))'
    )


# ---- For a person: lab attach xdp_filter, lab xdp_filter ----

RULE = re.compile(
    r"(?P<action>allow|deny)(?: (?P<protocol>[a-z]+|protocol \d+))?"
    r"(?: from (?P<source>\S+)(?: ports? (?P<source_ports>[\d-]+))?)?"
    r"(?: to (?P<destination>\S+)(?: ports? (?P<ports>[\d-]+))?)?"
    r"(?: \(?priority (?P<priority>-?\d+)\)?)?"
)
"""As `str` of a rule has it."""

_filters: WeakKeyDictionary[Any, Filter] = WeakKeyDictionary()
"""Of the programs that `load` loaded, for `view`."""


def rule_of(text: str) -> Rule:
    """The rule that `str` shows so; ValueError for what is none.

    >>> str(rule_of("deny tcp from 10.0.0.0/8 to any port 22 (priority 5)"))
    'deny tcp from 10.0.0.0/8 to any port 22 (priority 5)'
    """
    found = RULE.fullmatch(" ".join(text.split()))
    if not found:
        raise ValueError(f'{text!r} is no rule: "deny tcp from 10.0.0.0/8 to any port 22", "allow from 192.0.2.1"')
    named = found.groupdict()
    source, destination = (None if named[end] == "any" else named[end] for end in ("source", "destination"))
    protocol = named["protocol"] and named["protocol"].removeprefix("protocol ")
    return _rule(
        named["action"].upper(),
        source,
        destination,
        protocol=int(protocol) if protocol and protocol.isdigit() else protocol,
        ports=named["ports"],
        source_ports=named["source_ports"],
        priority=int(named["priority"] or 0),
    )


def rules_of(path: Path) -> Iterator[Rule]:
    """A rule a line; what follows # is a remark. ValueError that names the line of one that is none."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if text := line.partition("#")[0].strip():
            try:
                yield rule_of(text)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def load(
    bpf: Any,
    *,
    rule: tuple[str, ...] = (),
    rules: Path | None = None,
    default: Literal["allow", "deny"] = "allow",
    **knobs: Any,
) -> Any:
    """The program with its rules in force before it is attached.

    rule: "deny tcp from 10.0.0.0/8 to any port 22"; may be said several times
    rules: a file of such lines
    default: what becomes of packets that no rule names
    """
    listed = [*map(rule_of, rule), *(rules_of(rules) if rules else ())]
    program = bpf.load("xdp_filter", max_entries=room(listed), **knobs)
    _filters[program] = Filter(program.maps)
    _filters[program].replace(listed, default=default.upper())
    return program


def view(program: Any) -> Table:
    """Packets and bytes by what decided."""
    filter = _filters[program]
    rows = [(str(rule), *_shown(filter.counts(rule))) for rule in filter.rules]
    rows.append((f"{filter.default.lower()} by default", *_shown(filter.default_counts())))
    others = {"CLOSED_PORT": "a closed port", "NOT_IP": "no IP", "MALFORMED": "malformed", "TOO_DEEP": "too deep"}
    rows += [(words, *program.maps["counts"].total(name)) for name, words in others.items()]
    return Table("rules", ("rule", "packets", "bytes"), rows)


def _shown(counts: Counts) -> tuple[int, int]:
    return counts.packets, counts.bytes
