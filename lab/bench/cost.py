"""Cost of a program in ns per packet, by BPF_PROG_RUN, with the cost of PROG_RUN itself subtracted.

The program under test, an empty one and a reference that always does the same work sit in one driver
(`lab.bench.driver`) and take turns in batches of 0.1 ms. The difference of neighbours in a turn is what the program
costs. Where code lies in memory is part of that, so all of them, the driver too, are loaded afresh several times
(`lab.bench.copies`): the figure is the mean over these loads, and its interval is Student's.

PROG_RUN nanoseconds are not packets per second on a wire: there is no device, no memory for frames and no other work
between two packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.bench.copies import copies_of
from lab.bench.driver import Driver, driver_for, load_instrument
from lab.bench.inference import estimate
from lab.bench.isolation import Core, isolated
from lab.bench.noise import watched
from lab.bench.path import counted
from lab.model import statistics
from lab.model.measurement import Limit, Measurement, Trial
from lab.traffic.flow_fields import PORT_BITS

if TYPE_CHECKING:
    from lab.bpf.program import Program

METHOD = "prog_run"
BATCH_NS = 100_000
TURNS = 12
"""Of each load: its median is known to a tenth of what two loads differ by."""
LOADING_S = 0.25
REFERENCE_ROUNDS = 200
"""Of burn_*.bpf.c: about 180 ns of arithmetic, the yardstick of this machine and minute."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a program on a frame, and which of several cases it is ("IPv6, a miss")."""

    program: Program
    frame: Any
    name: str = ""
    port_bits: int = PORT_BITS
    below_ns: float | None = None


def measure_cost(
    program: Program,
    frame: Any,
    *,
    flows: Iterable[int] = (1,),
    port_bits: int = PORT_BITS,
    turns: int = TURNS,
    below_ns: float | None = None,
    subject: str = "",
) -> list[Measurement]:
    """ns per packet of `program` for packets of so many flows, each seen before the clock starts; one for each number.

    `frame` is a scapy packet or bytes, UDP or TCP over IPv4 or IPv6: its source address and port are varied, and
    the `flows` must be powers of two. 2 ** `port_bits` flows share an address before it is the next one: with 0 each
    flow has its own, which a program that looks addresses up may want. `below_ns` is the author's promise for the mean;
    `subject` says which of several cases it is ("IPv6, a miss").
    MeasurementError for other frames, for other types of programs, and when the driver refused a round.
    """
    what = Subject(program, frame, subject, port_bits, below_ns)
    with copies_of(program, LOADING_S) as copies:
        return [_at_flows(what, copies, count, turns) for count in flows]


def _at_flows(what: Subject, copies: Sequence[Program], flows: int, turns: int) -> Measurement:
    program = what.program
    with ExitStack() as stack:
        driver = stack.enter_context(driver_for(program, what.frame, flows=flows, port_bits=what.port_bits))
        loads = [
            {
                "with": driver.place(copy),
                "without": driver.place(stack.enter_context(load_instrument("empty", program))),
                "reference": driver.place(
                    stack.enter_context(load_instrument("burn", program, rounds=REFERENCE_ROUNDS))
                ),
            }
            for copy in copies
        ]
        core = stack.enter_context(isolated())
        driver.meet_every_flow(loads[0]["with"])
        with watched(core) as watch:
            taken = [_turns_of(driver, arms, turns, core) for arms in loads]
        driver.check(program.name)
    return _measurement(what, flows, taken, watch.noise(*_by_arm(taken).values()))


def _turns_of(driver: Driver, arms: dict[str, int], turns: int, core: Core) -> dict[str, list[float]]:
    driver.renew()
    rounds = driver.rounds_within(list(arms.values()), BATCH_NS)
    driver.come_to_rest([arms["with"]])
    with core.burst():
        return driver.take_turns(arms, rounds, turns)


def _by_arm(taken: Sequence[dict[str, list[float]]]) -> dict[str, tuple[float, ...]]:
    return {arm: tuple(x for load in taken for x in load[arm]) for arm in taken[0]}


def _measurement(
    what: Subject, flows: int, taken: Sequence[dict[str, list[float]]], noise: Mapping[str, Any]
) -> Measurement:
    """From ns a round, by load and arm."""
    added = [added_by(load) for load in taken]
    facts = {"flows": flows, "loads": len(taken)}
    floor_ns = median(sample for load in taken for sample in load["without"])
    return Measurement(
        metric="cost",
        method=METHOD,
        unit="ns/packet",
        program=what.program.name,
        subject=", ".join(filter(None, (what.name, counted(flows)))),
        headline="mean",
        summary=_summary(added),
        interval=_interval(taken, added),
        trials=tuple(Trial(arm, samples, facts) for arm, samples in _by_arm(taken).items()),
        limit=Limit("mean", what.below_ns) if what.below_ns is not None else None,
        remarks=(
            f"mean of {counted_loads(len(taken))}; PROG_RUN, the driver and an empty program cost {floor_ns:.1f} ns, "
            "and are subtracted",
        ),
        noise=noise,
    )


def added_by(load: dict[str, list[float]]) -> float:
    """ns that the program adds to an empty one, by the median of neighbours in a turn."""
    return median(a - b for a, b in zip(load["with"], load["without"], strict=True))


def _summary(added: Sequence[float]) -> dict[str, float]:
    return {"mean": estimate(added).value, **statistics.percentiles(added)}


def _interval(taken: Sequence[dict[str, list[float]]], added: Sequence[float]) -> tuple[float, float]:
    """Over loads; of a single one (BCC) only the turns are left to tell."""
    if len(added) > 1:
        whole = estimate(added)
        return whole.low, whole.high
    return statistics.median_interval([a - b for a, b in zip(taken[0]["with"], taken[0]["without"], strict=True)])


def counted_loads(loads: int) -> str:
    """ "1 load", "24 loads"."""
    return f"{loads} load{'s' * (loads != 1)}"
