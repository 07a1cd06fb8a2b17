"""Services, backends, weights, health and draining for xdp_balance: what user space writes into its maps.

    balancer = Balancer(program.maps)
    web = balancer.add_service("192.0.2.10", 80, protocol="tcp", scheduler="MAGLEV")
    first = web.add("10.0.0.1", 8080)
    second = web.add("10.0.0.2", 8080, weight=2)
    first.drain()       # keeps its flows, gets no new ones
    second.fail()       # a health check failed: its flows move at their next packet
    second.recover()

One Balancer owns a program's maps. Each change first marks the backend, in one map write that the data path sees at
once, and then rebuilds its service's table; between the two the data path passes the marked backend over.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import secrets
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from lab.host.endpoint import endpoint
from lab.model.table import Table

PAPER_SLOTS = 65537
"""The smaller table of the Maglev paper: even within 1 % for up to a hundred backends or so."""

TABLE_SLOTS = 65537
SERVICES = 64
BACKENDS = 4096
WHEEL_LIMIT = 4096

NOTHING = {"packets": 0, "bytes": 0, "reply_packets": 0, "reply_bytes": 0, "flows": 0}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def maglev(names: Sequence[str], weights: Sequence[int], slots: int = PAPER_SLOTS) -> list[int]:
    """A Maglev table: for each of `slots` (a prime) the index of a backend, each with its share by weight.

    A backend's preferences come from its name alone, so tables built anywhere from the same names agree, and when one
    leaves few other slots change hands (Eisenbud et al., "Maglev", NSDI 2016, section 3.4). Weights let a backend take
    its turn less often.
    """
    _check_maglev(names, weights, slots)
    if not names:
        return []
    at, step = zip(*(_preference(name, slots) for name in names), strict=True)
    position, strides = list(at), list(step)
    table = [-1] * slots
    credit, heaviest, left = [0] * len(names), max(weights), slots
    while True:
        for index, weight in enumerate(weights):
            credit[index] += weight
            if credit[index] < heaviest:
                continue
            credit[index] -= heaviest
            slot, stride = position[index], strides[index]
            while table[slot] >= 0:
                slot = (slot + stride) % slots
            table[slot] = index
            position[index] = (slot + stride) % slots
            left -= 1
            if not left:
                return table


def _check_maglev(names: Sequence[str], weights: Sequence[int], slots: int) -> None:
    if len(set(names)) != len(names):
        raise ValueError("two backends have one name: they would want the same slots")
    if len(names) != len(weights) or any(weight < 1 for weight in weights):
        raise ValueError("each backend needs a weight of at least 1; drain it to give it no new flows")
    if slots < 2 or any(slots % divisor == 0 for divisor in range(2, math.isqrt(slots) + 1)):
        raise ValueError(f"{slots} slots: not a prime, so a backend could not reach every slot")
    if len(names) > slots:
        raise ValueError(f"{len(names)} backends do not fit into {slots} slots")


def _preference(name: str, slots: int) -> tuple[int, int]:
    """Where a backend's permutation of the slots begins, and its stride."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    offset, skip = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
    return offset % slots, skip % (slots - 1) + 1


def wheel(weights: Sequence[int]) -> list[int]:
    """One round of a smooth weighted round robin: each index as often as its weight says, spread out.

    The algorithm is nginx's since 1.3.1: the one with most credit goes next and pays what all were given.

    >>> wheel([5, 1, 1])
    [0, 0, 1, 0, 2, 0, 0]
    """
    if any(weight < 1 for weight in weights):
        raise ValueError("each backend needs a weight of at least 1; drain it to give it no new flows")
    if not weights:
        return []
    divisor = math.gcd(*weights)
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    if total > WHEEL_LIMIT:
        raise ValueError(f"weights of {total} in lowest terms make too long a wheel; {WHEEL_LIMIT} is the limit")
    credit = [0] * len(shares)
    order = []
    for _ in range(total):
        credit = [have + share for have, share in zip(credit, shares, strict=True)]
        chosen = max(range(len(credit)), key=credit.__getitem__)
        credit[chosen] -= total
        order.append(chosen)
    return order


