"""What user space does with xdp_track_flow: sizes its table, reads its flows, and ends those that stay silent.

program = bpf.load("xdp_track_flow", **sized(flows=1_000_000))
for flow in flows(program.maps):
    print(flow)                 # tcp 10.0.0.1:40000 -> 10.0.0.2:80 ESTABLISHED, 12 packets there and 10 back
sweep(program)                  # now and then: ends what was silent for too long
program.maps["events"].drain()  # the flows that were opened and closed meanwhile
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lab.kernel.bpf import map_batches
from lab.model.table import Table

SWEPT = 512
"""Flows that one run of the program `sweep` looks at."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def sized(flows: int) -> dict[str, Any]:
    """Arguments for load(): a table for exactly so many flows, 148 bytes each, with a hash seed of its own."""
    chains = 2 * flows
    return {
        "flow_count": flows,
        "chain_count": chains,
        "hash_seed": secrets.randbits(32),
        "max_entries": {"chains": chains, "flows": flows, "given_back": flows},
    }


@dataclass(frozen=True)
class Side:
    """One end of a flow and what came from it; `retransmits` is TCP's, reordered segments among them."""

    address: Address
    port: int
    packets: int
    bytes: int
    retransmits: int

    def __str__(self) -> str:
        where = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{where}:{self.port}" if self.port else str(self.address)


@dataclass(frozen=True)
class Flow:
    """A flow as it stood when it was read. `client` is the side that opened it, as far as that was seen.

    Times are CLOCK_MONOTONIC (`time.monotonic_ns()`), as of the tick before, 1 to 10 ms early.
    """

    protocol: int
    client: Side
    server: Side
    state: str
    first_ns: int
    last_ns: int

    def __str__(self) -> str:
        name = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}.get(self.protocol, f"protocol {self.protocol}")
        there, back = self.client.packets, self.server.packets
        return f"{name} {self.client} -> {self.server} {self.state}, {there} packets there and {back} back"


def flow_of(entry: Any) -> Flow:
    """A `struct flow` of the map `flows`, or of an event, told from the side of who opened it."""
    key, sides = entry.key, entry.sides
    ends = (
        _side(key.lower, key.lower_port, sides[0]),
        _side(key.upper, key.upper_port, sides[1]),
    )
    client, server = ends[entry.opener], ends[1 - entry.opener]
    return Flow(key.protocol, client, server, entry.state.name, entry.first_ns, entry.last_ns)


def flows(maps: Mapping[str, Any]) -> Iterator[Flow]:
    """The flows in the table now, those that have ended and still have their place among them.

    A flow that a packet changes while it is read may be caught in between.
    """
    for entry in entries(maps):
        yield flow_of(entry)


def entries(maps: Mapping[str, Any]) -> Iterator[Any]:
    """The same as `struct flow`, read by batch; free places are passed over undecoded."""
    table = maps["flows"]
    size = table.facts.value_bytes
    for _, values, count in map_batches(table.fd, 4, size):
        states = values[STATE_AT::size]
        for place in range(count):
            if states[place]:
                yield table.value_layout.decode(values[place * size : (place + 1) * size])


STATE_AT = 60
"""Of `state` in `struct flow`: its one byte is 0 where there is no flow."""


def sweep(program: Any) -> None:
    """Looks at the whole table once: each flow that was silent for too long ends, with an event CLOSED_IDLE."""
    count = program.maps["flows"].facts.max_entries
    program.programs["sweep"].run_many([bytes(64)] * -(-count // SWEPT))


def open_flows(maps: Mapping[str, Any]) -> int:
    """Flows opened and not ended, from the counters alone."""
    totals = maps["totals"]
    ended = ("CLOSED_FIN", "CLOSED_RST", "CLOSED_IDLE", "CLOSED_EVICTED")
    opened: int = totals.total("OPENED")
    return opened - sum(totals.total(name) for name in ended)


def _side(address: ipaddress.IPv6Address, port: int, side: Any) -> Side:
    return Side(address.ipv4_mapped or address, port, side.packets, side.bytes, side.tcp.retransmits)


# ---- For a person: lab xdp_track_flow ----

COLUMNS = ("protocol", "client", "server", "state")
COLUMNS += ("packets", "packets back", "bytes", "bytes back", "age s", "idle s")


def load(bpf: Any, *, room: int = 65_536, **knobs: Any) -> Any:
    """room: flows that there is room for"""
    return bpf.load("xdp_track_flow", **sized(room), **knobs)


def view(program: Any, *, top: int = 20, by: Literal["bytes", "packets", "age"] = "bytes") -> Iterator[Table]:
    """The flows, those that were silent for too long ended first.

    top: flows shown
    by: what their order is by
    """
    while True:
        sweep(program)
        now_ns = time.monotonic_ns()
        found = sorted(flows(program.maps), key=lambda flow: _rank(flow, by), reverse=True)
        rows = [_row(flow, now_ns) for flow in found[:top]]
        yield Table("flows", COLUMNS, rows, f"{len(rows):,} of {len(found):,}")


def _rank(flow: Flow, by: str) -> int:
    if by == "age":
        return -flow.first_ns
    return getattr(flow.client, by) + getattr(flow.server, by)


def _row(flow: Flow, now_ns: int) -> tuple[Any, ...]:
    protocol, client, server = str(flow).split(" ")[0], flow.client, flow.server
    packets, octets = (client.packets, server.packets), (client.bytes, server.bytes)
    age_s, idle_s = ((now_ns - since) // 1_000_000_000 for since in (flow.first_ns, flow.last_ns))
    return (protocol, str(client), str(server), flow.state, *packets, *octets, age_s, idle_s)
