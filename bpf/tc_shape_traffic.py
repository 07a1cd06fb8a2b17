"""What user space does with tc_shape_traffic: classes with rates, and rules that say which packet is in which class.

with bpf.load("tc_shape_traffic") as program:
    shaper = Shaper(program)
    shaper.limit_link("100mbit")
    voice = shaper.add("voice", "1mbit")
    shaper.rule(voice, dscp=(46,))
    bulk = shaper.add("bulk", "20mbit", borrows=True, priority=3)
    shaper.rule(bulk, ports=(873,), prefixes=("10.9.0.0/16",), priority=1)
    shaper.change(bulk, "40mbit")                       # at any time
    shaper.count(bulk).dropped
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, ip_network
from typing import Any, Literal

from lab.errors import LabError
from lab.model.table import Table

CLASSES = 64
LINK = CLASSES
COST_FRACTION = 16
NS_PER_S = 1_000_000_000
RATE_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
SIZE_UNITS = {"b": 1, "kb": 1 << 10, "mb": 1 << 20}
LEAST_BURST_BYTES = 32 << 10
"""The ten segments that a connection sends at once when it is new (RFC 6928), headers included."""
BURST_S = 0.02
"""Some ticks: what does not come evenly, because its sender sleeps between, still has its rate."""


def bits_per_second(text: str | float) -> float:
    """Of "10mbit", "1.5gbit", "64kbit" or a number of bits a second.

    >>> bits_per_second("1.5mbit")
    1500000.0
    """
    found = re.fullmatch(r"([\d.]+)\s*([kmg]?bit)?(?:/s)?", str(text).lower())
    if not found or not float(found[1]):
        raise ValueError(f"{text!r} is no rate: 10mbit, 1.5gbit, 64kbit")
    return float(found[1]) * RATE_UNITS[found[2] or "bit"]


def size_bytes(text: str | int) -> int:
    """Of "64kb", "2mb" or a number of bytes; units are powers of 1024."""
    found = re.fullmatch(r"(\d+)\s*([km]?b)?", str(text).lower())
    if not found:
        raise ValueError(f"{text!r} is no size: 64kb, 2mb")
    return int(found[1]) * SIZE_UNITS[found[2] or "b"]


@dataclass(frozen=True)
class Class:
    """What `add` made. Class 0 has what no rule names; rate 0 is no limit."""

    number: int
    name: str
    bits_per_second: float
    burst_bytes: int
    mark: bool
    borrows: bool
    priority: int

    def as_value(self) -> dict[str, Any]:
        """The entry of `classes`."""
        if not self.bits_per_second:
            return {"cost": 0, "burst_ns": 0}
        byte_ns = 8 * NS_PER_S / self.bits_per_second
        return {
            "cost": round(byte_ns * (1 << COST_FRACTION)),
            "burst_ns": round(byte_ns * self.burst_bytes),
            "over": "MARK" if self.mark else "DROP",
            "borrows": int(self.borrows),
            "priority": self.priority,
        }


class Shaper:
    """The classes and rules of a loaded program."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self._maps = program.maps
        self.link: Class | None = None
        self._classes: dict[int, Class] = {0: Class(0, "default", 0, 0, False, False, 7)}

    @property
    def classes(self) -> tuple[Class, ...]:
        """The default first."""
        return tuple(self._classes.values())

    def limit_link(self, rate: str | float, *, burst: str | int = "") -> None:
        """Classes that borrow share what the others leave of this; what was promised to classes must fit."""
        self.link = self._class(LINK, "link", rate, burst)
        self._check_promises(self._classes)
        self._maps["classes"][LINK] = self.link.as_value()

    def limit_default(
        self, rate: str | float, *, burst: str | int = "", mark: bool = False, borrows: bool = False, priority: int = 7
    ) -> None:
        """What no rule names has this rate."""
        self._put(self._class(0, "default", rate, burst, mark, borrows, priority))

    def add(
        self,
        name: str,
        rate: str | float,
        *,
        burst: str | int = "",
        mark: bool = False,
        borrows: bool = False,
        priority: int = 0,
    ) -> int:
        """A class; its number. `priority` 0 to 7 is for what is borrowed: the first is served before the others.

        `mark` marks ECN-capable packets over the rate instead of dropping them. ValueError for what cannot be.
        """
        number = next((each for each in range(CLASSES) if each not in self._classes), None)
        if number is None:
            raise ValueError(f"there are {CLASSES} classes")
        self._put(self._class(number, name, rate, burst, mark, borrows, priority))
        return number

    def rule(
        self,
        number: int,
        *,
        prefixes: Sequence[str] = (),
        ports: Sequence[int] = (),
        dscp: Sequence[int] = (),
        priority: int = 0,
    ) -> None:
        """Packets from or to there are in that class. Of rules that match one packet the highest priority decides."""
        if number not in self._classes:
            raise ValueError(f"there is no class {number}")
        rules = [
            *(("by_prefix", _prefix(each)) for each in prefixes),
            *(("by_port", _within(each, "port", 1, 65535)) for each in ports),
            *(("by_dscp", _within(each, "DSCP", 0, 63)) for each in dscp),
        ]
        value = _within(priority, "priority", 0, 254) + 1 << 8 | number
        for table, key in rules:
            self._maps[table][key] = value
        self.program.globals["prefixes"] += len(prefixes)

    def empty(self, number: int) -> None:
        """Takes all tokens of a class: its burst has to be earned first."""
        burst_ns = self._maps["classes"][number].burst_ns
        self._maps["buckets"][number] = {"full_ns": time.monotonic_ns() + burst_ns}

    def change(self, number: int, rate: str | float, *, burst: str | int = "") -> None:
        """Another rate from the next packet on."""
        was = self._classes[number]
        self._put(self._class(number, was.name, rate, burst, was.mark, was.borrows, was.priority))

    def count(self, number: int) -> Any:
        """packets, bytes, borrowed, marked, delayed, dropped, dropped_bytes of a class, summed over the CPUs."""
        return self._maps["counts"].total(number)

    def _class(
        self,
        number: int,
        name: str,
        rate: str | float,
        burst: str | int,
        mark: bool = False,
        borrows: bool = False,
        priority: int = 0,
    ) -> Class:
        speed = bits_per_second(rate)
        size = size_bytes(burst) if burst else max(LEAST_BURST_BYTES, round(speed / 8 * BURST_S))
        return Class(number, name, speed, size, mark, borrows, _within(priority, "priority", 0, 7))

    def _put(self, changed: Class) -> None:
        classes = {**self._classes, changed.number: changed}
        if changed.borrows and self.link is None:
            raise ValueError(f"{changed.name} borrows, and the link has no rate: limit_link first")
        self._check_promises(classes)
        self._maps["classes"][changed.number] = changed.as_value()
        self._classes = classes

    def _check_promises(self, classes: dict[int, Class]) -> None:
        promised = sum(each.bits_per_second for each in classes.values())
        if self.link and promised > self.link.bits_per_second:
            raise ValueError(
                f"classes are promised {promised:,.0f} bit/s, the link has {self.link.bits_per_second:,.0f}"
            )


