"""Goodput: bits a second that iperf3 carries through a program over TCP or UDP, and the CPU time that this takes.

One network stays up, and three things take turns at the program's place (A B C C B A ...): the program, an empty one of
its kind, nothing. A hook by itself can cost more than any program: native XDP turns off the peer's TSO, and TCP falls
to a quarter. CPU use is what iperf3 says of its two processes: system time that softirqs took from them is in it, that
of ksoftirqd is not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any

from lab.bench.driver import load_instrument
from lab.bench.path import Path
from lab.model import statistics
from lab.model.journal import journal
from lab.model.measurement import Limit, Measurement, Trial

if TYPE_CHECKING:
    from lab.bpf.program import Program
    from lab.traffic.iperf3 import Iperf3Result
    from lab.traffic.network import Network

METHOD = "iperf3"
WITH, HOOK, WITHOUT = "with", "hook", "without"
TURNS = 6
"""The fewest of which a median has an interval of 95 %."""
UNLIMITED_BPS = 1e12
"""UDP as fast as it goes; what does not arrive is no goodput."""

Results = Mapping[str, Sequence["Iperf3Result"]]


def measure_goodput(
    program: Program,
    path: Path,
    *,
    protocol: str = "tcp",
    ip: int = 4,
    seconds: int = 1,
    turns: int = TURNS,
    above_bps: float | None = None,
    subject: str = "",
) -> Measurement:
    """Bits of payload a second from the namespace of `path.source` to that of `path.sink`, as they were received.

    `turns` of whole `seconds` for each of the three. `above_bps` is the author's promise. TrafficError when the program
    lets no connection of iperf3 (its port is 5201) through.
    """
    from lab.traffic.network import Network

    results: dict[str, list[Iperf3Result]] = {WITH: [], HOOK: [], WITHOUT: []}
    offered = UNLIMITED_BPS if protocol == "udp" else None
    with ExitStack() as stack:
        programs = {WITH: program, HOOK: stack.enter_context(load_instrument("empty", program)), WITHOUT: None}
        network = stack.enter_context(Network(path.topology))
        if path.prepare:
            path.prepare(network)
        settings: list[str] = []
        for arm in _in_turn(turns):
            with _attached(programs[arm], path, network), journal():
                settings = path.settings(network) if arm == WITH else settings
                ends = path.source, path.sink
                run = network.iperf3(*ends, protocol=protocol, ip=ip, seconds=seconds, bits_per_second=offered)
                results[arm].append(run)
    subject = subject or f"{path.how}, {protocol.upper()} over IPv{ip}"
    return _measurement(program.name, subject, results, settings, above_bps)


def _in_turn(turns: int) -> list[str]:
    """A B C C B A ...: what drifts favours none."""
    forth = [WITH, HOOK, WITHOUT]
    return [arm for turn in range(turns) for arm in (forth[::-1] if turn % 2 else forth)]


def _attached(program: Program | None, path: Path, network: Network) -> Any:
    return path.attach(program, network) if program else nullcontext()


def _measurement(
    program: str, subject: str, results: Results, settings: Sequence[str], above_bps: float | None
) -> Measurement:
    rates = {arm: [each.bits_per_second for each in made] for arm, made in results.items()}
    cpu = {arm: median(map(_cpu_percent, made)) for arm, made in results.items()}
    summary = {
        "p50": median(rates[WITH]),
        **{f"{arm}_bps": median(rates[arm]) for arm in (HOOK, WITHOUT)},
        **{f"cpu_percent_{arm}": used for arm, used in cpu.items()},
    }
    return Measurement(
        metric="goodput",
        method=METHOD,
        unit="bit/s",
        program=program,
        subject=subject,
        headline="p50",
        summary=summary,
        interval=statistics.median_interval(rates[WITH]),
        trials=tuple(_trial(arm, made) for arm, made in results.items()),
        limit=Limit("p50", above_bps, below=False) if above_bps is not None else None,
        remarks=(_sentence(rates, cpu), f"each of {len(rates[WITH])} runs in turn with the others"),
        noise={"path": list(settings), "core": f"iperf3 where the kernel puts it, on {os.cpu_count()} CPUs"},
    )


def _sentence(rates: Mapping[str, Sequence[float]], cpu: Mapping[str, float]) -> str:
    """ "4.51 Gbit/s at 187 % of a CPU with the program, 4.62 at 186 % with an empty one, 18.90 at 190 % without"."""
    words = {WITH: "with the program", HOOK: "with an empty one in its place", WITHOUT: "without"}
    told = (f"{median(rates[arm]) / 1e9:,.2f} Gbit/s at {cpu[arm]:.0f} % of a CPU {words[arm]}" for arm in words)
    return ", ".join(told)


def _cpu_percent(result: Iperf3Result) -> float:
    """Of both processes; 100 is one CPU."""
    return result.local_cpu_percent + result.remote_cpu_percent


def _trial(arm: str, made: Sequence[Iperf3Result]) -> Trial:
    facts: dict[str, Any] = {
        name: [getattr(each, name) for each in made]
        for name in ("seconds", "retransmits", "lost", "packets", "local_cpu_percent", "remote_cpu_percent")
    }
    return Trial(arm, tuple(each.bits_per_second for each in made), facts)
