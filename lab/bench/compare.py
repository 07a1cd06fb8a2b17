"""Two programs against each other in one run: a duet (Bulej et al., 2020), repeated until the answer is sure.

A repetition loads both afresh, puts them into slots of one driver with an empty program, and lets them take turns
(A B B A ...) in batches of 0.05 ms. The median of the differences of neighbours is one sample. Most of what differs
between two samples is where the code happens to lie in memory, so many short repetitions tell more than a few long
ones: 100 a second. Looks come at 8, 12, 18, ... repetitions; the rule is in `lab.bench.decision`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

from lab.bench.decision import Decision, Rule, decide
from lab.bench.duet import Sample, repetitions
from lab.bench.inference import estimate
from lab.bench.isolation import isolated
from lab.bench.noise import watched
from lab.bench.path import counted
from lab.bench.workload import Contender
from lab.model.comparison import Comparison
from lab.model.journal import journal
from lab.model.measurement import Trial

METHOD = "prog_run duet"
FIRST_LOOK = 8
LATER_LOOKS = 1.5
MOST_SLOW = 0.1
MOST_STOLEN = 0.02

Progress = Callable[[Decision, float, float], object]
"""Called after each look with the decision so far, its base in ns, and the seconds that have passed."""


def compare_cost(
    a: Contender,
    b: Contender,
    *,
    flows: int = 1,
    rule: Rule | None = None,
    budget_s: float = 10.0,
    title: str = "",
    progress: Progress = lambda *_: None,
) -> Comparison:
    """The verdict on what B costs against A, in ns a packet by BPF_PROG_RUN, both on the frame of A.

    `title` says which case it is. It ends as soon as the rule is satisfied, or when the budget is spent; what was too
    noisy is "inconclusive". MeasurementError when a contender cannot be driven, and when they are programs of different
    hooks.
    """
    rule = rule or Rule()
    samples: list[Sample] = []
    start = time.monotonic()
    with journal(), isolated() as core, watched(core) as watch:  # what is loaded again and again is no news
        for decision in looks(repetitions(a, b, flows, core), samples, rule, budget_s):
            progress(decision, base_of(samples), time.monotonic() - start)
    subject = ", ".join(filter(None, (title, counted(flows))))
    noise = unshared_noise(watch.noise(), samples)
    return comparison((a.name, b.name, subject), samples, decision, rule, time.monotonic() - start, noise)


def looks(taken: Iterator[Sample], samples: list[Sample], rule: Rule, budget_s: float) -> Iterator[Decision]:
    """The decision at 8, 12, 18, ... repetitions, the last one where it is sure or the time is over."""
    look, start = FIRST_LOOK, time.monotonic()
    for each in taken:
        samples.append(each)
        spent = time.monotonic() - start > budget_s and len(samples) >= FIRST_LOOK
        if len(samples) < look and not spent:
            continue
        look = int(look * LATER_LOOKS)
        decision = decide([sample.difference for sample in samples], base_of(samples), rule)
        yield decision
        if spent or not decision.is_open:
            return


def base_of(samples: list[Sample]) -> float:
    """What A costs, in ns a packet."""
    return estimate([sample.a for sample in samples]).value


def unshared_noise(found: dict[str, Any], samples: list[Sample]) -> dict[str, Any]:
    """What A and B did not share: between two turns the clock of the CPU may change, and both bear it."""
    slow = fmean(sample.slow for sample in samples)
    reasons = []
    if slow > MOST_SLOW:
        reasons.append(f"{slow:.0%} of the batches took half as long again")
    if found["stolen_share"] > MOST_STOLEN:
        reasons.append(f"the hypervisor took {found['stolen_share']:.0%} of the time")
    return {**found, "slow_share": round(slow, 4), "sentence": f"too noisy: {', '.join(reasons)}" if reasons else ""}


def comparison(
    names: tuple[str, str, str],
    samples: list[Sample],
    decision: Decision,
    rule: Rule,
    duration_s: float,
    noise: dict[str, Any],
) -> Comparison:
    """From samples to the verdict; `names` are A's, B's and the subject's."""
    if noise["sentence"]:
        decision = replace(decision, verdict="inconclusive")
    difference, base = decision.difference, base_of(samples)
    ratio = difference.times(1 / base) if base > 0 else difference.times(0)
    missing = decision.repetitions - difference.repetitions
    return Comparison(
        **dict(zip(("a", "b", "subject"), names, strict=True)),
        metric="cost",
        method=METHOD,
        unit="ns/packet",
        verdict=decision.verdict,
        sentence=sentence(decision, base, rule),
        difference=(difference.value, difference.low, difference.high),
        ratio=(1 + ratio.value, 1 + ratio.low, 1 + ratio.high),
        base=base,
        confidence=rule.confidence,
        duration_s=round(duration_s, 3),
        to_be_sure_s=round(duration_s * missing / difference.repetitions, 1),
        trials=tuple(
            Trial(arm, tuple(round(getattr(each, name), 4) for each in samples))
            for arm, name in (("A", "a"), ("B", "b"), ("difference", "difference"))
        ),
        noise=noise,
        remarks=(f"{difference.repetitions} repetitions, each with fresh loads", str(noise["core"])),
        negligible=round(rule.negligible(base), 4),
    )


def sentence(decision: Decision, base: float, rule: Rule) -> str:
    """ "3.1 % slower (+2.9 % to +3.3 %; +3.10 ns on 100.0)"."""
    found = decision.difference
    percent = found.times(100 / base) if base > 0 else found.times(0)
    interval = f"{_short(percent.low):+} % to {_short(percent.high):+} %"
    if decision.verdict in ("slower", "faster"):
        return f"{abs(_short(percent.value))} % {decision.verdict} ({interval}; {found.value:+.2f} ns on {base:.1f})"
    if decision.verdict == "no difference":
        least = 2 * rule.negligible(base)
        return f"no difference of {_short(100 * least / base)} % or more ({interval}; A costs {base:.1f} ns)"
    return f"inconclusive: {interval} ({found.value:+.2f} ns on {base:.1f})"


def _short(percent: float) -> float:
    """Two significant digits, or whole percents.

    >>> _short(3.14159), _short(177.4)
    (3.1, 177)
    """
    return float(f"{percent:.2g}") if abs(percent) < 10 else round(percent)
