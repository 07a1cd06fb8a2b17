"""What user space does with reuseport_balance: puts servers into slots, and makes the wheel that says whose turn it is.

with bpf.load("reuseport_balance", program="by_hash") as program:
    balancer = Balancer(program)
    for listener in listeners:                  # bound to one port, with SO_REUSEPORT
        balancer.add(listener, weight=1)
    with program.attach(listeners[0]): ...      # the whole group takes it
    balancer.drain(2)                           # slot 2 gets nothing new from here on; it may serve what it has
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from os import sched_getaffinity
from pathlib import Path
from typing import Any, Literal

from lab.bpf.attachment import Attachment
from lab.errors import LabError
from lab.kernel import foreign_socket
from lab.model.table import Table

SERVERS, WHEEL = 64, 4096
POLICIES = {"hash": "by_hash", "turn": "in_turn", "cpu": "by_cpu"}


@dataclass(frozen=True)
class Server:
    """What has a slot. Weight 0: it is drained."""

    slot: int
    weight: int
    pid: int = 0
    cookie: int = 0
    """Of its socket, as the kernel has it for as long as the socket lives."""


class Balancer:
    """The servers of one group, in the maps of a loaded program."""

    def __init__(self, program: Any) -> None:
        self._maps = program.maps
        self._policy = program.name
        self._wheel: list[int] = []
        self._servers: dict[int, Server] = {}
        self._spare, self._in_force = (self._maps["wheels"].new_inner() for _ in range(2))

    @property
    def servers(self) -> tuple[Server, ...]:
        """By slot, the drained and the dead as well."""
        return tuple(self._servers[slot] for slot in sorted(self._servers))

    def add(self, sock: socket.socket, *, weight: int = 1, pid: int = 0) -> int:
        """Its slot; it gets its share when this returns. ValueError when there is no room or the weight is none."""
        if not 1 <= weight <= WHEEL:
            raise ValueError(f"weight {weight} must be 1 to {WHEEL}")
        free = next((slot for slot in range(SERVERS) if slot not in self._servers), None)
        if free is None:
            raise ValueError(f"there are {SERVERS} servers: remove one first")
        self._maps["counts"][free] = {"chosen": 0, "migrated": 0}
        self._maps["sockets"][free] = sock
        self._write(Server(free, weight, pid, cookie_of(sock)))
        return free

    def weigh(self, slot: int, weight: int) -> None:
        """Another share from now on; 0 drains it."""
        if not 0 <= weight <= WHEEL:
            raise ValueError(f"weight {weight} must be 0 to {WHEEL}")
        self._write(replace(self._servers[slot], weight=weight))

    def drain(self, slot: int) -> None:
        """It gets nothing new once this has returned; what it has got, also what waits to be accepted, stays.

        Where it was the last one, the kernel's own hash chooses among all sockets that are open: the drained, too.
        """
        self.weigh(slot, 0)

    def remove(self, slot: int) -> None:
        """Takes it out, dead or alive; what comes meanwhile goes to the others."""
        self.drain(slot)
        with suppress(KeyError):  # the kernel has emptied the slot of a socket that was closed
            del self._maps["sockets"][slot]
        del self._servers[slot]

    def lives(self, slot: int) -> bool:
        """Whether its socket is still open."""
        return bool(self._maps["sockets"].get(slot, 0) == self._servers[slot].cookie)

    def remove_dead(self) -> list[Server]:
        """Those whose socket is closed; their share goes to the others evenly from here on."""
        dead = [each for each in self.servers if not self.lives(each.slot)]
        for each in dead:
            self.remove(each.slot)
        return dead

    def _write(self, changed: Server) -> None:
        servers = {**self._servers, changed.slot: changed}
        self._wheel = wheel_of(self._policy, servers, self._wheel)
        self._spare[0] = {"length": len(self._wheel), "slots": bytes(self._wheel).ljust(WHEEL, b"\0")}
        # The kernel comes back from this when no packet is left that sees the other one.
        self._maps["wheels"][0] = self._spare
        self._spare, self._in_force = self._in_force, self._spare
        self._servers = servers


# ---- Wheels ----


def wheel_of(policy: str, servers: Mapping[int, Server], before: list[int]) -> list[int]:
    """Slots in the order of their turns; [] where nobody has a weight."""
    weights = {slot: each.weight for slot, each in sorted(servers.items()) if each.weight}
    if not weights:
        return []
    if policy == "in_turn":
        return rounds(weights)
    if policy == "by_cpu":
        return by_cpu(list(weights))
    return shares(weights, before)


def shares(weights: Mapping[int, int], before: list[int]) -> list[int]:
    """A wheel of WHEEL places, shared by weight; of the wheel before it as much stays as can.

    >>> first = shares({0: 1, 1: 1}, [])
    >>> first.count(0), sum(one != other for one, other in zip(first, shares({0: 1, 1: 1, 2: 2}, first)))
    (2048, 2048)
    """
    due = _due(weights)
    wheel = list(before) or [-1] * WHEEL
    places = list(range(WHEEL))
    random.Random(WHEEL).shuffle(places)  # neighbours differ: the dead's share goes to all the others
    open_places = []
    for place in places:
        if due.get(wheel[place], 0):
            due[wheel[place]] -= 1
        else:
            open_places.append(place)
    missing = [slot for slot, count in due.items() for _ in range(count)]
    random.Random(len(missing)).shuffle(missing)
    for place, slot in zip(open_places, missing, strict=True):
        wheel[place] = slot
    return wheel


def _due(weights: Mapping[int, int]) -> dict[int, int]:
    """So many places each, WHEEL in all: the largest remainders are rounded up."""
    whole = sum(weights.values())
    due = {slot: WHEEL * weight // whole for slot, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda slot: -(WHEEL * weights[slot] % whole))
    for slot in by_remainder[: WHEEL - sum(due.values())]:
        due[slot] += 1
    return due


def rounds(weights: Mapping[int, int]) -> list[int]:
    """One round: each as often as its weight says, and as evenly spread as can be (smooth weighted round robin).

    >>> rounds({0: 3, 1: 1})
    [0, 0, 1, 0]
    """
    common = reduce(gcd, weights.values())
    each_round = {slot: weight // common for slot, weight in weights.items()}
    length = sum(each_round.values())
    if length > WHEEL:
        raise ValueError(f"weights {', '.join(map(str, weights.values()))} make a round of {length} turns; {WHEEL} fit")
    standing = dict.fromkeys(each_round, 0)
    wheel = []
    for _ in range(length):
        for slot, weight in each_round.items():
            standing[slot] += weight
        first = max(standing, key=lambda slot: standing[slot])
        standing[first] -= length
        wheel.append(first)
    return wheel


def by_cpu(slots: list[int]) -> list[int]:
    """A place for each CPU, one server after the other.

    >>> len(by_cpu([0])) > 0
    True
    """
    return [slots[cpu % len(slots)] for cpu in range(max(sched_getaffinity(0)) + 1)]


def cookie_of(sock: socket.socket) -> int:
    """The kernel's number for a socket, which no other one gets (Linux 4.12)."""
    so_cookie = 57
    return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, so_cookie, 8))[0])


