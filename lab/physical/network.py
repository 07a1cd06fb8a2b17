"""A pair of namespaces on two hosts, driven from one of them: what lab.Network is for a topology with a cable."""

from __future__ import annotations

import secrets
import select
import socket
import time
from contextlib import closing
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
from lab.physical.half import CARRIER_WITHIN_S, Half
from lab.physical.host import Host, reach
from lab.physical.loan import WAIT_S, Loan
from lab.replay.script import topology_as_dict

ETH_P_EXPERIMENTAL = b"\x88\xb5"
"""IEEE 802a, for local experiments: what the other end is greeted with."""
AGAIN_S = 0.1
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
