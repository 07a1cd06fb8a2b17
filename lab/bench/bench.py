"""The fixture `bench`: what a benchmark asks for, each a Measurement that is noted for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lab.model.journal import note
from lab.model.measurement import Measurement
from lab.traffic.flow_fields import PORT_BITS

if TYPE_CHECKING:
    from lab.bench.capacity import Capacity
    from lab.bench.path import Path
    from lab.bpf.program import Program


class Bench:
    """Measures programs; every figure has a unit, a method and an interval, and goes into the stored run."""

    def cost(
        self, program: Program, frame: Any, *, flows: Iterable[int] = (1, 65_536, 1_048_576), **options: Any
    ) -> list[Measurement]:
        """ns per packet by BPF_PROG_RUN, one measurement a number of flows (see `lab.bench.cost`).

        Where `lab bench floors` was run, a remark says what the program pays for; the program's maps meet more packets
        for that (see `lab.bench.paid`).
        """
        from lab.bench.cost import measure_cost
        from lab.bench.paid import with_bills

        measured = measure_cost(program, frame, flows=flows, **options)
        return [self._kept(each) for each in with_bills(measured, program, frame, options.get("port_bits", PORT_BITS))]

    def added_latency(self, program: Program, path: Path, frame: Any, **options: Any) -> Measurement:
        """ns that attaching the program adds to a path, as a distribution (see `lab.bench.latency`)."""
        from lab.bench.latency import measure_added_latency

        return self._kept(measure_added_latency(program, path, frame, **options))

    def round_trip(self, program: Program, path: Path, **options: Any) -> Measurement:
        """ns that a program adds to a UDP request and its answer, as an application sees it (see `round_trip`)."""
        from lab.bench.round_trip import measure_round_trip

        return self._kept(measure_round_trip(program, path, **options))

    def rate(self, program: Program, path: Path, frame: Any, **options: Any) -> Measurement:
        """Packets per second through the program: NDR, PDR, MRR, and what limits them (see `lab.bench.rate`)."""
        from lab.bench.rate import measure_rate

        return self._kept(measure_rate(program, path, frame, **options))

    def rates(self, program: Program, path: Path, frame: Any, **options: Any) -> list[Measurement]:
        """The rate by frame size, from 64 bytes to 1500 and IMIX (see `lab.bench.frame_sizes`)."""
        from lab.bench.frame_sizes import measure_rates

        return [self._kept(each) for each in measure_rates(program, path, frame, **options)]

    def goodput(self, program: Program, path: Path, **options: Any) -> Measurement:
        """Bits a second of TCP or UDP through the program, by iperf3, and its CPU use (see `lab.bench.goodput`)."""
        from lab.bench.goodput import measure_goodput

        return self._kept(measure_goodput(program, path, **options))

    def capacity(self, program: Program, path: Path, frame: Any, **options: Any) -> Capacity:
        """Sessions opened per second and held, and what happens at a full table (see `lab.bench.capacity`)."""
        from lab.bench.capacity import measure_capacity

        found = measure_capacity(program, path, frame, **options)
        self._kept(found.opened)
        self._kept(found.held)
        return found

    def overhead(
        self, operation: Callable[[], Any], attach: Callable[[], AbstractContextManager[Any]], **options: Any
    ) -> Measurement:
        """ns that a call of user space takes longer while something is attached (see `lab.bench.overhead`)."""
        from lab.bench.overhead import measure_overhead

        return self._kept(measure_overhead(operation, attach, **options))

    def keep(self, measurement: Measurement) -> Measurement:
        """Puts a measurement of your own into the stored run, and returns it."""
        return self._kept(measurement)

    @staticmethod
    def _kept(measurement: Measurement) -> Measurement:
        note("measurement", measurement.as_dict())
        return measurement
