"""Floods between the two hosts: sent by the one, counted by the other."""

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


class WireFlood:
    """A source and a template, ready; `run` may be called again and again. It starts there, or here.

    Offered is what the driver of the source took, so that a generator which outruns its own interface lays its losses
    on nobody; how many it `refused` is told beside. The time, from the first frame to the last, is by the clock there.
    """

    def __init__(
        self, net: PhysicalNetwork, frame: Any, *, flows: int = 1, via: str = "live", from_here: bool = False
    ) -> None:
        mix = frame if isinstance(frame, FrameMix) else FrameMix(((bytes(frame), 1),))
        self._net, self.flows, self.frame_bytes = net, flows, mix.frame_bytes
        self._from_here = from_here
        self.refused = 0
        """Of the last run."""
        if from_here:
            self._key = net.sources.ready(mix.parts, flows, via)
        else:
            parts = [(raw.hex(), number) for raw, number in mix.parts]
            self._key = net.ask("flood_ready", parts=parts, flows=flows, via=via)

    def run(
        self,
        *,
        count: int | None = None,
        seconds: float | None = None,
        rate_pps: float | None = None,
        sink: Interface | Counter | None = None,
    ) -> Delivery:
        """Sends so much, and waits until the last frame is counted. TrafficError when none left."""
        amount = Amount(count, seconds, rate_pps)
        with ExitStack() as stack:
            counted = self._counter(sink, stack)
            self._net.await_carriers()
            # After the carrier: a veth does not poll for GRO that was turned on while it was down.
            self._net.take_in(stack, here=not self._from_here)
            before = counted()
            said = self._sent(amount)
            self.refused = int(said["refused"])
            offered = int(said["offered"])
            if not offered:
                raise self._none_left(int(said["made"]))
            received = settled(counted, before, offered, self._net.still_s)
        return Delivery(offered, received, duration_s=said["duration_s"], cpu_s=said["cpu_s"])

    def _sent(self, amount: Amount) -> dict[str, float]:
        if self._from_here:
            return self._net.sources.send(self._key, amount)
        said: dict[str, float] = self._net.ask("flood", 2 * LONGEST_S, key=self._key, amount=vars(amount))
        return said

    def _counter(self, sink: Interface | Counter | None, stack: ExitStack) -> Callable[[], int]:
        if sink is None:
            end = self._net.far_end if self._from_here else self._net.end
            return Passage(self._net.interface(end.name)).count
        return sink.count if hasattr(sink, "count") else stack.enter_context(Sink(sink)).count

    def _none_left(self, made: int) -> TrafficError:
        cable = self._net.cable
        source, end = (cable.here, self._net.end) if self._from_here else (cable.there, self._net.far_end)
        return TrafficError(
            f"flood {end.name}: {source} took none of {made:,} live frames",
            mend='its driver sends nothing for XDP (ndo_xdp_xmit): via="packet"',
        )
