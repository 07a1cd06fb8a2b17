"""A program that feeds other programs under BPF_PROG_RUN, and times how long a round takes.

The driver (lab/instruments/drive_*.bpf.c) gives each round the frame of another flow and tail-calls the program in one
of its slots. All programs that are compared sit in slots of one driver: what it costs is the same for each of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from lab import instruments
from lab.errors import MeasurementError, NotComparable
from lab.kernel.bpf import prog_test_run
from lab.model.action import Mode
from lab.model.journal import journal
from lab.traffic.flow_fields import PORT_BITS, flow_knobs

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.bpf.program import Program

SLOTS = 512
"""SLOTS of lab/instruments/drive_*.bpf.c."""
WARM_UP_ROUNDS = 2000
SETTLING_ROUNDS = 50
MOST_TO_REST = 100_000
TC_KINDS = {0: "tc", 46: "tc_ingress", 47: "tc_egress"}
"""By expected attach type: none, BPF_TCX_INGRESS, BPF_TCX_EGRESS."""


class Driver:
    """A loaded driver and the programs in its slots."""

    def __init__(self, program: Program, attachment: Attachment | None, frame: bytes, flows: int) -> None:
        self._program = program
        self._fd = program.fd
        self._attachment = attachment
        self._frame = frame
        self._free = random.sample(range(SLOTS), SLOTS)
        self._stack = ExitStack()
        self.flows = flows

    def renew(self) -> None:
        """Loads the driver once more, 2 ms (XDP: 12): its own place in memory shifts what it drives by half a ns."""
        fresh = self._stack.enter_context(self._program.again())
        if self._attachment:
            self._attachment.update(fresh)
        self._fd = fresh.fd

    def close(self) -> None:
        """Closes what `renew` loaded."""
        self._stack.close()

    def place(self, program: Program) -> int:
        """The slot that the program sits in from now on; MeasurementError when there are too many."""
        if not self._free:
            raise MeasurementError(f"time {program.name}: all {SLOTS} slots of the driver are taken")
        slot = self._free.pop(0)  # at random: neighbouring slots, taken in order, made one of two equals 0.8 ns slower
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
        prog_test_run(self._fd, self._frame, repeat=rounds)
        return time.perf_counter_ns() - start

    def meet_every_flow(self, slot: int) -> None:
        """Shows the program each flow once, so that it knows them all; in another order than they come in later.

        A table that is filled in the order in which it will be read lies in memory as if it had been made for that.
        """
        stride, self._program.globals["stride"] = self._program.globals["stride"], 1
        self.run(slot, max(self.flows, WARM_UP_ROUNDS))
        self._program.globals["stride"] = stride

    def come_to_rest(self, slots: Sequence[int]) -> int:
        """Lets each run on every flow, or on 100,000, as they will be timed; gives how many rounds that were.

        The caches then hold what they hold in the long run, and not what was touched last.
        """
        rounds = min(self.flows, MOST_TO_REST)
        for slot in slots if self.flows > 1 else ():
            self.run(slot, rounds)
        return rounds

    def rounds_within(self, slots: Sequence[int], batch_ns: float) -> int:
        """How many rounds of the slowest of these take about so long, at least 100."""
        slowest = max(self.run(slot, WARM_UP_ROUNDS) for slot in slots) / WARM_UP_ROUNDS
        return max(100, int(batch_ns / slowest))

    def take_turns(self, arms: Mapping[str, int], rounds: int, turns: int) -> dict[str, list[float]]:
        """ns a round of each arm's slot, once a turn, in an order that favours none.

        What runs first after another program is slower, and who follows itself is faster. So the orders go round
        (A B C, B C A, C A B) and then backwards, each arm follows each other one as often, the first is drawn by lot,
        and some rounds go before the clock starts.
        """
        samples: dict[str, list[float]] = {arm: [] for arm in arms}
        names = random.sample(list(arms), len(arms))
        for turn in range(turns):
            first = turn % len(names)
            order = names[first:] + names[:first]
            for arm in reversed(order) if turn // len(names) % 2 else order:
                self.run(arms[arm], SETTLING_ROUNDS)
                samples[arm].append(self.run(arms[arm], rounds) / rounds)
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
        attachment = None
        if program.type == "xdp":
            network = stack.enter_context(Network(Topology.pair("left", "right")))
            attachment = stack.enter_context(loaded.attach(network.interface("left/eth0"), mode=Mode.NATIVE))
        yield stack.enter_context(closing(Driver(loaded, attachment, raw, flows)))


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
    raise NotComparable(
        f"measure the cost of {program.name}: there is no driver for section {program.section}",
        mend="bench.cost measures XDP and tc programs",
    )
