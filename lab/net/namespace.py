"""A namespace that is up, and its interfaces."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ParamSpec, TypeVar

from lab.errors import NetworkError
from lab.kernel import ethtool, netlink, netns, origin, process, sysctl
from lab.kernel.netlink import Request, RouteSocket
from lab.net import readiness
from lab.net.layout import InterfaceSpec

P = ParamSpec("P")
T = TypeVar("T")

IFLA_STATS_LINK_64 = 1
_IF_STATS = struct.Struct("=BxxxII")


@dataclass(frozen=True)
class Counters:
    """What the kernel has counted at an interface since it was made (struct rtnl_link_stats64, its first members)."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    multicast: int = 0
    collisions: int = 0

    def __sub__(self, earlier: Counters) -> Counters:
        """What was counted since `earlier`."""
        return Counters(*(getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)))


class Interface:
    """One end of a veth, or a bridge, VLAN or VXLAN, that is up: a lab.model.target.InterfaceTarget."""

    def __init__(self, spec: InterfaceSpec, namespace: Namespace) -> None:
        self._spec = spec
        self.namespace = namespace

    @property
    def name(self) -> str:
        """Namespace and interface: "server/eth0"."""
        return self._spec.name

    @property
    def short_name(self) -> str:
        """The kernel's name of it: "eth0"."""
        return self._spec.short_name

    @property
    def kind(self) -> str:
        """ "veth", "physical", "bridge", "vlan" or "vxlan"."""
        return self._spec.kind

    @property
    def ifindex(self) -> int:
        """Its index: no other interface of the network has it."""
        return self._spec.ifindex

    @property
    def netns_fd(self) -> int:
        """The descriptor of its namespace, which owns it."""
        return self.namespace.netns_fd

    @property
    def mac(self) -> str:
        """Its address on the wire: "02:00:00:00:00:02"."""
        return self._spec.mac

    @property
    def ipv4(self) -> IPv4Address | None:
        """Its IPv4 address, without a prefix length."""
        return None if self._spec.ipv4 is None else self._spec.ipv4.ip

    @property
    def ipv6(self) -> IPv6Address | None:
        """Its IPv6 address, without a prefix length."""
        return None if self._spec.ipv6 is None else self._spec.ipv6.ip

    @property
    def mtu_bytes(self) -> int:
        """The largest packet, without its Ethernet header."""
        return self._spec.mtu_bytes

    @property
    def queues(self) -> int:
        """How many transmit queues it has, and as many receive queues."""
        return self._spec.queues

    @property
    def spec(self) -> InterfaceSpec:
        """Its description, with prefix lengths and offloads."""
        return self._spec

    @property
    def peer(self) -> Interface:
        """The other end of a veth; what a VLAN or VXLAN sits on. A bridge has none: NetworkError."""
        if not self._spec.peer:
            raise NetworkError(f"{self.name} is a {self.kind}: it has no peer")
        return self.namespace.network_interface(self._spec.peer)

    def is_up(self) -> bool:
        """Whether it has a carrier, and the kernel has acted on that: frames pass."""
        return readiness.is_up(self._spec, self.namespace.route_socket)

    def offloads(self) -> dict[str, bool]:
        """Which offloads are on, by ethtool's short names; asked of the driver now."""
        with self.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            return {name: ethtool.offload(control, self.short_name, name) for name in ethtool.SHORT_NAMES}

    def counters(self) -> Counters:
        """Asked of the kernel now (RTM_GETSTATS), about 15 µs."""
        body = _IF_STATS.pack(0, self.ifindex, 1 << (IFLA_STATS_LINK_64 - 1))
        replies = self.namespace.route_socket.ask(
            Request(netlink.RTM_GETSTATS, netlink.NLM_F_REQUEST, body, ("read the counters of", self.name))
        )
        return counters_in(replies[0].body)

    def __repr__(self) -> str:
        return f"<Interface {self.name} ifindex {self.ifindex}>"


