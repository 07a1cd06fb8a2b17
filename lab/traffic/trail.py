"""How far a stream came, by the counters of the interfaces on its way: nothing is added to the traffic for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lab.errors import LabError, TrafficError
from lab.kernel import softirq
from lab.traffic.datagrams import namespace_of, target_of
from lab.traffic.stream import Stream
from lab.traffic.way import way

if TYPE_CHECKING:
    from lab.net.namespace import Counters
    from lab.net.network import Network


def check_up(net: Network, interfaces: Iterable[str], what: str) -> None:
    """TrafficError, naming the first of the interfaces that is down, about 10 µs each; a VXLAN has no such state."""
    found = (net.interface(name) for name in interfaces)
    dead = next((each.name for each in found if each.kind != "vxlan" and not each.is_up()), "")
    if dead:
        raise TrafficError(
            f"{what}: nothing arrived, and {dead} is down",
            mend="set it up again, or canary=False where it is down on purpose",
        )


class Trail:
    """The counters of a stream's way, kept from when it was made."""

    def __init__(self, net: Network, stream: Stream) -> None:
        from ipaddress import ip_address

        self._net, self._stream = net, stream
        self._source = net[namespace_of(stream.src)]
        try:
            self._steps = way(net.topology, stream.src, ip_address(target_of(net, stream)[0]))
        except LabError:  # routes that the description does not know
            self._steps = []
        self._stays = namespace_of(stream.src) == namespace_of(stream.dst) and not self._steps
        names = {self._source.name, *(step.into.namespace for step in self._steps if step.into)}
        self._before = {name: net[name].counters() for name in names}

    def reached(self) -> str:
        """The farthest interface that frames entered, as many as messages were offered or at least one; "" for none."""
        softirq.settle()
        farthest = ""
        for step in self._steps:
            if step.into is None or not self._since(step.into.namespace)[step.into.short_name].rx_packets:
                break
            farthest = step.into.name
        return farthest

    def check_left(self, offered: int) -> None:
        """TrafficError unless the frames left the sender's namespace: for TCP one is enough, a handshake's."""
        left = sum(each.tx_packets for each in self._since(self._source.name).values())
        wanted = 1 if self._stream.protocol == "tcp" else offered
        if left >= wanted or self._stays:
            return
        where = self._steps[0].out.name if self._steps else self._source.name
        raise TrafficError(
            f"send {self._stream.name}: nothing arrived, and only {left} of {offered} frames left {where}",
            mend="look at addresses, routes and neighbours; canary=False if a program at this egress stops them",
        )

    def check_alive(self) -> None:
        """TrafficError when an interface on the way is down: that nothing arrived says nothing of a program then."""
        ends = [end.name for step in self._steps for end in (step.out, step.into) if end]
        check_up(self._net, ends, f"send {self._stream.name}")

    def _since(self, namespace: str) -> dict[str, Counters]:
        before = self._before[namespace]
        return {name: now - before[name] for name, now in self._net[namespace].counters().items()}
