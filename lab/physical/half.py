"""Half of a pair on two hosts: the namespace of this host, with an interface of the host as its end."""

from __future__ import annotations

import socket
from dataclasses import replace

from lab.errors import WaitTimeout
from lab.kernel.nic import Nic, look_at
from lab.net import readiness
from lab.net.namespace import Interface
from lab.net.topology import InterfaceSpec, NamespaceSpec, Topology
from lab.physical.loan import Loan, Wish
from lab.traffic.network import Network

CARRIER_WITHIN_S = 30.0
"""Two interfaces agree on their speed within some seconds."""


class Half(Network):
    """Brings up namespace `node` of the pair; the interface was asked for before, and belongs to the network now."""

    def __init__(self, topology: Topology, node: str) -> None:
        super().__init__(topology)
        self.node = node
        self.loan: Loan | None = None

    def borrow(self, loan: Loan) -> None:
        """The interface goes back as the last step of close()."""
        self.loan = loan
        self.on_close(f"give {loan.name} back", loan.give_back)

    @property
    def end(self) -> InterfaceSpec:
        """The only interface of the namespace, as it is described."""
        (end,) = self.topology.layout.of_namespace[self.node]
        return end

    def look(self) -> Nic:
        """What the interface is now."""
        namespace = self[self.node]
        with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            return look_at(namespace.route_socket, control, self.end.short_name)

    def _own(self) -> tuple[NamespaceSpec, ...]:
        return tuple(each for each in self.topology.namespaces if each.name == self.node)

    def _make_interfaces(self) -> None:
        assert self.loan is not None
        end, namespace = self.end, self._namespaces[self.node]
        wish = Wish(end.short_name, end.ifindex, end.mac, end.mtu_bytes, self.topology.layout.static)
        nic = self.loan.take(namespace.netns_fd, wish)
        super()._make_interfaces()
        made = Interface(replace(end, queues=nic.queues), namespace)
        namespace.adopt({end.short_name: made}, self.interface)
        self._interfaces[end.name] = made

    def _await_readiness(self) -> None:
        """There is no carrier before the other half is up: who knows that it is calls `await_carrier`."""

    def await_carrier(self) -> None:
        """Returns when frames pass; WaitTimeout where there is no carrier."""
        loopback = self.topology.layout.loopback[self.node]
        try:
            readiness.await_namespace(self[self.node].route_socket, [self.end], loopback, CARRIER_WITHIN_S)
        except WaitTimeout as error:
            assert self.loan is not None
            raise WaitTimeout(f"{self.loan.name}: {error.what}", mend="is the cable in, and the switch on?") from error