def disruption(before: Sequence[object], after: Sequence[object], gone: object) -> float:
    """The share of slots whose backend changed although it was not the one that left: 0.0 is perfect consistency."""
    kept = [(old, new) for old, new in zip(before, after, strict=True) if old != gone]
    return sum(old != new for old, new in kept) / len(kept)


def mapped(address: str | Address) -> str:
    """An address as the maps hold it: IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2)."""
    parsed = ipaddress.ip_address(address)
    return f"::ffff:{parsed}" if parsed.version == 4 else str(parsed)


@dataclass(frozen=True)
class Counts:
    """What went to a backend or service and what came back, over all CPUs; `flows` is the number ever opened."""

    packets: int
    bytes: int
    reply_packets: int
    reply_bytes: int
    flows: int


@dataclass(eq=False)
class Backend:
    """A server of one service. `state` is ACTIVE, DRAINING, DOWN or, once removed, ABSENT."""

    service: Service
    slot: int
    address: Address
    port: int
    weight: int
    generation: int
    state: str = "ACTIVE"

    @property
    def name(self) -> str:
        """Address and port: what its place in a Maglev table is computed from."""
        return f"[{self.address}]:{self.port}"

    @property
    def counts(self) -> Counts:
        """Read from the map now."""
        return _counts(self.service.balancer.maps["backend_counts"], self.slot)

    def drain(self) -> None:
        """No new flows; those it has stay."""
        self._become("DRAINING")

    def fail(self) -> None:
        """Its health check failed: no new flows, and those it has go to other backends at their next packet."""
        self._become("DOWN")

    def recover(self) -> None:
        """Back to ACTIVE, from DRAINING or DOWN."""
        self._become("ACTIVE")

    def set_weight(self, weight: int) -> None:
        """Its share of the flows to come, beside the other backends' weights."""
        previous, self.weight = self.weight, weight
        try:
            self.service.rebuild()
        except ValueError:
            self.weight = previous
            raise

    def remove(self) -> None:
        """Takes it out for good; its flows are disowned and go elsewhere at their next packet."""
        self._become("ABSENT")
        self.service.backends.remove(self)
        self.service.balancer.free_backend(self.slot)

    def open_flows(self) -> int:
        """Flows to it that neither side has closed and that the table still holds: a drained backend comes to 0.

        It walks the flow tables: for an operator, not for a loop.
        """
        return sum(
            flow.backend == self.slot and flow.generation == self.generation and not flow.closed and not flow.direction
            for name in ("flows4", "flows6")
            for _, flow in self.service.balancer.maps[name].items()
        )

    def _become(self, state: str) -> None:
        if self.state == "ABSENT":
            raise ValueError(f"backend {self.name}: was removed; add it again")
        self.state = state
        self.write()
        self.service.rebuild()

    def write(self) -> None:
        """Its slot of the map `backends`."""
        self.service.balancer.maps["backends"][self.slot] = {
            "address": mapped(self.address),
            "vip": mapped(self.service.address),
            "port": self.port,
            "vip_port": self.service.port,
            "service": self.service.id,
            "forwarding": self.service.forwarding,
            "generation": self.generation,
            "state": self.state,
        }


