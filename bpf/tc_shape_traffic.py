"""What user space does with tc_shape_traffic: classes with rates, and rules that say which packet is in which class.

with bpf.load("tc_shape_traffic", program="shape_by_drop") as program:
    shaper = Shaper(program)
    shaper.limit_link("100mbit")
    voice = shaper.add("voice", "1mbit", priority=0, dscp=(46,))
    bulk = shaper.add("bulk", "20mbit", borrows=True, priority=3, ports=(873,), prefixes=("10.9.0.0/16",))
    shaper.change(bulk, "40mbit")                       # at any time
    shaper.count(bulk).dropped
"""

from __future__ import annotations

import re
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
LEAST_BURST_BYTES = 128 << 10
"""Two frames of 64 KiB, as large as local senders make them."""
BURST_S = 0.02
PROGRAMS = {"delay": "shape_by_delay", "drop": "shape_by_drop", "mark": "shape_by_drop", "police": "police"}


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
        self._program = program
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
        prefixes: Sequence[str] = (),
        ports: Sequence[int] = (),
        dscp: Sequence[int] = (),
        rule_priority: int = 0,
    ) -> int:
        """A class, and the rules that put packets into it; its number. ValueError for what cannot be.

        `priority` 0 to 7 is for what is borrowed, the first before the others. Of several rules that match, the one of
        the highest `rule_priority`, 0 to 254, decides.
        """
        number = next((each for each in range(CLASSES) if each not in self._classes), None)
        if number is None:
            raise ValueError(f"there are {CLASSES} classes")
        rules = [
            *(("by_prefix", _prefix(each)) for each in prefixes),
            *(("by_port", _within(each, "port", 1, 65535)) for each in ports),
            *(("by_dscp", _within(each, "DSCP", 0, 63)) for each in dscp),
        ]
        value = _within(rule_priority, "rule_priority", 0, 254) + 1 << 8 | number
        self._put(self._class(number, name, rate, burst, mark, borrows, priority))
        for table, key in rules:
            self._maps[table][key] = value
        self._program.globals["prefixes"] += len(prefixes)
        return number

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
