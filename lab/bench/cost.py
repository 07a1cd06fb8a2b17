"""Cost of a program in ns per packet, by BPF_PROG_RUN, with the cost of PROG_RUN itself subtracted.

A driver (lab/instruments/drive_*.bpf.c) gives each round the frame of another flow and tail-calls the program; a second
driver tail-calls an empty program. Batches of both are timed in turn, around the system call, and the difference of
each pair is one sample. PROG_RUN nanoseconds are not packets per second on a wire: there is no device, no memory for
frames and no other work between two packets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import instruments
from lab.bench.path import counted
from lab.bench.pinned import pinned
from lab.errors import MeasurementError
from lab.kernel.bpf import prog_test_run
from lab.model import statistics
from lab.model.action import Mode
from lab.model.measurement import Limit, Measurement, Trial
from lab.traffic.flow_fields import PORT_BITS, flow_knobs

if TYPE_CHECKING:
    from lab.bpf.program import Program

METHOD = "prog_run"
BATCH_NS = 400_000
TC_KINDS = {0: "tc", 46: "tc_ingress", 47: "tc_egress"}
"""By expected attach type: none, BPF_TCX_INGRESS, BPF_TCX_EGRESS."""


def measure_cost(
    program: Program,
    frame: Any,
    *,
    flows: int = 1,
    port_bits: int = PORT_BITS,
    pairs: int = 60,
    below_ns: float | None = None,
    subject: str = "",
) -> Measurement:
    """ns per packet of `program` for packets of `flows` flows, each seen once before the clock starts.

    `frame` is a scapy packet or bytes, UDP or TCP over IPv4 or IPv6: its source address and port are varied, and
    `flows` must be a power of two. 2 ** `port_bits` flows share an address before it is the next one: with 0 each flow
    has its own, which a program that looks addresses up may want. `below_ns` is the author's promise for the median;
    `subject` says which of several cases it is ("IPv6, a miss").
    MeasurementError for other frames, for other types of programs, and when the driver refused a round.
    """
    if flows < 1 or flows & (flows - 1):
        raise MeasurementError(f"measure cost at {flows} flows: not a power of two", mend="1, 65_536 or 1_048_576")
    raw = bytes(frame)
    raw += bytes(-len(raw) % 8)  # drivers restore whole words; the padding is behind the packet
    knobs = {**flow_knobs(raw, flows), "port_bits": port_bits}
    with _drivers(program, raw, knobs) as (loaded, floor), pinned():
        loaded.warm_up(flows)
        floor.warm_up(flows)
        repeat = loaded.rounds_within(BATCH_NS)
        samples: dict[str, list[float]] = {"with": [], "without": []}
        for pair in range(pairs):
            for driver in (loaded, floor) if pair % 2 else (floor, loaded):
                samples[driver.arm].append(driver.time(repeat))
        if refused := loaded.refused() + floor.refused():
            raise MeasurementError(
                f"measure the cost of {program.name}: {refused:,} rounds never reached it",
                mend="its ports lie beyond 128 bytes, or it changes the length of its frames",
            )
    what = f"{subject}, {counted(flows)}" if subject else counted(flows)
    return _measurement(program, what, flows, samples, below_ns)


@dataclass(frozen=True)
class _Driver:
    """A loaded driver whose tail call goes to the program under test or to the empty one."""

    arm: str
    fd: int
    frame: bytes
    refused: Callable[[], int]
    """Rounds in which the frame could not be made, or the tail call failed."""

    def run(self, rounds: int) -> int:
        """Runs so many rounds, and gives the return code of the last."""
        return prog_test_run(self.fd, self.frame, repeat=rounds).retval

    def warm_up(self, flows: int) -> None:
        """Each flow once: tables are filled, the JIT's code and the caches are warm."""
        self.run(max(flows, 2000))

    def rounds_within(self, budget_ns: float) -> int:
        """How many rounds take about so long, at least 200."""
        return max(200, int(budget_ns / self.time(2000)))

    def time(self, rounds: int) -> float:
        """ns per round, taken around the system call (the kernel's own figure is in whole ns)."""
        start = time.perf_counter_ns()
        self.run(rounds)
        return (time.perf_counter_ns() - start) / rounds


@contextmanager
def _drivers(program: Program, frame: bytes, knobs: dict[str, Any]) -> Iterator[tuple[_Driver, _Driver]]:
    """Both drivers, loaded; XDP ones are attached to a veth of no traffic.

    An XDP program that is attached nowhere costs 20 ms more for each PROG_RUN call with repeat: the kernel patches
    its dispatcher (bpf_prog_change_xdp) and waits for a grace period, twice.
    """
    from lab import bpf
    from lab.net.topology import Topology
    from lab.traffic.network import Network

    kind = _kind(program)
    with ExitStack() as stack:
        stem = kind.partition("_")[0]
        empty = stack.enter_context(bpf.load(instruments.path(f"empty_{stem}"), program=f"empty_{kind}"))
        drivers = []
        for target in (program, empty):
            driver = stack.enter_context(bpf.load(instruments.path(f"drive_{stem}"), program=f"drive_{kind}", **knobs))
            driver.maps["targets"][0] = target
            drivers.append(driver)
        if program.type == "xdp":
            network = stack.enter_context(Network(Topology.pair("left", "right")))
            for driver, place in zip(drivers, ("left/eth0", "right/eth0"), strict=True):
                stack.enter_context(driver.attach(network.interface(place), mode=Mode.NATIVE))
        loaded, floor = drivers
        yield _Driver("with", loaded.fd, frame, _refused(loaded)), _Driver("without", floor.fd, frame, _refused(floor))


def _refused(driver: Program) -> Callable[[], int]:
    return lambda: int(driver.globals["refused"])


def _kind(program: Program) -> str:
    """Which driver may tail-call the program: the kernel wants the section's type, attach type and flags alike."""
    if program.type == "xdp":
        return "xdp_frags" if program.section.startswith("xdp.frags") else "xdp"
    if program.type == "sched_cls" and program.expected_attach_type in TC_KINDS:
        return TC_KINDS[program.expected_attach_type]
    raise MeasurementError(
        f"measure the cost of {program.name}: there is no driver for section {program.section}",
        mend="bench.cost measures XDP and tc programs",
    )


def _measurement(
    program: Program, subject: str, flows: int, samples: dict[str, list[float]], below_ns: float | None
) -> Measurement:
    added = [each - floor for each, floor in zip(samples["with"], samples["without"], strict=True)]
    floor_ns = statistics.quantile(samples["without"], 0.5)
    return Measurement(
        metric="cost",
        method=METHOD,
        unit="ns/packet",
        program=program.name,
        subject=subject,
        headline="p50",
        summary=statistics.percentiles(added),
        interval=statistics.median_interval(added),
        trials=tuple(Trial(arm, tuple(values), {"flows": flows}) for arm, values in samples.items()),
        limit=Limit("p50", below_ns) if below_ns is not None else None,
        remarks=(f"PROG_RUN, the driver and an empty program cost {floor_ns:.1f} ns, and are subtracted",),
    )