def _within(number: int, what: str, least: int, most: int) -> int:
    if not least <= number <= most:
        raise ValueError(f"{what} {number} must be {least} to {most}")
    return number


def _prefix(text: str) -> dict[str, Any]:
    network = ip_network(text)
    if isinstance(network, IPv4Network):
        mapped = IPv6Address(0xFFFF << 32 | int(network.network_address))
        return {"prefixlen": 96 + network.prefixlen, "address": mapped}
    return {"prefixlen": network.prefixlen, "address": network.network_address}


# ---- `lab tc_shape_traffic` ----

SHAPERS: dict[int, Shaper] = {}
"""By the descriptor of the program's classes: what attach made, for view."""
RULE = "voice: 1mbit dscp=46 port=5060 to=10.9.0.0/16 priority=0 borrow mark"


def attach(
    program: Any,
    place: Any,
    *,
    how: Literal["auto", "delay", "drop", "mark", "police"] = "auto",
    rate: str = "",
    burst: str = "",
    link: str = "",
    rule: tuple[str, ...] = (),
    pace: bool = True,
) -> Iterator[Any]:
    """One of the programs, by what the interface can do.

    how: delay (its root qdisc must be fq), drop or mark what is over at egress, or police what comes in
    rate: of what no rule names: 10mbit
    burst: of that: 64kb
    link: of all together; classes that borrow share what is left of it
    rule: a class: "voice: 1mbit dscp=46 port=5060 to=10.9.0.0/16 priority=0 borrow mark"; may be repeated
    pace: has TCP sockets of the cgroup (default: all) pace themselves, where nothing delays
    """
    if not place.interfaces:
        raise LabError("which interface is to be shaped?", mend="--interface eth0")
    chosen = _how(place, how)
    try:
        SHAPERS[program.maps["classes"].fd] = _shaper(program, link, rate, burst, rule, chosen == "mark")
    except ValueError as error:
        raise LabError(str(error), mend=f'--rate 10mbit, --rule "{RULE}"') from error
    name = {"delay": "shape_by_delay", "police": "police"}.get(chosen, "shape_by_drop")
    yield from place.attach(program.programs[name])
    if pace and name == "shape_by_drop" and place.cgroup:
        yield from place.attach(program.programs["pace"])


