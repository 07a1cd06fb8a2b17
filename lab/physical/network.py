"""A pair of namespaces on two hosts, driven from one of them: what lab.Network is for a topology with a cable."""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from lab.bpf.attach import receivers
from lab.errors import NetworkError, WaitTimeout
from lab.kernel import packet
from lab.kernel.nic import IFF_UP, Nic
from lab.model import journal
from lab.model.delivery import Delivery
from lab.net.cable import Cable, laid
from lab.net.namespace import Interface, Namespace
from lab.net.topology import InterfaceSpec, Topology
from lab.net.wire import mac_bytes
from lab.physical.far import FarInterface, FarNamespace
from lab.physical.flights import flight_between
from lab.physical.flood import WireFlood
from lab.physical.half import CARRIER_WITHIN_S, Half
from lab.physical.host import Host, reach
from lab.physical.loan import WAIT_S, Loan
from lab.physical.sources import Sources
from lab.replay.script import topology_as_dict
from lab.traffic import recorder
from lab.traffic.datagrams import namespace_of
from lab.traffic.exchange import Received, received_of
from lab.traffic.flight import Flight
from lab.traffic.iperf3 import GRACE_S, Iperf3Options, Iperf3Result, answer, call, ended, result_of, serve
from lab.traffic.network import flight_of
from lab.traffic.stream import Stream
from lab.wait import wait_until

ETH_P_EXPERIMENTAL = b"\x88\xb5"
"""IEEE 802a, for local experiments: what the other end is greeted with."""
AGAIN_S = 0.1
CARRIER_BACK_S = 10.0
GREETINGS = 3
SHORTEST_STILL_S, LONGEST_LAG_S = 0.02, 5.0
TURN_S = 0.2
"""Of an exchange: so long each host waits for the end of what comes in."""
ABOUT = ("kernel", "cpu", "cpus", "memory_bytes", "bpf_jit")
"""What a stored run says of the other host."""

