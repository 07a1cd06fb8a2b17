"""Delays that were put in on purpose, and what the latency methods made of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from lab.bench.arms import AGAIN, WITH, WITHOUT, Arm, repetition
from lab.bench.delay import Delay, delayed
from lab.bench.inference import estimate
from lab.bench.isolation import isolated
from lab.bench.latency import METHODS, Report, probe_of
from lab.bench.path import Path
from lab.model.action import Mode
from lab.model.calibration import Bar
from lab.net.topology import Topology
from lab.traffic import frames

INJECTED_NS = (0, 100, 500, 1000, 5000, 10_000)
METHODS_AGREE_AT_NS = (500, 5000)
RUNS = 4
"""Of each delay, each with its own networks, and the worst of them counts."""
REPETITIONS = 8
FRAMES = 3000
"""In each arm of a repetition."""
P99_UP_TO_NS = 1500

TOPOLOGY = Topology.pair("client", "server")
PATH = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)


@dataclass(frozen=True)
class Recovered:
    """One run: what was injected, what a method found, and what it found between two arms that are alike; all in ns."""

    true: float
    p50: float
    p99: float
    alike: float

    @property
    def error(self) -> float:
        """Of the median."""
        return self.p50 - self.true


def bars() -> Iterator[Bar]:
    """Injected delays recovered, nothing found where nothing is, and three methods that agree; about a minute."""
    alike: list[float] = []
    for ns in INJECTED_NS:
        with delayed(ns) as delay:
            start = time.monotonic()
            runs = [recover(delay) for _ in range(RUNS)]
            duration_s = time.monotonic() - start
        alike += [run.alike for run in runs]
        if ns:
            yield _median_bar(ns, runs, duration_s)
            if ns <= P99_UP_TO_NS:
                yield _p99_bar(ns, runs)
        else:
            alike += [run.error for run in runs]
    yield _alike_bar(alike)
    for ns in METHODS_AGREE_AT_NS:
        with delayed(ns) as delay:
            start = time.monotonic()
            yield _agreement_bar(ns, _by_method(delay), time.monotonic() - start)


def recover(delay: Delay, method: str = "kernel_stamp", *, repetitions: int = REPETITIONS) -> Recovered:
    """One run of a method over the delay; its true length is measured before and after each fresh network."""
    frame = bytes(frames.udp(TOPOLOGY, "client", "server", dst_port=9, payload=bytes(18)))
    make = probe_of(method, frame)
    taken, true = [], []
    with isolated() as core:
        arms = [Arm(WITH, delay.program), Arm(WITHOUT, delay.base), Arm(AGAIN, delay.base)]
        for _ in range(repetitions):
            before = delay.measure().value
            taken.append(repetition(PATH, arms, make, FRAMES, core, silent=True))
            true.append((before + delay.measure().value) / 2)
    report = Report("added_latency", method, delay.program.name, PATH.how, taken)
    found = {name: report.difference(WITH, share).value for name, share in (("p50", 0.5), ("p99", 0.99))}
    return Recovered(estimate(true).value, found["p50"], found["p99"], report.alike().value)


def _by_method(delay: Delay) -> dict[str, list[Recovered]]:
    """A run of each method, and then once more, so that they see the same minute."""
    found: dict[str, list[Recovered]] = {method: [] for method in METHODS}
    for _ in range(3):
        for method, runs in found.items():
            runs.append(recover(delay, method, repetitions=3))
    return found


def _median_bar(ns: int, runs: list[Recovered], duration_s: float) -> Bar:
    allowed = max(15.0, 0.03 * ns)
    worst = max((run.error for run in runs), key=abs)
    return Bar(
        what=f"an injected delay of {_words(ns)} recovered, median",
        bar=f"within {allowed:.0f} ns",
        reached=f"{_middle(runs):.0f} ns; of {len(runs)} runs the worst was off by {worst:+.1f} ns",
        held=abs(worst) <= allowed,
        duration_s=duration_s,
        data=_data(runs),
    )


def _p99_bar(ns: int, runs: list[Recovered]) -> Bar:
    worst = max((run.p99 - run.true for run in runs), key=abs)
    return Bar(
        what=f"an injected delay of {_words(ns)} recovered, p99",
        bar="within 60 ns",
        reached=f"of {len(runs)} runs the worst was off by {worst:+.0f} ns",
        held=abs(worst) <= 60,
        data=_data(runs),
    )


def _alike_bar(differences: list[float]) -> Bar:
    worst = max(differences, key=abs)
    return Bar(
        what="two paths that are alike (A/A), difference of medians",
        bar="within 10 ns",
        reached=f"of {len(differences)} the largest was {worst:+.1f} ns",
        held=abs(worst) <= 10,
        data={"differences_ns": differences},
    )


def _agreement_bar(ns: int, found: dict[str, list[Recovered]], duration_s: float) -> Bar:
    """By the error of each method, since the machine's speed may shift between two runs."""
    allowed = max(30.0, 0.04 * ns)
    errors = {method: estimate([run.error for run in runs]).value for method, runs in found.items()}
    apart = max(errors.values()) - min(errors.values())
    return Bar(
        what=f"{', '.join(found)} agree on a delay of {_words(ns)}",
        bar=f"within {allowed:.0f} ns",
        reached=f"{apart:.1f} ns apart: " + ", ".join(f"{method} {error:+.1f}" for method, error in errors.items()),
        held=apart <= allowed,
        duration_s=duration_s,
        data={method: _data(runs) for method, runs in found.items()},
    )


def _data(runs: list[Recovered]) -> dict[str, list[float]]:
    return {f"{name}_ns": [round(getattr(run, name), 2) for run in runs] for name in ("true", "p50", "p99", "alike")}


def _middle(runs: list[Recovered]) -> float:
    return estimate([run.p50 for run in runs]).value


def _words(ns: float) -> str:
    return f"{ns / 1000:g} µs" if ns >= 1000 else f"{ns:g} ns"