# ---- `lab reuseport_balance` ----


class Group:
    """The servers of other processes on one port, which come and go."""

    def __init__(self, program: Any, sample: socket.socket, weights: Mapping[int, int]) -> None:
        self.balancer = Balancer(program)
        self.waiting: dict[int, int] = {}
        """Connections that wait to be accepted, by slot; of TCP."""
        self._protocol = "tcp" if sample.type == socket.SOCK_STREAM else "udp"
        self._bound = (sample.family, *sample.getsockname()[:2])
        self._weights = weights

    @property
    def place(self) -> str:
        """What they share: "tcp port 8080, 3 servers"."""
        return f"{self._protocol} port {self._bound[2]}, {len(self.balancer.servers)} servers"

    def sockets(self) -> Iterator[tuple[int, socket.socket]]:
        """A process and a copy of its socket, closed when the next is asked for: it would live on in the copy."""
        for pid, copied in foreign_socket.every_waiting(self._protocol, self._bound[2]):
            with copied:
                if (copied.family, *copied.getsockname()[:2]) == self._bound:
                    yield pid, copied

    def refresh(self) -> None:
        """Gives slots to servers that are new, and the shares of those that are gone to the others."""
        self.balancer.remove_dead()
        slots = {each.cookie: each.slot for each in self.balancer.servers}
        for pid, copied in self.sockets():
            slot = slots.get(cookie_of(copied))
            if slot is None:
                weight = self._weights.get(pid, 1)
                slot = self.balancer.add(copied, weight=weight or 1, pid=pid)
                if not weight:
                    self.balancer.drain(slot)
            if self._protocol == "tcp":
                self.waiting[slot] = _waiting(copied)

    def leave(self) -> None:
        """Takes the program off the group, by any socket that is still in it."""
        for _, copied in self.sockets():
            with suppress(OSError):  # it had no program any more
                copied.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
            return


