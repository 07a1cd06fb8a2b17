"""Where a program is measured: a topology, the interface it sits on, where frames start and where they arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.model.action import Direction, Mode
from lab.net.cable import OutOfReach, laid

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.bpf.program import Program
    from lab.net.namespace import Interface
    from lab.net.topology import Topology
    from lab.traffic.network import Network

SYSCTLS = ("net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv4.tcp_congestion_control")
"""Of the namespace of the program, that change a packet's way; those of the machine are in the environment."""


@dataclass(frozen=True)
class Path:
    """Frames leave `source`, meet the program at `at`, and arrive at `sink` (all interfaces, "client/eth0").

    `sink_without` is where the same frames arrive when the program is not attached, if that is elsewhere: a program
    that sends frames back (XDP_TX) has them at the source, the bare path at `at`.
    `prepare(network)` runs once the network is up, before anything is attached: addresses, listeners, routes.
    """

    topology: Topology
    source: str
    at: str
    sink: str
    sink_without: str = ""
    mode: Mode | None = None
    direction: Direction | None = None
    prepare: Callable[[Network], Any] | None = None

    def attach(self, program: Program, network: Network) -> Attachment:
        """The program on its interface, by the mode and direction of the path."""
        return program.attach(network.interface(self.at), mode=self.mode, direction=self.direction)

    def only_on_veth(self, what: str, why: str) -> None:
        """OutOfReach, before anything is brought up, where the two ends are on two hosts."""
        if laid(self.topology).cable is not None:
            raise OutOfReach(
                f"measure {what} on a cable: {why}", mend="bench.rate, bench.rates and bench.goodput do; or on a veth"
            )

    def settings(self, network: Network) -> list[str]:
        """What the kernel says now of the path: "server/eth0: tx tso off, rx sg gso gro on"; a namespace's sysctls."""
        names = dict.fromkeys((self.source, self.at, self.sink_without or self.sink, self.sink))
        interfaces = {each.name: each for each in map(network.interface, names)}
        under_test = network.interface(self.at).namespace
        sysctls = [f"{name}={under_test.sysctl(name)}" for name in SYSCTLS]
        return [
            *(f"{name}: {_offloads(each)}" for name, each in interfaces.items()),
            f"{self.at}: {', '.join(sysctls)}",
        ]

    @property
    def how(self) -> str:
        """For the subject of a measurement: "server/eth0, native"."""
        words = [self.at, *(str(each.value) for each in (self.mode, self.direction) if each)]
        return ", ".join(words)


@dataclass(frozen=True)
class Together:
    """Several attachments as one, for a path whose program has parts elsewhere."""

    parts: tuple[Attachment, ...]
    replace = False

    def detach(self) -> None:
        """The newest first."""
        for part in reversed(self.parts):
            part.detach()


def _offloads(interface: Interface) -> str:
    on = interface.offloads()
    told = {word: " ".join(name for name in on if on[name] == state) for word, state in (("off", False), ("on", True))}
    return ", ".join(f"{names} {word}" for word, names in told.items() if names)


def counted(flows: int) -> str:
    """ "1 flow", "65,536 flows"."""
    return f"{flows:,} flow{'s' * (flows != 1)}"
