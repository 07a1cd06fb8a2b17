"""Measurements, comparisons and a calibration as the lab stores them: made up, with every part that the page reads."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from lab.bench import histogram
from lab.model import statistics
from lab.model.calibration import Bar, Calibration
from lab.model.comparison import Comparison
from lab.model.measurement import Limit, Measurement, Trial
from lab.model.run import Result, Run
from tests.unit import sample_run as sample

CORE = "CPU 1 of 2, real-time bursts, not isolated from interrupts"
NOISY = "too noisy: other threads had CPU 1 for 14% of the time"


def comparison(share: float = 0.031, verdict: str = "slower", *, half: float = 0.002, **changes: Any) -> Comparison:
    """B costs `share` more than A's 100 ns; both ends of the interval lie `half` away."""
    ends = (share, share - half, share + half)
    plain = Comparison(
        a="xdp_filter@main",
        b="xdp_filter",
        subject="IPv4, a miss, 1 flow",
        metric="cost",
        method="prog_run duet",
        unit="ns/packet",
        verdict=verdict,
        sentence=f"{verdict}, as made up",
        difference=(100 * ends[0], 100 * ends[1], 100 * ends[2]),
        ratio=(1 + ends[0], 1 + ends[1], 1 + ends[2]),
        base=100.0,
        confidence=0.9999,
        duration_s=0.31,
        to_be_sure_s=0.0,
        trials=(Trial("A", (100.0, 100.2)), Trial("B", (103.1, 103.2)), Trial("difference", (3.1, 3.0))),
        noise={"core": CORE, "sentence": ""},
        remarks=("2 repetitions, each with fresh loads", CORE),
        negligible=0.5,
    )
    return replace(plain, **changes)


def compared(*comparisons: Comparison, program: str = "xdp_filter", minutes: int = 1) -> Run:
    """The run that `lab compare` stores."""
    results = [
        Result(
            nodeid=f"compare {each.a} {each.b} {each.subject}",
            kind="benchmark",
            program=program,
            title=f"{each.b} against {each.a}: {each.subject}",
            outcome="passed",
            reason="",
            duration_s=each.duration_s,
            notes={"comparison": [each.as_dict()]},
        )
        for each in comparisons
    ]
    return sample.run_of(*results, minutes=minutes, command=("lab", "compare", "xdp_filter@main", "xdp_filter"))


def latency(count: int = 20_000, *, noise: str = "") -> Measurement:
    """Four arms, of which the run keeps every fourth sample and a histogram of all; the program adds 700 ns."""
    dice = random.Random(7)
    centres = {"with": 1600, "again": 900, "without": 900, "hook": 1500}
    trials = []
    for arm, centre in centres.items():
        samples = [round(dice.gauss(centre, 20) + (18_000 if dice.random() < 0.002 else 0)) for _ in range(count)]
        facts: dict[str, Any] = {"taken": count, "every": 4, "histogram": histogram.encode(samples)}
        if arm == "with":
            facts["intervals"] = {"p50": [690.0, 710.0], "p90": [680.0, 720.0], "p99": [650.0, 750.0]}
        trials.append(Trial(arm, tuple(samples[::4]), facts))
    return Measurement(
        metric="added_latency",
        method="kernel_stamp",
        unit="ns",
        program="xdp_filter",
        subject="server/eth0, native",
        headline="p50",
        summary={"p50": 700.0, "p90": 702.0, "p99": 705.0, "aa_p50": 0.4, "hook_p50": 600.0, "program_p50": 100.0},
        interval=(690.0, 710.0),
        trials=tuple(trials),
        limit=Limit("p99", 10_000.0),
        remarks=("p99.9 is mostly interrupts, in every arm, and is not subtracted",),
        noise={"core": CORE, "sentence": noise},
    )