def _shaper(program: Any, link: str, rate: str, burst: str, rules: Sequence[str], mark: bool) -> Shaper:
    if not rate and not rules:
        raise ValueError("there is no rate")
    shaper = Shaper(program)
    if link:
        shaper.limit_link(link)
    if rate:
        shaper.limit_default(rate, burst=burst, mark=mark)
    for each in rules:
        _add_rule(shaper, each, mark)
    return shaper


def _add_rule(shaper: Shaper, text: str, mark: bool) -> None:
    """A class from words: see RULE."""
    name, _, rest = text.partition(":")
    said: dict[str, list[str]] = {}
    for word in rest.split():
        key, _, value = word.partition("=")
        said.setdefault(key if value else word, []).append(value)
    flags = {word for word in ("borrow", "mark") if word in said}
    unknown = [word for word in said if word not in ("dscp", "port", "to", "priority", "burst", *flags)]
    if len(unknown) != 1:
        raise ValueError(f"{text!r} is no class")
    number = shaper.add(
        name.strip(),
        unknown[0],
        burst=said.get("burst", [""])[0],
        mark=mark or "mark" in flags,
        borrows="borrow" in flags,
        priority=int(said.get("priority", ["0"])[0]),
    )
    shaper.rule(
        number,
        prefixes=said.get("to", ()),
        ports=[int(each) for each in said.get("port", ())],
        dscp=[int(each) for each in said.get("dscp", ())],
    )


def _how(place: Any, how: str) -> str:
    if how not in ("auto", "delay"):
        return how
    without = [each.name for each in place.interfaces if not has_fq(each.ifindex)]
    if how == "delay" and without:
        raise LabError(
            f"{', '.join(without)} does not delay: its root qdisc is not fq",
            mend=f"tc qdisc replace dev {without[0]} root fq, or --how drop",
        )
    return "drop" if without else "delay"


def has_fq(ifindex: int) -> bool:
    """Whether an interface of the calling thread's namespace holds packets until their departure time."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        kinds = {each.get_attr("TCA_KIND") for each in route.get_qdiscs(index=ifindex)}
    return "fq" in kinds and kinds <= {"fq", "mq", "clsact", "ingress"}


def view(program: Any) -> Iterator[Table]:
    """Each class: its rate, what it reaches now, and what became of its packets."""
    shaper = SHAPERS[program.maps["classes"].fd]
    before: dict[int, tuple[int, int]] = {}
    while True:
        rows = [_row(shaper, each, before) for each in shaper.classes]
        columns = ("class", "rate bit/s", "now bit/s", "packets", "delayed", "borrowed", "marked", "dropped")
        link = f"of the link's {shaper.link.bits_per_second:,.0f} bit/s" if shaper.link else ""
        yield Table("classes", columns, rows, note=link)


def _row(shaper: Shaper, each: Class, before: dict[int, tuple[int, int]]) -> tuple[Any, ...]:
    count, now_ns = shaper.count(each.number), time.monotonic_ns()
    passed, then_ns = before.get(each.number, (count.bytes, now_ns - 1))
    before[each.number] = (count.bytes, now_ns)
    speed = round((count.bytes - passed) * 8 * NS_PER_S / (now_ns - then_ns))
    became = (count.packets, count.delayed, count.borrowed, count.marked, count.dropped)
    return (each.name, round(each.bits_per_second) or "no limit", speed, *became)


def summary(program: Any) -> str:
    """What passed and what did not, in a sentence."""
    shaper = SHAPERS[program.maps["classes"].fd]
    every = [shaper.count(each.number) for each in shaper.classes]
    return f"{sum(each.packets for each in every)} packets passed, {sum(each.dropped for each in every)} dropped"
