"""Rates, losses and floods that are known, and what the instruments make of them: about a minute and a half."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from statistics import median
from typing import Any

from lab import instruments
from lab.bench.capacity import measure_capacity
from lab.bench.compare_rate import compare_rate
from lab.bench.decision import Rule
from lab.bench.isolation import isolated
from lab.bench.lane import Lane, generator_alone, with_program
from lab.bench.path import Path
from lab.bench.rate import measure_rate
from lab.bench.workload import Contender, Workload
from lab.bpf.loader import Loader
from lab.bpf.program import Program
from lab.model.action import Mode
from lab.model.calibration import Bar
from lab.model.comparison import Comparison
from lab.model.delivery import Delivery
from lab.model.journal import journal
from lab.model.measurement import Measurement
from lab.net.topology import Topology
from lab.traffic import frames

TOPOLOGY = Topology.pair("client", "server")
BACK = Path(TOPOLOGY, "client/eth0", at="server/eth0", sink="client/eth0", sink_without="server/eth0", mode=Mode.NATIVE)
ENDS = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FLOWS = 1024
ROUNDS = 100
"""Of the program that is searched and compared: some 100 ns."""
SEARCHES, SEARCH_S = 10, 3.0
NDR_WITHIN, PDR_WITHIN = 0.05, 0.03
SLOWDOWN, COMPARED, COMPARED_S = 0.015, 20, 10.0
TRUTH = Rule(resolution=1e-9, least=1e-9)
TRUTH_S = 3.0
LOST_FRAMES, LOST_PPS, LOST_ONE_IN = 1_000_000, 1_000_000, (100, 1000, 9973)
INTO_SINK_PPS, THROUGH_PPS = 6e6, 4e6
FLOOD_S, FLOODS, FLOODED = 0.1, 5, 8
"""Seconds of each, floods on a network, networks."""
LONG_S, LONG_PPS, LONG_LEAST_PPS = 10, 1_200_000, 1_000_000
DISTINCT, DISTINCT_S = 1_000_000, 0.5


def bars() -> Iterator[Bar]:
    """One after the other, as soon as each is known."""
    with journal():  # networks and attachments by the hundred are no news
        yield from _searches()
        yield _slowdown()
        yield _loss()
        yield _into_a_sink()
        yield _through_a_program()
        yield _long()
        yield _distinct()


def _searches() -> Iterator[Bar]:
    """On fresh networks each time. A ratio, as the machine itself has another speed from one second to the next."""
    start = time.monotonic()
    with Loader() as loader:
        program = loader.load(instruments.path("reflect"), rounds=ROUNDS)
        found = [measure_rate(program, BACK, _frame(), flows=FLOWS) for _ in range(SEARCHES)]
    duration_s = round((time.monotonic() - start) / 2, 1)
    seconds = [each.trials[0].facts["search_s"] for each in found]
    speeds = [each.summary["mrr_pps"] for each in found]
    for goal, within in (("ndr", NDR_WITHIN), ("pdr", PDR_WITHIN)):
        rates = [each.summary[f"{goal}_pps"] for each in found]
        shares = [rate / speed for rate, speed in zip(rates, speeds, strict=True)]
        yield Bar(
            what=f"{goal.upper()} of one program, {SEARCHES} searches",
            bar=f"within ±{within:.0%} of their median, beside the MRR of the same time; each {SEARCH_S:g} s or less",
            reached=f"±{_spread(shares):.1%}; up to {max(seconds):.1f} s. In packets/s ±{_spread(rates):.1%} around "
            f"{median(rates) / 1e6:.2f} M, as the machine's speed (MRR) went by ±{_spread(speeds):.1%}",
            held=_spread(shares) <= within and max(seconds) <= SEARCH_S,
            duration_s=duration_s,
            data=_of_searches(found, seconds),
        )


def _spread(figures: Sequence[float]) -> float:
    """The farthest from their median."""
    return max(abs(each / median(figures) - 1) for each in figures)


def _of_searches(found: Sequence[Measurement], seconds: Sequence[float]) -> dict[str, Any]:
    names = ("ndr_pps", "pdr_pps", "mrr_pps", "generator_pps")
    return {"search_s": list(seconds), **{name: [round(each.summary[name]) for each in found] for name in names}}


def _slowdown() -> Bar:
    """Equals are equal and what takes 1.5 % longer on the path is slower."""
    start = time.monotonic()
    slower, true = _slower_by(SLOWDOWN)
    equal = [_compared(ROUNDS) for _ in range(COMPARED)]
    found = [_compared(slower) for _ in range(COMPARED)]
    seen = sum(each.verdict == "slower" for each in found)
    wrong = sum(each.verdict in ("slower", "faster") for each in equal)
    seconds = [each.duration_s for each in found]
    return Bar(
        what=f"+{true:.2%} on the time of a packet on a path, and A against A",
        bar=f"{COMPARED} of {COMPARED} found within {COMPARED_S:g} s each, 0 of {COMPARED} equals declared different",
        reached=f"{seen} of {COMPARED}, all within {max(seconds):.1f} s, as "
        f"{median(each.ratio[0] for each in found) - 1:+.2%}; {wrong} of {COMPARED} equals",
        held=seen == COMPARED and not wrong and true <= 1.15 * SLOWDOWN,
        duration_s=round(time.monotonic() - start, 1),
        data={"true": true, "found": _of_comparisons(found), "equal": _of_comparisons(equal)},
    )


def _slower_by(share: float) -> tuple[int, float]:
    """Rounds that make a packet take about so much longer, and how much that is: measured, not counted."""
    more = 4
    for _ in range(6):
        added = _compared(ROUNDS + more, TRUTH, TRUTH_S).ratio[0] - 1
        if 0.9 * share <= added <= 1.1 * share:
            break
        guess = round(more * share / max(added, share / 5))
        more = max(1, guess if guess != more else more + (1 if added < share else -1))
    return ROUNDS + more, added


def _compared(rounds: int, rule: Rule | None = None, budget_s: float = COMPARED_S) -> Comparison:
    rule = rule or Rule(resolution=SLOWDOWN)
    return compare_rate(_reflecting(ROUNDS), _reflecting(rounds), BACK, flows=FLOWS, rule=rule, budget_s=budget_s)


def _reflecting(rounds: int) -> Contender:
    def make(loader: Loader) -> Workload:
        return Workload(loader.load(instruments.path("reflect"), rounds=rounds), _frame())

    return Contender(f"{rounds} rounds", make)


def _of_comparisons(found: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "ratio": [each.ratio[0] for each in found],
        "verdict": [each.verdict for each in found],
        "duration_s": [each.duration_s for each in found],
    }


def _loss() -> Bar:
    start = time.monotonic()
    told, exact, data = [], True, {}
    for every in LOST_ONE_IN:
        with Loader() as loader, isolated() as core:
            program = loader.load(instruments.path("reflect"), every=every)
            with with_program(program, BACK, _frame(), FLOWS, core) as lane:
                before = int(program.globals["lost"])
                trial = lane.offer(LOST_PPS, LOST_FRAMES / LOST_PPS)
                true = int(program.globals["lost"]) - before
        exact = exact and trial.lost == true and abs(true - LOST_FRAMES / every) <= 1
        told.append(f"{trial.lost:,} of {true:,}")
        data[str(every)] = {"offered": trial.offered, "received": trial.received, "dropped": true}
    return Bar(
        what=f"one frame in {', '.join(f'{every:,}' for every in LOST_ONE_IN)} of {LOST_FRAMES:,} dropped",
        bar="all counted as lost, and no other",
        reached=f"{'; '.join(told)} lost",
        held=exact,
        duration_s=round(time.monotonic() - start, 1),
        data=data,
    )


def _into_a_sink() -> Bar:
    start = time.monotonic()
    with isolated() as core:
        found = _flooded(lambda: generator_alone(ENDS, _frame(), FLOWS, core))
    return _fastest("a flood into a sink", INTO_SINK_PPS, found, start)


def _through_a_program() -> Bar:
    start = time.monotonic()
    with Loader() as loader, isolated() as core:
        program = loader.load(instruments.path("reflect"))
        found = _flooded(lambda: with_program(program, BACK, _frame(), FLOWS, core))
    return _fastest("a flood through a program and back", THROUGH_PPS, found, start)


def _flooded(make: Callable[[], AbstractContextManager[Lane]]) -> list[Delivery]:
    """On fresh networks: where the generator happens to lie in memory makes it up to 2 % faster or slower."""
    found = []
    for _ in range(FLOODED):
        with make() as lane:
            for _ in range(FLOODS):
                with lane.core.burst():
                    found.append(lane.flood.run(seconds=FLOOD_S, sink=lane.sink))
    return found


def _fastest(what: str, least_pps: float, found: Sequence[Delivery], start: float) -> Bar:
    """By the clock on the wall; the best, since whatever else runs on the machine only takes from it."""
    rates = [each.rate_pps for each in found]
    lost = sum(each.lost for each in found)
    return Bar(
        what=f"{what}, on one core",
        bar=f"{least_pps / 1e6:g} M packets/s, by the sink's counter",
        reached=f"{max(rates) / 1e6:.2f} M/s at best, {median(rates) / 1e6:.2f} in the median of {len(rates)} floods "
        f"of {FLOOD_S:g} s; {lost} lost",
        held=max(rates) >= least_pps and not lost,
        duration_s=round(time.monotonic() - start, 1),
        data={"received_pps": [round(rate) for rate in rates], "lost": lost},
    )


def _long() -> Bar:
    start = time.monotonic()
    with isolated() as core, generator_alone(ENDS, _frame(), FLOWS, core) as lane:
        came = lane.flood.run(seconds=LONG_S, rate_pps=LONG_PPS, sink=lane.sink)
    return Bar(
        what=f"{LONG_S} s of frames",
        bar=f"over {LONG_LEAST_PPS / 1e6:g} M packets/s, none lost, by the sink's counter",
        reached=f"{came.received:,} of {came.offered:,} frames, {came.rate_pps / 1e6:.2f} M/s",
        held=not came.lost and came.rate_pps > LONG_LEAST_PPS,
        duration_s=round(time.monotonic() - start, 1),
        data=came.as_dict(),
    )


def _distinct() -> Bar:
    start = time.monotonic()
    with ExitStack() as stack:
        program = stack.enter_context(Loader()).load(instruments.path("distinct"))
        found = measure_capacity(program, ENDS, _frame(), held=_counted(program), sessions=DISTINCT)
    seconds = sum(found.opened.trials[0].facts["cpu_s"])
    return Bar(
        what=f"{DISTINCT:,} distinct flows through a program",
        bar=f"in under {DISTINCT_S:g} s, counted by the program",
        reached=f"{found.held.entries:,.0f} flows in {seconds:.2f} s",
        held=found.held.entries == DISTINCT and seconds < DISTINCT_S,
        duration_s=round(time.monotonic() - start, 1),
        data={"cpu_s": list(found.opened.trials[0].facts["cpu_s"])},
    )


def _counted(program: Program) -> Any:
    return lambda: int(program.globals["flows"])


def _frame() -> bytes:
    return bytes(frames.udp(TOPOLOGY, "client", "server", dst_port=9, payload=bytes(18)))
