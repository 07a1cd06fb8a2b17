"""A contest: two contenders on every workload that they share, at every number of flows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.bench.compare import compare_cost
from lab.bench.compare_rate import compare_rate
from lab.bench.decision import Decision, Rule
from lab.bench.environment import read_environment
from lab.bench.store import new_id, write_run
from lab.contest.named import Named
from lab.contest.paths import one_veth, path_of
from lab.contest.workloads import Make, contender, plain, workloads
from lab.errors import LabError
from lab.model.comparison import Comparison
from lab.model.run import Result, Run

Told = Callable[[str, Decision, float, float], object]
"""After each look: which round it is, the decision so far, its base in ns, and the seconds that have passed."""

METRICS: dict[str, Callable[..., Comparison]] = {"cost": compare_cost, "rate": compare_rate}
"""What is compared: the program by itself, under BPF_PROG_RUN, or a path with it, by live frames."""


@dataclass(frozen=True)
class Round:
    """One workload at one number of flows."""

    title: str
    flows: int
    a: Make
    b: Make


@dataclass(frozen=True)
class Wanted:
    """How a contest is held: by which metric (a key of METRICS) and rule, on how many flows, for how long, and on which
    workload (None: each).
    """

    flows: tuple[int, ...]
    rule: Rule
    budget_s: float
    workload: str | None = None
    program: str | None = None
    frame: bytes | None = None
    metric: str = "cost"


def rounds(a: Named, b: Named, wanted: Wanted) -> list[Round]:
    """The workloads that both have; where one has none, or a frame was given, the programs as they are on one frame."""
    shared = _shared(a, b, wanted) if wanted.frame is None else {}
    if not shared:
        from lab.contest.frames import frame_named

        frame = wanted.frame or frame_named("udp4")
        shared = {"as loaded": (plain(a, frame, wanted.program), plain(b, frame, wanted.program))}
    return [Round(title, flows, *makes) for title, makes in shared.items() for flows in wanted.flows]


def _shared(a: Named, b: Named, wanted: Wanted) -> dict[str, tuple[Make, Make]]:
    ours, theirs = workloads(a), workloads(b)
    both = {title: (make, theirs[title]) for title, make in ours.items() if title in theirs}
    if wanted.workload is None:
        return both
    found = {title: makes for title, makes in both.items() if wanted.workload.lower() in title.lower()}
    if not found:
        there = "; ".join(both) or "none"
        raise LabError(
            f"compare {a.text} with {b.text}: no workload says {wanted.workload!r}", mend=f"there are: {there}"
        )
    return found


def hold(a: Named, b: Named, wanted: Wanted, told: Told = lambda *_: None) -> Iterator[Comparison]:
    """One comparison a round, as soon as it is sure or its budget is spent."""
    for each in rounds(a, b, wanted):
        yield METRICS[wanted.metric](
            contender(a, each.a),
            contender(b, each.b),
            **_where(a, each, wanted),
            flows=each.flows,
            rule=wanted.rule,
            budget_s=wanted.budget_s,
            title=each.title,
            progress=lambda decision, base, passed, title=each.title: told(title, decision, base, passed),
        )


def _where(a: Named, each: Round, wanted: Wanted) -> dict[str, Any]:
    """Of a rate, the path: that of the benchmark, but for a frame that was given, which knows not its addresses."""
    if wanted.metric == "cost":
        return {}
    return {"path": (path_of(a) if wanted.frame is None else None) or one_veth(each.a)}


def store(found: Sequence[tuple[str, Comparison]], words: tuple[str, str], project: Path, started: float) -> Path:
    """Puts what was found of each stem among the stored runs, with the machine that found it and A and B as typed."""
    now = datetime.now(UTC)
    results = tuple(
        Result(
            nodeid=f"compare {each.a} {each.b} {each.subject}",
            kind="benchmark",
            program=stem,
            title=f"{each.b} against {each.a}: {each.subject}",
            outcome="passed",
            reason="",
            duration_s=each.duration_s,
            notes={"comparison": [each.as_dict()]},
        )
        for stem, each in found
    )
    run = Run(
        id=new_id(now),
        started=now.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - started, 3),
        command=("lab", "compare", *words),
        environment=read_environment(project),
        results=results,
    )
    return write_run(run, project / "reports" / "runs")
