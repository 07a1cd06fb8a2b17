"""`python -m tests.chaos [COUNT]`: progress, what was left, and the counts as one line of JSON at the end."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from tests.chaos import misfortunes, room
from tests.chaos.rounds import Round, Told
from tests.chaos.victims import PROJECT

KINDS = ("scenarios", "benchmarks")
SLOW = ("bench_harness", "bench_topology")
"""Benchmarks of the harness itself: no program is in them."""


def main() -> int:
    """Exit status 1 when anything was left."""
    words = argparse.ArgumentParser(prog="chaos", description=__doc__)
    words.add_argument("count", type=int, nargs="?", default=500, help="rounds (500)")
    words.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="rounds at a time")
    words.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    words.add_argument("--within", type=float, default=900, help="seconds after which no new round begins (900)")
    asked = words.parse_args()
    print(f"chaos: {asked.count} rounds, {asked.workers} at a time, seed {asked.seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bpflab-chaos-", ignore_cleanup_errors=True) as folder:
        os.environ["CHAOS_CACHE"] = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        try:
            told = _told(asked, Path(folder), _collected(), started + asked.within)
        except KeyboardInterrupt:
            return 130
        finally:
            misfortunes.sweep(Path(folder))
    return _report(told, asked, time.monotonic() - started)


def _collected() -> dict[str, tuple[str, ...]]:
    """The node ids of all scenarios and benchmarks."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-lab-run", "-p", "no:cacheprovider", *KINDS],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    nodes = [line for line in done.stdout.splitlines() if "::" in line and not any(name in line for name in SLOW)]
    found = {kind: tuple(each for each in nodes if each.startswith(f"{kind}/")) for kind in KINDS}
    if not all(found.values()):
        raise SystemExit(f"chaos: there is nothing to run\n{done.stdout[-2000:]}")
    return found


def _told(asked: argparse.Namespace, folder: Path, tests: dict[str, tuple[str, ...]], deadline: float) -> list[Told]:
    """By workers that take round after round; each tells by a line of JSON in a pipe."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    workers = []
    for number in range(asked.workers):
        worker = os.fork()
        if not worker:
            os.close(reader)
            work = partial(_work, asked, folder, range(number, asked.count, asked.workers), tests, deadline, writer)
            os._exit(room.enter(work))
        workers.append(worker)
    os.close(writer)
    told = []
    with os.fdopen(reader) as lines:
        for line in lines:
            each = json.loads(line)
            told.append(Told(**{**each, "caught": Counter(each["caught"])}))
            _progress(told, asked.count)
    for worker in workers:
        if os.waitpid(worker, 0)[1]:
            told.append(Told("worker", "crash", 0, [f"worker {worker} of the chaos itself failed"]))
    return told


def _work(
    asked: argparse.Namespace,
    folder: Path,
    numbers: range,
    tests: dict[str, tuple[str, ...]],
    deadline: float,
    to: int,
    here: room.Room,
) -> int:
    """Everything that victims import is imported once, here: a victim is a fork."""
    import pytest  # noqa: F401

    import lab.bpf.attachment
    import lab.bpf.loader
    import lab.cli
    import lab.commands.attach
    import lab.commands.program
    import lab.traffic.network  # noqa: F401

    for number in numbers:
        if time.monotonic() > deadline:
            break
        told = Round(here, folder / str(number), random.Random(f"{asked.seed} {number}"), tests).run()
        told.left = [f"round {number}: {each}" for each in told.left]
        os.write(to, (json.dumps(vars(told)) + "\n").encode())
    return 0


def _progress(told: list[Told], count: int) -> None:
    for line in told[-1].left:
        print(f"LEFT  {told[-1].victim}, {told[-1].misfortune} after {told[-1].moment_s:.2f} s: {line}", flush=True)
    if len(told) % 25 == 0:
        print(f"chaos: {len(told)} of {count}", flush=True)


def _report(told: list[Told], asked: argparse.Namespace, seconds: float) -> int:
    caught = sum((each.caught for each in told), Counter())
    counts = {
        "tool": "chaos",
        "rounds": len(told),
        "of": asked.count,
        "seed": asked.seed,
        "misfortunes": Counter(each.misfortune for each in told),
        "victims": Counter(each.victim for each in told),
        "caught_alive": caught,
        "runs_read": sum(each.runs for each in told),
        "left": sum(len(each.left) for each in told),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(counts))
    return 1 if counts["left"] or not told else 0


if __name__ == "__main__":
    sys.exit(main())