_still_s: dict[Cable, float] = {}


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
        self._sources: Sources | None = None

    def up(self) -> PhysicalNetwork:
        """Asks for both interfaces before either is touched; then all of it, or nothing."""
        if self._namespaces:
            raise NetworkError(f"bring up {self.topology.name}: this network is up already")
        try:
            self.borrow(Loan(self.cable.here))
            self.host = reach(self.cable.host)
            self._offered = Nic.from_dict(
                self.host.ask("offer", 2 * WAIT_S, interface=self.cable.there, within_s=WAIT_S)
            )
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
        assert self.loan is not None
        # As the hosts have them: what a topology sets stands in its measurements. The speed is known once they are up.
        here = replace(self.loan.nic, speed_mbit=self.look().speed_mbit)
        there = replace(self._offered, speed_mbit=Nic.from_dict(self.host.ask("look")).speed_mbit)
        about = {name: self.host.about[name] for name in ABOUT}
        return {"host": self.cable.host, "here": here.sentence, "there": there.sentence, **about}

    def flight(self, stream: Stream, index: int) -> Flight:
        """Each end of a stream is driven by its own host."""
        self.await_carriers()
        ends = namespace_of(stream.src), namespace_of(stream.dst)
        if ends[0] == ends[1]:
            self[ends[0]].netns_fd  # noqa: B018 - OutOfReach where both are there
            return flight_of(stream, index)
        return flight_between(stream, index, from_there=ends[0] == self.far_node)

    def flood(
        self,
        source: str,
        frame: Any,
        *,
        flows: int = 1,
        count: int | None = None,
        seconds: float | None = None,
        rate_pps: float | None = None,
        sink: str = "",
        via: str = "live",
    ) -> Delivery:
        """From either host. Offered is what the source's driver took; what it refused never left."""
        at_sink = self.interface(sink) if sink else None
        flood = WireFlood(self, frame, flows=flows, via=via, from_here=self.interface(source).name == self.end.name)
        with recorder.paused():
            delivery = flood.run(count=count, seconds=seconds, rate_pps=rate_pps, sink=at_sink)
        journal.step("flood", source=source)
        journal.note("delivery", {"stream": f"flood from {source}, {flows:,} flows", **delivery.as_dict()})
        return delivery

    @property
    def sources(self) -> Sources:
        """The floods that start here."""
        if self._sources is None:
            self._sources = Sources(self)
            self.on_close("close floods", self._close_sources)
        return self._sources

    def take_in(self, undo: ExitStack, *, here: bool) -> None:
        """Where a veth is in the cable's place, its end here or there takes what XDP sends until `undo`."""
        if not here:
            self.far_interface.receive(undo)
        elif self.loan is not None and self.loan.nic.kind == "veth":
            receivers.make_poll(self.interface(self.end.name), undo)

    def await_carriers(self) -> None:
        """A driver may take its link down for a while when a program is attached; what is down on purpose stays so."""
        ends: dict[str, Callable[[], Nic]] = {
            self.end.name: self.look,
            self.far_end.name: lambda: Nic.from_dict(self.ask("look")),
        }
        for name, look in ends.items():
            interface = self.interface(name)
            if not interface.is_up() and look().flags & IFF_UP:
                with suppress(WaitTimeout):  # the traffic will tell
                    wait_until(interface.is_up, within_s=CARRIER_BACK_S, what=f"{name} up")

    @property
    def still_s(self) -> float:
        """So long the counter of either interface must stand still until it is final: some drivers read it seldom."""
        return _still_s[self.cable]

    def _time_counters(self) -> None:
        """Once a cable, before anybody counts frames: it sends some."""
        there = [self._lag_s(self.interface(self.end.name), self._greet) for _ in range(GREETINGS)]
        with self.packet_socket(self.end.name) as sender:
            here = [self._lag_s(self.far_interface, lambda: sender.send(self._greeting())) for _ in range(GREETINGS)]
        _still_s[self.cable] = max(SHORTEST_STILL_S, 2 * max(there + here))

    def _lag_s(self, interface: Interface, send: Callable[[], object]) -> float:
        """From a frame that is sent until the interface at the other end says that it received one."""
        before, start = interface.counters().rx_packets, time.monotonic()
        send()
        what = f"{interface.name} to count a frame that was sent to it"
        wait_until(lambda: interface.counters().rx_packets > before, within_s=LONGEST_LAG_S, what=what)
        return time.monotonic() - start

    def _exchanged(self, frames: Sequence[bytes], at: str, within_s: float, count: int | None) -> Received:
        """Both hosts keep what comes in; first here, then there, is waited for its end."""
        self.await_carriers()
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
        self.await_carriers()
        wanted = Iperf3Options(**options)
        target, ends = str(self.topology.address(server, wanted.ip)), [namespace_of(client), namespace_of(server)]
        if ends[0] == ends[1]:
            return super()._run_iperf3(client, server, **options)
        with ended() as started:
            if ends[1] == self.node:
                started.append(serve(self[self.node], wanted.port))
                longest_s = wanted.seconds + wanted.omitted_seconds + GRACE_S + 10
                return result_of(
                    wanted.protocol, self.ask("iperf3_call", longest_s, target=target, options=vars(wanted))
                )
            with self._asking("iperf3_serve", "iperf3_end", port=wanted.port):
                started.append(call(self[self.node], target, wanted))
                return result_of(wanted.protocol, answer(started[-1], wanted))

    @property
    def ask(self) -> Callable[..., Any]:
        """Of the agent on the other host: lab.physical.agent."""
        if self.host is None:
            raise NetworkError(f"{self.far_node} is gone: its network is down")
        return self.host.ask

    @contextmanager
    def _asking(self, begin: str, end: str, **words: Any) -> Iterator[Callable[..., Any]]:
        """`end` is asked for after the block, unless the host is gone by then."""
        self.ask(begin, **words)
        try:
            yield self.ask
        finally:
            if self.host is not None and self.host.alive:
                self.ask(end)

    def _make_interfaces(self) -> None:
        super()._make_interfaces()
        assert self.host is not None
        described = topology_as_dict(self.topology)
        nic = Nic.from_dict(self.host.ask("up", topology=described, node=self.far_node))
        namespace = FarNamespace(self.far_node, self.host)
        made = self.far_interface = FarInterface(self.far_end, nic, namespace)
        namespace.adopt({made.short_name: made}, self.interface)
        self._namespaces = {each.name: self._namespaces.get(each.name, namespace) for each in self.topology.namespaces}
        interfaces = {self.end.name: self._interfaces[self.end.name], made.name: made}
        self._interfaces = {each.name: interfaces[each.name] for each in self.topology.interfaces}

    def _await_readiness(self) -> None:
        assert self.host is not None
        self.await_carrier()
        self.host.ask("await_carrier", 2 * CARRIER_WITHIN_S)
        self._await_greeting()
        if self.cable not in _still_s:
            self._time_counters()

    def _await_greeting(self) -> None:
        """A frame comes over: both interfaces are ends of one cable, and a switch between them has learnt so."""
        deadline = time.monotonic() + CARRIER_WITHIN_S
        with closing(self[self.node].run(packet.open_receiver, self.end.short_name, outgoing=False)) as ear:
            while time.monotonic() < deadline:
                if _hears(ear, self._greet(), time.monotonic() + AGAIN_S):
                    return
        there = f"{self.cable.there} on {self.cable.host}"
        raise NetworkError(
            f"no frame of {there} came to {self.cable.here} within {CARRIER_WITHIN_S:g} s",
            mend="are the two on one cable, or on one VLAN of a switch?",
        )

    def _greet(self) -> bytes:
        """The frame that the other end has sent by now."""
        greeting = self._greeting()
        self.ask("whisper", frame=greeting.hex())
        return greeting

    def _greeting(self) -> bytes:
        to, sender = mac_bytes(self.end.mac), mac_bytes(self.far_end.mac)
        return to + sender + ETH_P_EXPERIMENTAL + secrets.token_bytes(46)

    def _close_sources(self) -> None:
        if self._sources is not None:
            self._sources.close()
            self._sources = None

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