class Namespace:
    """A network namespace without a name in the system, held by `netns_fd`: a lab.model.target.NamespaceTarget."""

    def __init__(self, name: str, netns_fd: int, route_socket: RouteSocket) -> None:
        self.name = name
        self._netns_fd: int | None = netns_fd
        self.route_socket = route_socket
        self.processes: list[subprocess.Popen[Any]] = []
        self._interfaces: Mapping[str, Interface] = {}
        self._find: Callable[[str], Interface] | None = None

    @property
    def netns_fd(self) -> int:
        """Its descriptor; NetworkError once the network is down: the number may mean another namespace by then."""
        if self._netns_fd is None:
            raise NetworkError(f"{self.name} is gone: its network is down", mend="use it inside the with block")
        return self._netns_fd

    def forget(self) -> None:
        """The network's part: the descriptor is about to be closed."""
        self._netns_fd = None

    def adopt(self, interfaces: Mapping[str, Interface], find: Callable[[str], Interface]) -> None:
        """The network's part: which interfaces are here (by short name), and where to find the others."""
        self._interfaces, self._find = interfaces, find

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """All of them but the loopback, in the order of the description."""
        return tuple(self._interfaces.values())

    def interface(self, name: str) -> Interface:
        """The interface "eth0"."""
        found = self._interfaces.get(name)
        if found is None:
            raise NetworkError(f"{self.name} has no interface {name!r}", mend=", ".join(self._interfaces) or "none")
        return found

    def network_interface(self, name: str) -> Interface:
        """Any interface of the network, by its full name."""
        assert self._find is not None
        return self._find(name)

    @contextmanager
    def enter(self) -> Iterator[Namespace]:
        """The calling thread is inside for the length of the block."""
        with netns.inside(self.netns_fd):
            yield self

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function(*args)` returns when this thread runs it inside."""
        with netns.inside(self.netns_fd):
            return function(*args, **kwargs)

    def socket(self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """A socket that belongs to this namespace and can be used from anywhere; the caller closes it."""
        with netns.inside(self.netns_fd):
            made = socket.socket(family, kind, protocol)
        origin.descriptor(made.fileno())
        return made

    def popen(self, argv: Sequence[str], **popen_options: Any) -> subprocess.Popen[Any]:
        """A process inside, in a session of its own, ended by the network's close() or by the death of this process.

        close() ends the whole session. A death by SIGKILL takes only what was started here along, by PR_SET_PDEATHSIG,
        and not what that started in turn: have a shell `exec` its command.
        """
        started = process.spawn(self.netns_fd, argv, **popen_options)
        self.processes.append(started)
        return started

    def sysctl(self, name: str) -> str:
        """The value of "net.ipv4.ip_forward"."""
        return self.run(sysctl.read, name)

    def set_sysctl(self, name: str, value: str | int) -> None:
        """Sets a sysctl of this namespace alone."""
        self.run(sysctl.write, name, value)

    def counters(self) -> dict[str, Counters]:
        """Those of every interface here, by short name, without loopback; one request."""
        body = _IF_STATS.pack(0, 0, 1 << (IFLA_STATS_LINK_64 - 1))
        what = ("read the counters of", self.name)
        replies = self.route_socket.ask(
            Request(netlink.RTM_GETSTATS, netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP, body, what)
        )
        found = {_IF_STATS.unpack_from(each.body)[1]: counters_in(each.body) for each in replies}
        return {name: found[each.ifindex] for name, each in self._interfaces.items() if each.ifindex in found}

    def __repr__(self) -> str:
        return f"<Namespace {self.name}: {', '.join(self._interfaces)}>"


def counters_in(body: bytes) -> Counters:
    """The counters in an answer to RTM_GETSTATS."""
    for kind, payload in netlink.attributes(body[_IF_STATS.size :]):
        if kind == IFLA_STATS_LINK_64:
            return Counters(*struct.unpack_from("=10Q", payload))
    return Counters()