SO_DETACH_REUSEPORT_BPF = 68
GROUPS: dict[int, Group] = {}
"""By the program's descriptor: what attach made, for view."""


def _waiting(listener: socket.socket) -> int:
    """tcpi_unacked of struct tcp_info, which of a listener is the length of its accept queue."""
    return int(struct.unpack_from("=I", listener.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 32), 24)[0])


def load(bpf: Any, *, policy: Literal["hash", "turn", "cpu"] = "hash") -> Any:
    """One of the three programs.

    policy: who is chosen: by the flow's hash, in turn, or by CPU
    """
    return bpf.load("reuseport_balance", program=POLICIES[policy])


def attach(program: Any, place: Any, *, weight: tuple[str, ...] = ()) -> Iterator[Any]:
    """To the group of the socket, with every server of it in a slot.

    weight: PID=SHARE, that server's; the others have 1, and 0 drains it. May be repeated
    """
    if len(place.sockets) != 1:
        raise LabError("which port is to be shared?", mend="--socket tcp/8080: one, on which servers wait")
    sample = place.sockets[0]
    group = GROUPS[program.fd] = Group(program, sample, _weights(weight))
    group.refresh()
    attachment = program.attach(sample)
    # Not through this copy: it would keep its server's socket open when that closes it.
    undo = ExitStack()
    undo.callback(group.leave)
    sample.close()
    yield Attachment(program.name, group.place, attachment.how, attachment.facts, undo)


def _weights(said: tuple[str, ...]) -> dict[int, int]:
    found = {}
    for each in said:
        pid, _, share = each.partition("=")
        if not pid.isdigit() or not share.isdigit() or int(share) > WHEEL:
            raise LabError(f"{each!r} is no weight", mend=f"--weight 1234=3: a process, and a share of 0 to {WHEEL}")
        found[int(pid)] = int(share)
    return found


def view(program: Any) -> Table:
    """Who got how much; servers that started since are taken in, and dead ones out."""
    group = GROUPS[program.fd]
    before = {each.slot: each for each in group.balancer.servers}
    group.refresh()
    now = {each.slot: each for each in group.balancer.servers}
    rows = [_row(program, group, each, now.get(each.slot) == each) for each in {**before, **now}.values()]
    columns = ("slot", "pid", "process", "state", "weight", "chosen", "migrated", "waiting")
    return Table(f"servers, {program.name.replace('_', ' ')}", columns, rows, note=_note(program))


def _row(program: Any, group: Group, server: Server, lives: bool) -> tuple[Any, ...]:
    count = program.maps["counts"].total(server.slot)
    state = ("drained" if not server.weight else "serving") if lives else "gone"
    numbers = (server.weight, count.chosen, count.migrated, group.waiting.get(server.slot, "") if lives else "")
    return (server.slot, server.pid, _name(server.pid), state, *numbers)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _note(program: Any) -> str:
    total = program.maps["outcomes"].total
    said = [f"{total('SKIPPED')} dead slots passed over"] if total("SKIPPED") else []
    said += [f"the kernel chose {total('KERNEL_CHOSE')} times"] if total("KERNEL_CHOSE") else []
    return "; ".join(said)


def summary(program: Any) -> str:
    """How much was given, in a sentence."""
    every = [program.maps["counts"].total(slot) for slot in range(SERVERS)]
    chosen, migrated = sum(each.chosen for each in every), sum(each.migrated for each in every)
    note = _note(program)
    return f"{chosen} given to {sum(each.chosen > 0 for each in every)} servers, {migrated} moved" + (
        f"; {note}" if note else ""
    )
