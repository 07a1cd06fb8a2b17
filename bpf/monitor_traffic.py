"""What user space does with monitor_traffic: attaches all its layers, and reads flows, ports, interfaces and events.

with ExitStack() as undo:
    for each in attach_to(program, [net.interface("server/eth0")], group):
        undo.callback(each.detach)
    for flow in flows(program.maps):
        print(flow)         # tcp 10.0.0.1:40000 -> 10.0.0.2:80 ESTABLISHED, 14 packets, 9312 bytes, srtt 41 us
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lab.bpf.companion import load_module
from lab.model.action import Mode
from lab.model.table import Table

FIN, SYN, RST = 0x01, 0x02, 0x04
LETTERS = "FSRPAUEC"  # by bit, as tcpdump writes them; A is ACK
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


@dataclass(frozen=True)
class Side:
    """What an end of a flow sent; state "NO_STATE" and 0 RTT where its socket is not on this machine."""

    address: str
    port: int
    packets: int
    bytes: int
    flags: int
    state: str
    srtt_us: int
    retransmits: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}" if self.port else self.address


@dataclass(frozen=True)
class Flow:
    """One row: `opener` sent the first packet. Times are CLOCK_MONOTONIC, as of the tick before."""

    protocol: str
    opener: Side
    answerer: Side
    first_ns: int
    last_ns: int
    ifindex: int

    @property
    def packets(self) -> int:
        """Of both directions."""
        return self.opener.packets + self.answerer.packets

    @property
    def bytes(self) -> int:
        """Of both directions."""
        return self.opener.bytes + self.answerer.bytes

    @property
    def srtt_us(self) -> int:
        """Of the opener's socket, or else of the other; 0: none of them is here, or has a sample."""
        return self.opener.srtt_us or self.answerer.srtt_us

    @property
    def retransmits(self) -> int:
        """Of the sockets that are here."""
        return self.opener.retransmits + self.answerer.retransmits

    @property
    def state(self) -> str:
        """The opener's socket's, else the other's; of TCP without a socket here what the flags tell; "" for others."""
        for side in (self.opener, self.answerer):
            if side.state != "NO_STATE":
                return side.state
        return _state_by_flags(self.opener.flags, self.answerer.flags) if self.protocol == "tcp" else ""

    def __str__(self) -> str:
        return (
            f"{self.protocol} {self.opener} -> {self.answerer} {self.state}, "
            f"{self.packets} packets, {self.bytes} bytes, srtt {self.srtt_us} us"
        )


def _state_by_flags(one: int, other: int) -> str:
    if (one | other) & RST:
        return "RESET"
    if one & other & FIN:
        return "CLOSED"
    if (one | other) & FIN:
        return "CLOSING"
    return "SYN_SENT" if one & SYN and not other else "ESTABLISHED"


def letters(flags: int) -> str:
    """TCP flags as letters, by bit.

    >>> letters(0x12)
    'SA'
    """
    return "".join(letter for bit, letter in enumerate(LETTERS) if flags >> bit & 1)


def flow_of(key: Any, entry: Any) -> Flow:
    """An entry of the map `flows`."""
    ends = ((key.lower, key.lower_port), (key.upper, key.upper_port))
    sides = [_side(address, port, side) for (address, port), side in zip(ends, entry.sides, strict=True)]
    opener = entry.opener & 1
    name = PROTOCOLS.get(key.protocol, str(key.protocol))
    return Flow(name, sides[opener], sides[1 - opener], entry.first_ns, entry.last_ns, entry.ifindex)


def _side(address: Any, port: int, side: Any) -> Side:
    said = (side.state.name, side.srtt_us, side.retransmits)
    return Side(_plain(address), port, side.packets, side.bytes, side.flags, *said)