@dataclass(eq=False)
class Service:
    """A virtual service: an address, a port and a protocol, how it picks backends and how it reaches them."""

    balancer: Balancer
    id: int
    address: Address
    port: int
    protocol: int
    scheduler: str
    forwarding: str
    slots: int
    backends: list[Backend] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """Read from the map now."""
        return _counts(self.balancer.maps["service_counts"], self.id)

    def add(self, address: str | Address, port: int | None = None, *, weight: int = 1) -> Backend:
        """A new backend, ACTIVE at once. Its port is the service's unless given; with DIRECT it cannot differ."""
        parsed, port = ipaddress.ip_address(address), self.port if port is None else port
        if parsed.version != self.address.version:
            raise ValueError(f"backend {parsed}: the service {self.address} is IPv{self.address.version}")
        if self.forwarding == "DIRECT" and port != self.port:
            raise ValueError(
                f"backend {parsed} port {port}: DIRECT leaves the packet as it is, so it needs {self.port}"
            )
        if any((each.address, each.port) == (parsed, port) for each in self.backends):
            raise ValueError(f"backend {parsed} port {port}: is there already; set_weight() changes its share")
        slot, generation = self.balancer.take_backend()
        backend = Backend(self, slot, parsed, port, weight, generation)
        self.backends.append(backend)
        try:
            wheel([weight])  # refuses a bad weight before the first write
            backend.write()
            self.rebuild()
        except BaseException:
            self.backends.remove(backend)
            self.balancer.free_backend(slot)
            raise
        return backend

    def table(self) -> list[int]:
        """The table for the backends that are ACTIVE now: for each slot the backend's slot in the map."""
        active = [backend for backend in self.backends if backend.state == "ACTIVE"]
        weights = [backend.weight for backend in active]
        if self.scheduler == "ROUND_ROBIN":
            order = wheel(weights)
        else:
            order = maglev([backend.name for backend in active], weights, self.slots)
        return [active[index].slot for index in order]

    def rebuild(self) -> None:
        """Writes the table. Every slot is valid before, during and after: old and new agree on most of them."""
        table = self.table()
        self.balancer.write_table(self.id, table)
        self._write_vip(slots=len(table))

    def remove(self) -> None:
        """Takes the service and its backends out: its packets are passed on, as those of any other address."""
        del self.balancer.maps["vips"][self._key()]
        for backend in list(self.backends):
            backend.state = "ABSENT"
            backend.write()
            self.balancer.free_backend(backend.slot)
        self.backends.clear()
        self.balancer.forget(self)

    def _key(self) -> dict[str, Any]:
        return {"address": mapped(self.address), "port": self.port, "protocol": self.protocol, "reserved": 0}

    def _write_vip(self, slots: int) -> None:
        vips = self.balancer.maps["vips"]
        value = {"id": self.id, "slots": slots, "scheduler": self.scheduler, "forwarding": self.forwarding}
        vips[{**self._key(), "port": 0, "protocol": 0}] = value
        vips[self._key()] = value


class Balancer:
    """All services of one loaded xdp_balance; `maps` are the program's."""

    def __init__(self, maps: Mapping[str, Any]) -> None:
        self.maps = maps
        self.services: list[Service] = []
        self._free_services = deque(range(SERVICES))
        self._free_backends = deque(range(BACKENDS))  # the longest free one goes next
        self._generation = secrets.randbits(31)  # an earlier process may have left flows in the maps

    def add_service(
        self,
        address: str | Address,
        port: int,
        *,
        protocol: str = "tcp",
        scheduler: str = "MAGLEV",
        forwarding: str = "NAT",
        slots: int = PAPER_SLOTS,
    ) -> Service:
        """A new service without backends: until one is added its packets are dropped.

        `scheduler` is MAGLEV or ROUND_ROBIN, `forwarding` NAT or DIRECT, `slots` the size of its Maglev table: a prime,
        a hundred times the number of backends or more, up to 65537.
        """
        number = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}[protocol]
        parsed = ipaddress.ip_address(address)
        _check_maglev((), (), slots)
        if slots > TABLE_SLOTS:
            raise ValueError(f"{slots} slots: the table has {TABLE_SLOTS}")
        if any((each.address, each.port, each.protocol) == (parsed, port, number) for each in self.services):
            raise ValueError(f"service {parsed} port {port}/{protocol}: is there already")
        if not self._free_services:
            raise ValueError(f"no room: {SERVICES} services are there")
        number_of = self._free_services.popleft()
        self.maps["service_counts"][number_of] = NOTHING
        service = Service(self, number_of, parsed, port, number, scheduler, forwarding, slots)
        self.services.append(service)
        service.rebuild()
        return service

    def take_backend(self) -> tuple[int, int]:
        """A free slot of the map `backends`, its counters at 0, and a generation that no flow has seen."""
        if not self._free_backends:
            raise ValueError(f"no room: {BACKENDS} backends are there")
        slot = self._free_backends.popleft()
        self.maps["backend_counts"][slot] = NOTHING
        self._generation = (self._generation + 1) % 2**32
        return slot, self._generation

    def free_backend(self, slot: int) -> None:
        """The slot may be taken again; flows of the old backend don't have the new one's generation."""
        self._free_backends.append(slot)

    def forget(self, service: Service) -> None:
        """Frees a removed service's id, and its address once no other service has it."""
        self.services.remove(service)
        self._free_services.append(service.id)
        if not any(each.address == service.address for each in self.services):
            del self.maps["vips"][{"address": mapped(service.address), "port": 0, "protocol": 0, "reserved": 0}]

    def write_table(self, service: int, table: Sequence[int]) -> None:
        """One map update, which the kernel copies slot by slot."""
        self.maps["tables"][service] = {"backend": [*table, *[0] * (TABLE_SLOTS - len(table))]}


