"""A topology that is up: all of it or nothing, and gone in reverse order.

No name is given to anything outside the new namespaces, so networks never meet. What keeps a namespace alive is two
file descriptors of this process, its own and its netlink socket's: when the process dies, by whatever signal, the
kernel takes everything down.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Self

from lab.errors import LabError, NetworkError
from lab.kernel import ethtool, netns, process, sysctl
from lab.kernel.netlink import RouteSocket
from lab.model import aftermath, journal
from lab.net import readiness
from lab.net.namespace import Interface, Namespace
from lab.net.topology import InterfaceSpec, NamespaceSpec, Topology
from lab.net.wire import Wire

# The kernel copies these from the first namespace, whose values are the machine's business and not a scenario's.
INHERITED = {
    "net.ipv4.ip_forward": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
}
READY_WITHIN_S = 5.0
CONGESTION_CONTROL = "net.ipv4.tcp_congestion_control"


class Network:
    """Brings `topology` up when entered (or by `up()`), and down when left (or by `close()`)."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._namespaces: dict[str, Namespace] = {}
        self._interfaces: dict[str, Interface] = {}
        self._undo: list[tuple[str, Callable[[], object]]] = []

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not aftermath.leave(self, self.close, error):
            self.close()

    def up(self) -> Self:
        """Builds everything, or raises and leaves nothing."""
        if self._namespaces:
            raise NetworkError(f"bring up {self.topology.name}: this network is up already")
        netns.allow_descriptors(2 * len(self.topology.namespaces))
        try:
            with netns.restored():
                self._make_namespaces()
                self._make_interfaces()
                self._set_late_sysctls()
            self._await_readiness()
        except BaseException:
            self.close()
            raise
        topology = self.topology
        journal.note(
            "topology",
            lambda: {"name": topology.name, "mermaid": topology.to_mermaid(), "svg": topology.to_svg()},
        )
        return self

    def close(self) -> None:
        """Takes everything down in reverse; tries every step, then raises one NetworkError with all that failed."""
        failures: list[tuple[str, Exception]] = []
        while self._undo:
            what, step = self._undo.pop()
            try:
                step()
            except Exception as error:
                failures.append((what, error))
        self._namespaces.clear()
        self._interfaces.clear()
        if failures:
            words = "; ".join(f"{what}: {error}" for what, error in failures)
            raise NetworkError(f"take down {self.topology.name}: {len(failures)} step(s) failed", kernel=words) from (
                failures[0][1]
            )

    def abandon(self) -> None:
        """close() does nothing from now on: another process has its namespaces, and those end with that one."""
        self._undo.clear()

    def on_close(self, what: str, step: Callable[[], object]) -> None:
        """Has `step` run by close(), before everything that was there earlier; `what` names it if it fails."""
        self._undo.append((what, step))

    def __getitem__(self, name: str) -> Namespace:
        found = self._namespaces.get(name)
        if found is None:
            raise NetworkError(f"there is no namespace {name!r}", mend=self._there_is(self._namespaces))
        return found

    def interface(self, name: str) -> Interface:
        """The interface "server/eth0"; by the name of a namespace alone, its first that has an address."""
        found = self._interfaces.get(name)
        if found is None and name in self._namespaces:
            found = self._interfaces[self.topology.interface(name).name]
        if found is None:
            raise NetworkError(f"there is no interface {name!r}", mend=self._there_is(self._interfaces))
        return found

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """All of them, in the order of the description; none when the network is not up."""
        return tuple(self._namespaces.values())

    @property
    def here(self) -> tuple[Namespace, ...]:
        """Those of this host's kernel: all, but on a cable."""
        return self.namespaces

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """All of them, in the order of the description."""
        return tuple(self._interfaces.values())

    def _there_is(self, names: Mapping[str, object]) -> str:
        if not names:
            return "the network is not up: with Network(topology) as net: …"
        return "there are " + ", ".join(list(names)[:12])

    def _own(self) -> tuple[NamespaceSpec, ...]:
        """The namespaces that are made here: all, but on a cable."""
        return self.topology.namespaces

    def _make_namespaces(self) -> None:
        early: dict[str, str] | None = None
        for spec in self._own():
            netns.unshare()
            descriptor = netns.open_current()
            self.on_close(f"close {spec.name}", partial(os.close, descriptor))
            route_socket = RouteSocket()
            self.on_close(f"close the netlink socket of {spec.name}", route_socket.close)
            namespace = Namespace(spec.name, descriptor, route_socket)
            self.on_close(f"forget {spec.name}", namespace.forget)
            self.on_close(f"end the processes of {spec.name}", partial(_end_processes, namespace))
            self._namespaces[spec.name] = namespace
            if early is None:
                early = self._early_sysctls()
            for name, value in {**early, **self._described_sysctls(spec, late=False)}.items():
                sysctl.write(name, value)

    def _early_sysctls(self) -> dict[str, str]:
        """What every namespace needs before it has an interface; read in the first one, as all are alike."""
        wanted = {name: value for name, value in INHERITED.items() if sysctl.read(name) != value}
        allowed = sysctl.read("net.ipv4.tcp_allowed_congestion_control").split()
        congestion_control = "cubic" if "cubic" in allowed else "reno"  # reno is allowed everywhere
        if sysctl.read(CONGESTION_CONTROL) != congestion_control:
            wanted[CONGESTION_CONTROL] = congestion_control
        if self.topology.ipv6 is None:
            wanted["net.ipv6.conf.all.disable_ipv6"] = "1"
        elif self.topology.layout.static:
            wanted["net.ipv6.conf.default.addr_gen_mode"] = "1"  # IN6_ADDR_GEN_MODE_NONE: no link-local address
        return wanted

    def _described_sysctls(self, spec: NamespaceSpec, *, late: bool) -> dict[str, str | int]:
        """The description's sysctls; those of an interface are late, for it must be there."""
        every = {**self.topology.sysctls, **spec.sysctls}
        if not every:
            return {}
        names = {each.short_name for each in self.topology.layout.of_namespace.get(spec.name, ())}
        return {
            name: value for name, value in every.items() if late == bool(names & set(name.replace("/", ".").split(".")))
        }

    def _make_interfaces(self) -> None:
        """Hubs are named first and make the veths, so settings go backwards: leaves up first, then their hub.

        The other way round the kernel updates every address of the hub once more as each carrier comes.
        """
        layout = self.topology.layout
        wire = Wire(layout, self.topology.vlans, self.topology.vxlans)

        def netns_fd(name: str) -> int:
            return self._namespaces[name].netns_fd

        for name, namespace in self._namespaces.items():
            requests = list(wire.links(name, netns_fd))
            if requests:
                namespace.route_socket.batch(requests)
        for name, namespace in reversed(self._namespaces.items()):
            namespace.route_socket.batch(list(wire.settings(name)))
            here = {spec.short_name: Interface(spec, namespace) for spec in layout.of_namespace.get(name, ())}
            namespace.adopt(here, self.interface)
            for each in here.values():
                if each.spec.offloads:
                    self._set_offloads(namespace, each.spec)
        for spec in (each for each in layout.interfaces.values() if each.namespace in self._namespaces):
            self._interfaces[spec.name] = self._namespaces[spec.namespace].interface(spec.short_name)

    def _await_readiness(self) -> None:
        layout = self.topology.layout
        for name, namespace in self._namespaces.items():
            own, loopback = layout.of_namespace.get(name, ()), layout.loopback[name]
            readiness.await_namespace(namespace.route_socket, own, loopback, READY_WITHIN_S)

    def _set_offloads(self, namespace: Namespace, spec: InterfaceSpec) -> None:
        with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for name, on in spec.offloads.items():
                ethtool.set_offload(control, spec.short_name, name, on)

    def _set_late_sysctls(self) -> None:
        """Forwarding comes after the interfaces: a forwarding namespace greets every new one with a report."""
        for spec in self._own():
            late: dict[str, str | int] = {}
            if spec.forwarding:
                late["net.ipv4.ip_forward"] = 1
                if self.topology.ipv6 is not None:
                    late["net.ipv6.conf.all.forwarding"] = 1
            late.update(self._described_sysctls(spec, late=True))
            if late:
                netns.enter(self._namespaces[spec.name].netns_fd)
                for name, value in late.items():
                    sysctl.write(name, value)


def _end_processes(namespace: Namespace) -> None:
    errors: list[LabError | OSError] = []
    for each in reversed(namespace.processes):
        try:
            process.kill(each)
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]
