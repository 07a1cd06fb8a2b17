"""The namespace and the interface on the other host, as far as they can be seen from here."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import NoReturn

from lab.kernel.nic import Nic
from lab.net.cable import OutOfReach
from lab.net.layout import InterfaceSpec
from lab.net.namespace import Counters, Interface, Namespace
from lab.physical.host import Host


class FarNamespace(Namespace):
    """Answers what its host tells; what needs a descriptor of it (sockets, processes, programs) is OutOfReach."""

    def __init__(self, name: str, host: Host) -> None:  # without super(): there are no descriptors
        self.name = name
        self.host = host
        self.processes = []

    @property
    def netns_fd(self) -> int:
        """There is none on this host."""
        return self._out_of_reach()

    def counters(self) -> dict[str, Counters]:
        """Asked of the other host now, some tenths of a ms."""
        return {short: each.counters() for short, each in self._interfaces.items()}

    def _out_of_reach(self) -> NoReturn:
        raise OutOfReach(
            f"{self.name} is on {self.host.name}: no program, socket or process of this host can be there",
            mend="net.send, exchange, flood and iperf3 reach it; what is under test belongs at the other end",
        )


class FarInterface(Interface):
    """Its counters and its state are asked of its host."""

    def __init__(self, spec: InterfaceSpec, nic: Nic, namespace: FarNamespace) -> None:
        super().__init__(replace(spec, queues=nic.queues), namespace)
        self._host = namespace.host
        self._is_veth = nic.kind == "veth"

    def receive(self, undo: ExitStack) -> str:
        """Where a veth is in the cable's place, its end there takes what XDP sends until `undo`; what was done."""
        if not self._is_veth:
            return ""
        told: str = self._host.ask("receive_begin")
        undo.callback(lambda: self._host.ask("receive_end") if self._host.alive else None)
        return told

    def is_up(self) -> bool:
        """Whether it has a carrier."""
        return bool(self._host.ask("is_up"))

    def offloads(self) -> dict[str, bool]:
        """Those that its driver tells."""
        found: dict[str, bool] = self._host.ask("offloads")
        return found

    def counters(self) -> Counters:
        """Asked of its host now."""
        return Counters(**self._host.ask("counters"))