def _counts(counters: Any, slot: int) -> Counts:
    total = counters.total(slot)
    return Counts(total.packets, total.bytes, total.reply_packets, total.reply_bytes, total.flows)


# ---- For a person: lab attach xdp_balance ----

_balancers: WeakKeyDictionary[Any, Balancer] = WeakKeyDictionary()
"""Of the programs that `load` loaded, for `view`."""


def add_text(balancer: Balancer, text: str, **options: str) -> Service:
    """The service of "tcp/192.0.2.1:80=10.0.0.1:8080,10.0.0.2:8080*3", *3 its weight; ValueError for what is none."""
    protocol, slash, rest = text.partition("/")
    front, sign, backends = rest.partition("=")
    address, port = endpoint(front) if sign else (None, 0)
    if protocol not in ("tcp", "udp") or not slash or address is None:
        raise ValueError(f'{text!r} is no service: "tcp/192.0.2.1:80=10.0.0.1:8080,10.0.0.2:8080*3"')
    service = balancer.add_service(address, port, protocol=protocol, **options)
    for each in backends.split(","):
        at, _, weight = each.partition("*")
        host, number = endpoint(at)
        if host is None:
            raise ValueError(f"backend {each!r} of {text!r} has no address")
        service.add(host, number, weight=int(weight or 1))
    return service


def load(
    bpf: Any,
    *,
    service: tuple[str, ...] = (),
    scheduler: Literal["MAGLEV", "ROUND_ROBIN"] = "MAGLEV",
    forwarding: Literal["NAT", "DIRECT"] = "NAT",
    **knobs: Any,
) -> Any:
    """The program with its services in force before it is attached. This machine must forward (net.ipv4.ip_forward).

    service: "tcp/192.0.2.1:80=10.0.0.1:8080,10.0.0.2:8080*3"; may be said several times
    scheduler: how new flows are spread
    forwarding: NAT, or DIRECT: the backends have the service's address and answer by themselves
    """
    program = bpf.load("xdp_balance", **knobs)
    _balancers[program] = Balancer(program.maps)
    for each in service:
        add_text(_balancers[program], each, scheduler=scheduler, forwarding=forwarding)
    return program


def view(program: Any) -> list[Table]:
    """A table a service, a row a backend."""
    return [_table(each) for each in _balancers[program].services]


def _table(service: Service) -> Table:
    protocol = "tcp" if service.protocol == socket.IPPROTO_TCP else "udp"
    columns = ("backend", "state", "weight", "flows", "packets", "bytes", "reply packets", "reply bytes")
    rows = [
        (_place(each.address, each.port), each.state, each.weight, *_shown(each.counts)) for each in service.backends
    ]
    return Table(f"{protocol}/{_place(service.address, service.port)}", columns, rows)


def _place(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _shown(counts: Counts) -> tuple[int, ...]:
    return counts.flows, counts.packets, counts.bytes, counts.reply_packets, counts.reply_bytes
