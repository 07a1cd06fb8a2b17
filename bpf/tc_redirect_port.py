"""Rules for tc_redirect_port: written so that a packet meets a rule whole or not at all.

redirector = Redirector(request.maps)
rule = redirector.add("tcp", 80, to_port=8080)                              # any address of this machine
rule = redirector.add("udp", 53, address="10.0.0.53", to_address="10.0.1.7")
redirector.hit(rule).packets
redirector.remove(rule)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any
from weakref import WeakKeyDictionary

from lab.host.endpoint import endpoint
from lab.model.table import Table

PROTOCOLS = {"tcp": 6, "udp": 17}
RULE_EXACT, RULE_ANY, TARGET_EXACT, TARGET_ANY = 1, 2, 4, 8
RULES = 1024
ANY = IPv6Address("::")


@dataclass(frozen=True)
class Rule:
    """What `add` made: requests for `source` go to `target`; `id` counts its hits."""

    id: int
    protocol: str
    source: tuple[IPv6Address, int]
    target: tuple[IPv6Address, int]


class Redirector:
    """Adds and removes rules in the maps of a loaded tc_redirect_port; ValueError for a rule that cannot be."""

    def __init__(self, maps: Mapping[str, Any]) -> None:
        self._maps = maps
        self._rules: dict[int, Rule] = {}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, oldest first."""
        return tuple(self._rules.values())

    def add(
        self,
        protocol: str,
        port: int,
        *,
        address: str | None = None,
        to_port: int | None = None,
        to_address: str | None = None,
    ) -> Rule:
        """Requests for the port (at one address, or at any) go to another port, another address, or both."""
        rule = self._checked(protocol, port, address, to_port or port, to_address)
        self._write_counters(rule)
        # The way back first: once a request is redirected, its reply must be understood.
        self._maps["replies"][self._key(rule.protocol, rule.target)] = self._substitute(rule, rule.source)
        self._use(rule.target[1], TARGET_EXACT if rule.target[0] != ANY else TARGET_ANY)
        self._maps["redirects"][self._key(rule.protocol, rule.source)] = self._substitute(rule, rule.target)
        self._use(rule.source[1], RULE_EXACT if rule.source[0] != ANY else RULE_ANY)
        self._rules[rule.id] = rule
        return rule

    def remove(self, rule: Rule) -> None:
        """New requests are left alone at once; replies under way are too, and their connections end."""
        del self._rules[rule.id]
        del self._maps["redirects"][self._key(rule.protocol, rule.source)]
        del self._maps["replies"][self._key(rule.protocol, rule.target)]
        for port in {rule.source[1], rule.target[1]}:
            self._maps["ports"][port] = self._uses_of(port)

    def hit(self, rule: Rule) -> Any:
        """packets, bytes, reply_packets, reply_bytes of a rule, summed over the CPUs."""
        return self._maps["hits"].total(rule.id)

    def _checked(self, protocol: str, port: int, address: str | None, to_port: int, to_address: str | None) -> Rule:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r} is neither tcp nor udp")
        if not 1 <= port <= 65535 or not 1 <= to_port <= 65535:
            raise ValueError(f"ports {port} and {to_port} must be 1 to 65535")
        if (address is None) != (to_address is None):
            if address is None:
                raise ValueError("a rule for any address cannot change it: its replies would not know their own back")
            to_address = address
        source, target = (_mapped(address), port), (_mapped(to_address), to_port)
        if source == target:
            raise ValueError(f"{address or 'any'}:{port} to itself changes nothing")
        if (source[0].ipv4_mapped is None) != (target[0].ipv4_mapped is None):
            raise ValueError(f"{address} and {to_address} are not of one family")
        for each in self._rules.values():
            if each.protocol == protocol and (each.source == source or each.target == target):
                raise ValueError(f"rule {each.id} has that {'address and port' if each.source == source else 'target'}")
        free = next((number for number in range(RULES) if number not in self._rules), None)
        if free is None:
            raise ValueError(f"there are {RULES} rules: remove one first")
        return Rule(free, protocol, source, target)

    def _write_counters(self, rule: Rule) -> None:
        self._maps["hits"][rule.id] = {"packets": 0, "bytes": 0, "reply_packets": 0, "reply_bytes": 0}

    def _key(self, protocol: str, end: tuple[IPv6Address, int]) -> dict[str, Any]:
        return {"address": end[0], "port": end[1], "protocol": PROTOCOLS[protocol]}

    def _substitute(self, rule: Rule, end: tuple[IPv6Address, int]) -> dict[str, Any]:
        return {"address": end[0], "port": end[1], "rule": rule.id}

    def _use(self, port: int, kind: int) -> None:
        self._maps["ports"][port] = self._maps["ports"][port] | kind

    def _uses_of(self, port: int) -> int:
        uses = 0
        for each in self._rules.values():
            if each.source[1] == port:
                uses |= RULE_EXACT if each.source[0] != ANY else RULE_ANY
            if each.target[1] == port:
                uses |= TARGET_EXACT if each.target[0] != ANY else TARGET_ANY
        return uses


def _mapped(address: str | None) -> IPv6Address:
    """Any address is ::, an IPv4 address is mapped into IPv6 (RFC 4291, section 2.5.5.2)."""
    if address is None:
        return ANY
    found = ip_address(address)
    return found if isinstance(found, IPv6Address) else IPv6Address(f"::ffff:{found}")


# ---- For a person: lab attach tc_redirect_port ----

_redirectors: WeakKeyDictionary[Any, Redirector] = WeakKeyDictionary()
"""Of the programs that `load` loaded, for `view`."""


def add_text(redirector: Redirector, text: str) -> Rule:
    """The rule of "tcp/80=8080" or "udp/10.0.0.53:53=10.0.1.7:5353"; ValueError for what is none."""
    protocol, slash, ends = text.partition("/")
    before, sign, after = ends.partition("=")
    if not slash or not sign:
        raise ValueError(f'{text!r} is no rule: "tcp/80=8080", "udp/10.0.0.53:53=10.0.1.7:5353"')
    (address, port), (to_address, to_port) = endpoint(before), endpoint(after)
    return redirector.add(
        protocol,
        port,
        address=str(address) if address else None,
        to_port=to_port,
        to_address=str(to_address) if to_address else None,
    )


def load(bpf: Any, *, rule: tuple[str, ...] = (), **knobs: Any) -> Any:
    """The program with its rules in force before it is attached.

    rule: "tcp/80=8080" or "udp/10.0.0.53:53=10.0.1.7:5353"; may be said several times
    """
    program = bpf.load("tc_redirect_port", **knobs)
    _redirectors[program] = Redirector(program.maps)
    for each in rule:
        add_text(_redirectors[program], each)
    return program


def view(program: Any) -> Table:
    """Packets and bytes each way by rule."""
    redirector = _redirectors[program]
    columns = ("rule", "packets", "bytes", "reply packets", "reply bytes")
    return Table("rules", columns, [(_words(each), *redirector.hit(each)) for each in redirector.rules])


def _words(rule: Rule) -> str:
    (address, port), (to_address, to_port) = rule.source, rule.target
    ends = [f"{_host(each)}:{number}" for each, number in ((address, port), (to_address, to_port))]
    return f"{rule.protocol}/{ends[0]}={ends[1]}"


def _host(address: IPv6Address) -> str:
    if address == ANY:
        return "*"
    return str(address.ipv4_mapped) if address.ipv4_mapped else f"[{address}]"
