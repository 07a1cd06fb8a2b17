"""A pair of namespaces on two hosts, driven from one of them: what lab.Network is for a topology with a cable."""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from lab.errors import NetworkError
from lab.kernel import packet
from lab.kernel.nic import Nic
from lab.model import journal
from lab.net.cable import laid
from lab.net.namespace import Namespace
from lab.net.topology import InterfaceSpec, Topology
from lab.net.wire import mac_bytes
from lab.physical.far import FarInterface, FarNamespace
from lab.physical.flights import flight_between
from lab.physical.half import CARRIER_WITHIN_S, Half
from lab.physical.host import Host, reach
from lab.physical.loan import WAIT_S, Loan
from lab.replay.script import topology_as_dict
from lab.traffic.datagrams import namespace_of
from lab.traffic.exchange import Received, received_of
from lab.traffic.flight import Flight
from lab.traffic.iperf3 import GRACE_S, Iperf3Options, Iperf3Result, answer, call, ended, result_of, serve
from lab.traffic.network import flight_of
from lab.traffic.stream import Stream

ETH_P_EXPERIMENTAL = b"\x88\xb5"
"""IEEE 802a, for local experiments: what the other end is greeted with."""
AGAIN_S = 0.1
TURN_S = 0.2
"""Of an exchange: so long each host waits for the end of what comes in."""
ABOUT = ("kernel", "cpu", "cpus", "memory_bytes", "bpf_jit")
"""What a stored run says of the other host."""