def _plain(address: ipaddress.IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


def flows(maps: Mapping[str, Any]) -> Iterator[Flow]:
    """All flows, in no order."""
    for key, entry in maps["flows"].items():
        yield flow_of(key, entry)


# ---- Sums ----


@dataclass(frozen=True)
class Port:
    """What went to a service's port, and came from it."""

    protocol: str
    number: int
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int


def ports(maps: Mapping[str, Any]) -> Iterator[Port]:
    """The ports of TCP and UDP that had traffic."""
    for key, every_cpu in maps["ports"].items():
        each = every_cpu.total()
        numbers = (each.asked.packets, each.asked.bytes, each.answered.packets, each.answered.bytes)
        yield Port(PROTOCOLS[key.protocol], key.number, *numbers)


def interface_name(ifindex: int) -> str:
    """In the calling thread's namespace; its number where it has none."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)


def layers(maps: Mapping[str, Any]) -> dict[tuple[int, str], Any]:
    """Packets and bytes (`.packets`, `.bytes`) of each interface (ifindex) at each layer."""
    return {(key.ifindex, key.layer.name): each.total() for key, each in maps["interfaces"].items()}


def untracked(maps: Mapping[str, Any]) -> dict[str, int]:
    """How many packets are in no flow, and why."""
    return {outcome.name: times.total() for outcome, times in maps["outcomes"].items()}


@dataclass(frozen=True)
class Event:
    """A TCP socket of this machine connects, was established, was closed."""

    kind: str
    local: str
    remote: str
    srtt_us: int
    retransmits: int
    at_ns: int

    def __str__(self) -> str:
        return f"{self.kind} {self.local} -> {self.remote}, srtt {self.srtt_us} us, {self.retransmits} retransmits"


def event_of(event: Any) -> Event:
    """One of the ring buffer's."""
    key, socket_ = event.key, event.socket
    ends = (_end(key.lower, key.lower_port), _end(key.upper, key.upper_port))
    local, remote = ends if not event.side else ends[::-1]
    return Event(event.kind.name, local, remote, socket_.srtt_us, socket_.retransmits, event.at_ns)


def _end(address: ipaddress.IPv6Address, port: int) -> str:
    plain = _plain(address)
    return f"[{plain}]:{port}" if ":" in plain else f"{plain}:{port}"


# ---- Attaching ----


def attach_to(program: Any, interfaces: Sequence[Any], group: Any, *, mode: Mode = Mode.NATIVE) -> Iterator[Any]:
    """XDP, tc ingress and tc egress on each interface, the sockets of the cgroup: yields each Attachment."""
    for name, each in program.programs.items():
        if each.type == "xdp":
            yield from (each.attach(interface, mode=mode) for interface in interfaces)
        elif name != "monitor_socket":
            yield from (each.attach(interface) for interface in interfaces)
        else:
            yield each.attach(group)


def attach(program: Any, place: Any) -> Iterator[Any]:
    """All four layers: on every interface of the place, and on its cgroup."""
    for each in program.programs.values():
        yield from place.attach(each)


# ---- For a person: lab monitor_traffic ----

SORTED_BY: dict[str, Callable[[Flow], float]] = {
    "bytes": lambda each: each.bytes,
    "packets": lambda each: each.packets,
    "rtt": lambda each: each.srtt_us,
    "retransmits": lambda each: each.retransmits,
    "last": lambda each: each.last_ns,
}


def exporter() -> Any:
    """The module bpf/monitor_traffic_exporter.py."""
    return load_module(Path(__file__).with_name("monitor_traffic_exporter.py"))


def sample(maps: Mapping[str, Any]) -> Any:
    """All that is counted, now, for an Exporter; interfaces by name."""
    named = {(interface_name(ifindex), layer): count for (ifindex, layer), count in layers(maps).items()}
    return exporter().Sample(list(flows(maps)), list(ports(maps)), named, untracked(maps))


def view(
    program: Any,
    *,
    top: int = 20,
    by: Literal["bytes", "packets", "rtt", "retransmits", "last"] = "bytes",
    listen: int = 0,
) -> Iterator[list[Table]]:
    """Flows, ports and interfaces, now; once for each time that it is asked.

    Options:
        top: rows shown of flows and of ports
        by: what flows are sorted by
        listen: serves /metrics and /api/flows on this port of 127.0.0.1, as fresh as what is shown
    """
    with ExitStack() as stack:
        server = stack.enter_context(exporter().Exporter(listen)) if listen else None
        while True:
            if server:
                server.show(sample(program.maps))
            yield tables(program.maps, top=top, by=by)


def tables(maps: Mapping[str, Any], *, top: int = 20, by: str = "bytes") -> list[Table]:
    """Flows, ports and interfaces, now."""
    found = list(flows(maps))
    shown = sorted(found, key=SORTED_BY[by], reverse=True)[:top]
    return [_flow_table(found, shown, maps), _port_table(maps, top), _interface_table(maps)]


def _flow_table(found: Sequence[Flow], shown: Sequence[Flow], maps: Mapping[str, Any]) -> Table:
    now_ns = time.monotonic_ns()
    columns = ("proto", "from", "to", "state", "flags", "pkts out", "bytes out", "pkts in", "bytes in", "srtt us")
    rows = [(*_row(each), round((now_ns - each.last_ns) / 1e9, 1)) for each in shown]
    return Table(f"{len(found)} flows", (*columns, "retransmits", "idle s"), rows, note=_note(maps))


def _row(each: Flow) -> tuple[Any, ...]:
    out, back = each.opener, each.answerer
    flags = f"{letters(out.flags)}/{letters(back.flags)}" if each.protocol == "tcp" else ""
    numbers = (out.packets, out.bytes, back.packets, back.bytes, each.srtt_us, each.retransmits)
    return (each.protocol, str(out), str(back), each.state, flags, *numbers)


def _note(maps: Mapping[str, Any]) -> str:
    missed = {name.lower(): times for name, times in untracked(maps).items() if times}
    return "in no flow: " + (", ".join(f"{times} {name}" for name, times in missed.items()) or "nothing")


def _port_table(maps: Mapping[str, Any], top: int) -> Table:
    busiest = sorted(ports(maps), key=lambda each: each.bytes_in + each.bytes_out, reverse=True)[:top]
    rows = [(each.protocol, each.number, *_port_numbers(each)) for each in busiest]
    return Table("service ports", ("proto", "port", "pkts to", "bytes to", "pkts from", "bytes from"), rows)


def _port_numbers(each: Port) -> tuple[int, int, int, int]:
    return each.packets_in, each.bytes_in, each.packets_out, each.bytes_out


def _interface_table(maps: Mapping[str, Any]) -> Table:
    rows = [(interface_name(i), layer, n.packets, n.bytes) for (i, layer), n in sorted(layers(maps).items())]
    return Table("interfaces, by layer", ("interface", "layer", "packets", "bytes"), rows)


def summary(program: Any) -> str:
    """What was seen, in a sentence."""
    found = list(flows(program.maps))
    return f"{len(found)} flows, {sum(each.packets for each in found)} packets; {_note(program.maps)}"
