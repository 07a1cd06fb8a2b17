"""A program that feeds other programs under BPF_PROG_RUN, and times how long a round takes.

The driver (lab/instruments/drive_*.bpf.c) gives each round the frame of another flow and tail-calls the program in one
of its slots. All programs that are compared sit in slots of one driver: what it costs is the same for each of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lab import instruments
from lab.errors import MeasurementError
from lab.kernel.bpf import prog_test_run
from lab.model.action import Mode
from lab.model.journal import journal
from lab.traffic.flow_fields import PORT_BITS, flow_knobs

if TYPE_CHECKING:
    from lab.bpf.program import Program

SLOTS = 512
"""SLOTS of lab/instruments/drive_*.bpf.c."""
WARM_UP_ROUNDS = 2000
TC_KINDS = {0: "tc", 46: "tc_ingress", 47: "tc_egress"}
"""By expected attach type: none, BPF_TCX_INGRESS, BPF_TCX_EGRESS."""


class Driver:
    """A loaded driver and the programs in its slots."""

    def __init__(self, program: Program, frame: bytes, flows: int) -> None:
        self._program = program
        self._frame = frame
        self._free = list(range(SLOTS))
        self.flows = flows

    def place(self, program: Program) -> int:
        """The slot that the program sits in from now on; MeasurementError when there are too many."""
        if not self._free:
            raise MeasurementError(f"time {program.name}: all {SLOTS} slots of the driver are taken")
        slot = self._free.pop()
        self._program.maps["targets"][slot] = program
        return slot

    def clear(self, slot: int) -> None:
        """Takes the program out of its slot."""
        del self._program.maps["targets"][slot]
        self._free.append(slot)

    def run(self, slot: int, rounds: int) -> int:
        """Runs so many rounds; gives how long they took, in ns, by the clock around the system call.

        The kernel's own figure is in whole nanoseconds a round, 4 % of a short program.
        """
        self._program.globals["slot"] = slot
        start = time.perf_counter_ns()
        prog_test_run(self._program.fd, self._frame, repeat=rounds)
        return time.perf_counter_ns() - start

    def meet_every_flow(self, slot: int) -> None:
        """Shows the program each flow once, so that it knows them all; in another order than they come in later.

        A table that is filled in the order in which it will be read lies in memory as if it had been made for that.
        """
        stride, self._program.globals["stride"] = self._program.globals["stride"], 1
        self.run(slot, max(self.flows, WARM_UP_ROUNDS))
        self._program.globals["stride"] = stride

    def rounds_within(self, slots: Sequence[int], batch_ns: float) -> int:
        """How many rounds of the slowest of these take about so long, at least 100."""
        slowest = max(self.run(slot, WARM_UP_ROUNDS) for slot in slots) / WARM_UP_ROUNDS
        return max(100, int(batch_ns / slowest))

    def take_turns(self, arms: Mapping[str, int], rounds: int, turns: int) -> dict[str, list[float]]:
        """ns a round of each arm's slot, once a turn; every second turn goes backwards (A B B A ...)."""
        samples: dict[str, list[float]] = {arm: [] for arm in arms}
        order = list(arms.items())
        for turn in range(turns):
            for arm, slot in reversed(order) if turn % 2 else order:
                samples[arm].append(self.run(slot, rounds) / rounds)
        return samples

    def check(self, subject: str) -> None:
        """MeasurementError when a round never reached its program."""
        if refused := int(self._program.globals["refused"]):
            raise MeasurementError(
                f"measure the cost of {subject}: {refused:,} rounds never reached it",
                mend="its ports lie beyond 128 bytes, or it changes the length of its frames",
            )


@contextmanager
def driver_for(program: Program, frame: Any, *, flows: int = 1, port_bits: int = PORT_BITS) -> Iterator[Driver]:
    """A driver for programs of the kind of `program`: XDP or tc.

    An XDP driver is attached to a veth without traffic: one that is attached nowhere costs 20 ms more for each
    PROG_RUN call with repeat, since the kernel patches its dispatcher (bpf_prog_change_xdp) and waits for a grace
    period, twice.
    """
    from lab import bpf
    from lab.net.topology import Topology
    from lab.traffic.network import Network

    if flows < 1 or flows & (flows - 1):
        raise MeasurementError(f"measure cost at {flows} flows: not a power of two", mend="1, 65_536 or 1_048_576")
    kind = _kind(program)
    raw = bytes(frame)
    raw += bytes(-len(raw) % 8)  # drivers restore whole words; the padding is behind the packet
    knobs = {**flow_knobs(raw, flows), "port_bits": port_bits}
    with ExitStack() as stack, journal():  # the lab's own program and network are no news
        path = instruments.path(f"drive_{kind.partition('_')[0]}")
        loaded = stack.enter_context(bpf.load(path, program=f"drive_{kind}", **knobs))
        if program.type == "xdp":
            network = stack.enter_context(Network(Topology.pair("left", "right")))
            stack.enter_context(loaded.attach(network.interface("left/eth0"), mode=Mode.NATIVE))
        yield Driver(loaded, raw, flows)


def load_instrument(stem: str, like: Program, **knobs: Any) -> Program:
    """The lab's own program of this stem that can sit in the same driver as `like`: "empty" or "burn"."""
    from lab import bpf

    kind = _kind(like)
    file = f"{stem}_{kind.partition('_')[0]}"
    with journal():
        return bpf.load(instruments.path(file), program=f"{stem}_{kind}", **knobs)


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
