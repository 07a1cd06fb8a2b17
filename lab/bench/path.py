"""Where a program is measured: a topology, the interface it sits on, where frames start and where they arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.model.action import Direction, Mode

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.bpf.program import Program
    from lab.net.topology import Topology
    from lab.traffic.network import Network


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

    @property
    def how(self) -> str:
        """For the subject of a measurement: "server/eth0, native"."""
        words = [self.at, *(str(each.value) for each in (self.mode, self.direction) if each)]
        return ", ".join(words)


def counted(flows: int) -> str:
    """ "1 flow", "65,536 flows"."""
    return f"{flows:,} flow{'s' * (flows != 1)}"