def cost(*, flows: int = 1024, noise: str = "") -> Measurement:
    """118 ns over a floor of 60, on two loads of three turns; 95 of them are two lookups and the time."""
    facts = {"flows": flows, "loads": 2}
    bill = [{"what": "2 hash lookups", "ns": 80.0}, {"what": "1 ktime_get_ns", "ns": 15.0}]
    return Measurement(
        metric="cost",
        method="prog_run",
        unit="ns/packet",
        program="xdp_filter",
        subject=f"IPv4, {flows:,} flows",
        headline="mean",
        summary={"mean": 118.0, **statistics.percentiles([117.0, 119.0])},
        interval=(116.0, 120.0),
        trials=(
            Trial("with", (177.0, 176.9, 260.0, 179.0, 178.9, 179.1), {**facts, "bill": bill}),
            Trial("without", (60.0, 60.0, 60.0, 60.0, 60.0, 60.0), facts),
            Trial("reference", (240.0, 240.0, 240.0, 240.0, 240.0, 240.0), facts),
        ),
        remarks=("mean of 2 loads", "pays for 2 hash lookups, 1 ktime_get_ns = 95 of 118 ns"),
        noise={"core": CORE, "sentence": noise},
    )


def rate() -> Measurement:
    """An NDR of 2.4 M packets/s, of a path that takes 3.5 M and a generator that makes 12 M."""
    facts = {
        "intended_pps": [2.2e6, 2.4e6, 2.5e6],
        "intended_s": [0.01, 0.01, 0.01],
        "cpu_s": [0.009, 0.0099, 0.01],
        "offered": [22_000, 24_000, 25_000],
        "received": [22_000, 24_000, 24_500],
    }
    unpaced = {"mrr": 2.6e6, "path": 3.5e6, "generator": 12e6}
    return Measurement(
        metric="rate",
        method="live_frames",
        unit="packets/s",
        program="xdp_filter",
        subject="server/eth0, native, 1,024 flows",
        headline="ndr_pps",
        summary={"ndr_pps": 2.4e6, "pdr_pps": 2.45e6, **{f"{arm}_pps": value for arm, value in unpaced.items()}},
        interval=(2.4e6, 2.5e6),
        trials=(
            Trial("with", (2.2e6, 2.4e6, 2.45e6), facts),
            *(Trial(arm, (0.99 * value, value, 1.01 * value)) for arm, value in unpaced.items()),
        ),
        noise={"core": CORE, "sentence": ""},
    )


def overhead() -> Measurement:
    """What a tracer adds to a system call."""
    return Measurement(
        metric="overhead",
        method="clock",
        unit="ns/call",
        program="trace_syscall",
        subject="getppid",
        headline="mean",
        summary={"mean": 212.0},
        interval=(208.0, 216.0),
        trials=(Trial("with", (330.0, 332.0), {"calls": 4000}), Trial("without", (120.0, 119.0), {"calls": 4000})),
    )


def benchmark(*measurements: Measurement, minutes: int = 0) -> Run:
    """A run of one benchmark that measured these."""
    program = measurements[0].program
    result = sample.scenario(
        program,
        nodeid=f"benchmarks/bench_{program}.py::test_it",
        kind="benchmark",
        measurements=measurements,
        notes={"program": [{"name": program, "section": "xdp"}]},
    )
    return sample.run_of(result, minutes=minutes)


def calibration() -> Calibration:
    """A slowdown that was found, a delay that was recovered, and a bar that was missed."""
    slowdown = {
        "true_ns": 4.1,
        "difference_ns": [4.0, 4.1, 4.2],
        "base_ns": [400.0, 401.0, 402.0],
        "duration_s": [0.2, 0.25, 0.3],
        "verdict": ["slower", "slower", "slower"],
    }
    delay = {"true_ns": [1000.0, 1001.0], "p50_ns": [1003.0, 995.0], "p99_ns": [1010.0, 990.0], "alike_ns": [0.1, 0.2]}
    bars = (
        Bar("+1 % on a 400 ns program", "99 of 100 found", "3 of 3", True, 1.0, slowdown),
        Bar("an injected delay of 1 µs recovered, median", "within 30 ns", "1002 ns", True, 2.0, delay),
        Bar("10 s at over 1 M packets/s", "none lost", "3 lost", False, 10.0),
    )
    return Calibration("2026-11-21T05:00:00+00:00", 612.0, sample.ENVIRONMENT, bars)
