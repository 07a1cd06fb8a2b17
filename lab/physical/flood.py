"""Floods from the other host, counted on this one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.errors import TrafficError
from lab.model.delivery import Delivery
from lab.traffic.flood import LONGEST_S, Amount, settled
from lab.traffic.mixed_flood import FrameMix
from lab.traffic.sink import Passage, Sink

if TYPE_CHECKING:
    from lab.net.namespace import Interface
    from lab.physical.network import PhysicalNetwork
    from lab.traffic.sink import Counter


class FarFlood:
    """A source on the other host and a template, ready there; `run` may be called again and again.

    Offered is what the driver there took, so that a generator which outruns its own interface lays its losses on
    nobody; how many it `refused` is told beside. The time is from the first frame to the last by the clock there.
    """

    def __init__(self, net: PhysicalNetwork, frame: Any, *, flows: int = 1, via: str = "live") -> None:
        mix = frame if isinstance(frame, FrameMix) else FrameMix(((bytes(frame), 1),))
        self._net, self.flows, self.frame_bytes = net, flows, mix.frame_bytes
        parts = [(raw.hex(), number) for raw, number in mix.parts]
        self._key: int = net.ask("flood_ready", parts=parts, flows=flows, via=via)
        self.refused = 0
        """Of the last run."""

    def run(
        self,
        *,
        count: int | None = None,
        seconds: float | None = None,
        rate_pps: float | None = None,
        sink: Interface | Counter | None = None,
    ) -> Delivery:
        """Sends so much, and waits until the last frame is counted. TrafficError when none left."""
        Amount(count, seconds, rate_pps)  # refuses here what makes no sense
        with ExitStack() as stack:
            self._net.take_in(stack)
            counted = self._counter(sink, stack)
            before = counted()
            amount = {"count": count, "seconds": seconds, "rate_pps": rate_pps}
            said = self._net.ask("flood", 2 * LONGEST_S, key=self._key, amount=amount)
            self.refused = said["refused"]
            if not said["offered"]:
                none = f"{self._net.cable.there} took none of {said['made']:,} live frames"
                raise TrafficError(
                    f"flood {self._net.far_end.name}: {none}",
                    mend='its driver sends nothing for XDP (ndo_xdp_xmit): via="packet"',
                )
            received = settled(counted, before, said["offered"], self._net.still_s)
        return Delivery(said["offered"], received, duration_s=said["duration_s"], cpu_s=said["cpu_s"])

    def _counter(self, sink: Interface | Counter | None, stack: ExitStack) -> Callable[[], int]:
        if sink is None:
            return Passage(self._net.interface(self._net.end.name)).count
        return sink.count if hasattr(sink, "count") else stack.enter_context(Sink(sink)).count