class PhysicalNetwork(Half):
    """The other half is brought up by an agent on its host, and goes down with the connection to it."""

    def __init__(self, topology: Topology) -> None:
        topology = laid(topology)
        assert topology.cable is not None
        names = [each.name for each in topology.namespaces]
        node = topology.cable.node or names[1]
        super().__init__(topology, node)
        self.cable = topology.cable
        self.far_node = names[1 - names.index(node)]
        self.host: Host | None = None

    def up(self) -> PhysicalNetwork:
        """Asks for both interfaces before either is touched; then all of it, or nothing."""
        if self._namespaces:
            raise NetworkError(f"bring up {self.topology.name}: this network is up already")
        try:
            self.borrow(Loan(self.cable.here))
            self.host = reach(self.cable.host)
            self.host.ask("offer", 2 * WAIT_S, interface=self.cable.there, within_s=WAIT_S)
            self.on_close(f"take down {self.far_node}", self._take_down)
            super().up()
        except BaseException:
            self.close()
            raise
        journal.note("cable", self.facts())
        return self

    @property
    def here(self) -> tuple[Namespace, ...]:
        """The namespace of this host."""
        return (self[self.node],) if self._namespaces else ()

    @property
    def far_end(self) -> InterfaceSpec:
        """The only interface of the other namespace, as it is described."""
        (end,) = self.topology.layout.of_namespace[self.far_node]
        return end

    def facts(self) -> dict[str, Any]:
        """Both hosts and both interfaces, for the stored run."""
        assert self.host is not None
        here = replace(self.look(), name=f"{self.cable.here} ({self.node})")
        there = replace(Nic.from_dict(self.host.ask("look")), name=f"{self.cable.there} ({self.far_node})")
        about = {name: self.host.about[name] for name in ABOUT}
        return {"host": self.cable.host, "here": here.sentence, "there": there.sentence, **about}

    def flight(self, stream: Stream, index: int) -> Flight:
        """Each end of a stream is driven by its own host."""
        ends = namespace_of(stream.src), namespace_of(stream.dst)
        if ends[0] == ends[1]:
            self[ends[0]].netns_fd  # noqa: B018 - OutOfReach where both are there
            return flight_of(stream, index)
        return flight_between(stream, index, from_there=ends[0] == self.far_node)

    def _exchanged(self, frames: Sequence[bytes], at: str, within_s: float, count: int | None) -> Received:
        """Both hosts keep what comes in; first here, then there, is waited for its end."""
        deadline = time.monotonic() + within_s
        with self.exchanger.listening() as harvest, self._asking("exchange_begin", "exchange_end") as ask:
            hexed = [each.hex() for each in frames]
            left = self.exchanger.send(frames, at) if at == self.end.name else ask("exchange_send", frames=hexed)
            there: list[str] = []
            while True:
                harvest.gather(max(0.0, min(TURN_S, deadline - time.monotonic())), None)
                there = ask("exchange_gather", within_s=max(0.0, min(TURN_S, deadline - time.monotonic())), count=None)
                if count is None or harvest.total + len(there) >= count or time.monotonic() >= deadline:
                    break
            found = {self.end.name: harvest.frames[self.end.name], self.far_end.name: list(map(bytes.fromhex, there))}
        return received_of({each.name: found[each.name] for each in self.topology.interfaces}, len(frames), left)

    def _run_iperf3(self, client: str, server: str, **options: Any) -> Iperf3Result:
        """Each end is a process of its own host."""
        wanted = Iperf3Options(**options)
        target, ends = str(self.topology.address(server, wanted.ip)), [namespace_of(client), namespace_of(server)]
        if ends[0] == ends[1]:
            return super()._run_iperf3(client, server, **options)
        with ended() as started:
            if ends[1] == self.node:
                started.append(serve(self[self.node], wanted.port))
                longest_s = wanted.seconds + wanted.omitted_seconds + GRACE_S + 10
                return result_of(
                    wanted.protocol, self._ask("iperf3_call", longest_s, target=target, options=vars(wanted))
                )
            with self._asking("iperf3_serve", "iperf3_end", port=wanted.port):
                started.append(call(self[self.node], target, wanted))
                return result_of(wanted.protocol, answer(started[-1], wanted))

    @property
    def _ask(self) -> Callable[..., Any]:
        if self.host is None:
            raise NetworkError(f"{self.far_node} is gone: its network is down")
        return self.host.ask

    @contextmanager
    def _asking(self, begin: str, end: str, **words: Any) -> Iterator[Callable[..., Any]]:
        """`end` is asked for after the block, unless the host is gone by then."""
        self._ask(begin, **words)
        try:
            yield self._ask
        finally:
            if self.host is not None and self.host.alive:
                self._ask(end)

    def _make_interfaces(self) -> None:
        super()._make_interfaces()
        assert self.host is not None
        described = topology_as_dict(self.topology)
        nic = Nic.from_dict(self.host.ask("up", topology=described, node=self.far_node))
        namespace = FarNamespace(self.far_node, self.host)
        made = FarInterface(self.far_end, nic, namespace)
        namespace.adopt({made.short_name: made}, self.interface)
        self._namespaces = {each.name: self._namespaces.get(each.name, namespace) for each in self.topology.namespaces}
        interfaces = {self.end.name: self._interfaces[self.end.name], made.name: made}
        self._interfaces = {each.name: interfaces[each.name] for each in self.topology.interfaces}

    def _await_readiness(self) -> None:
        assert self.host is not None
        self.await_carrier()
        self.host.ask("await_carrier", 2 * CARRIER_WITHIN_S)
        self._await_greeting()

    def _await_greeting(self) -> None:
        """A frame comes over: both interfaces are ends of one cable, and a switch between them has learnt so."""
        assert self.host is not None
        greeting = mac_bytes(self.end.mac) + mac_bytes(self.far_end.mac) + ETH_P_EXPERIMENTAL + secrets.token_bytes(46)
        deadline = time.monotonic() + CARRIER_WITHIN_S
        with closing(self[self.node].run(packet.open_receiver, self.end.short_name, outgoing=False)) as ear:
            while time.monotonic() < deadline:
                self.host.ask("whisper", frame=greeting.hex())
                if _hears(ear, greeting, time.monotonic() + AGAIN_S):
                    return
        there = f"{self.cable.there} on {self.cable.host}"
        raise NetworkError(
            f"no frame of {there} came to {self.cable.here} within {CARRIER_WITHIN_S:g} s",
            mend="are the two on one cable, or on one VLAN of a switch?",
        )

    def _take_down(self) -> None:
        if self.host is not None and self.host.alive:
            self.host.ask("down")


def _hears(ear: socket.socket, greeting: bytes, deadline: float) -> bool:
    while (left := deadline - time.monotonic()) > 0:
        while (frame := packet.receive(ear)) is not None:
            if frame.raw[: len(greeting)] == greeting:
                return True
        select.select([ear], [], [], left)
    return False
