"""Network up, program attached, traffic, down, 10,000 times: nothing may grow. `python -m tests.soak`, `make soak`.

Four processes do it side by side, since most of a cycle waits for the kernel. Every 250 of their cycles descriptors,
threads, children and memory are looked at, when what the lab closes in the background is closed. What the first 250
leave is meant to stay: one-time things. What each step of a cycle takes is told at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lab import Mode, Stream, Topology
from lab.bpf import load
from lab.kernel import belongings, closing
from lab.traffic import frames
from lab.traffic.network import Network

T = TypeVar("T")
Kind = tuple[str, dict[str, Any]]
"""A program with a small map, and how it is attached."""

GROWTH_BYTES = 8 << 20
"""Of resident memory after the warm-up; allocators breathe by a few MiB."""
PAIR = Topology.pair("client", "server")
PROGRAMS = Path(__file__).resolve().parents[1] / "examples"
XDP: Kind = ("05_hash_map", {"mode": Mode.NATIVE})
TC: Kind = ("10_tc_ingress", {})
STEPS = ("up", "load", "attach", "send", "exchange", "detach", "down")


@dataclass
class Soak:
    """Cycles, the time of their steps, and what was seen at each look."""

    cycles: int = 0
    spent_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    looks: list[dict[str, int]] = field(default_factory=list)

    def cycle(self) -> None:
        """One network's life; every fourth with XDP, whose first and last attachment take the kernel 20 ms each."""
        stem, options = XDP if self.cycles % 4 == 0 else TC
        net = self._timed("up", Network(PAIR).up)
        try:
            with self._timed("load", lambda: load(PROGRAMS / f"{stem}.bpf.c")) as loaded:
                server = net.interface("server/eth0")
                attachment = self._timed("attach", lambda: loaded.attach(server, **options))
                try:
                    self._send(net)
                finally:
                    self._timed("detach", attachment.detach)
        finally:
            self._timed("down", net.close)
        self.cycles += 1

    def look(self) -> dict[str, int]:
        """What this process holds, with nothing under way."""
        wait(closing.pending(), 5)
        gc.collect()
        kinds = [each.kind for each in belongings.now()]
        counted = {name: kinds.count(kind) for name, kind in (("descriptors", "descriptor"), ("threads", "thread"))}
        seen = {**counted, "children": kinds.count("process"), "memory_bytes": belongings.memory_bytes()}
        self.looks.append(seen)
        return seen

    def grown(self) -> list[str]:
        """What is more at the last look than at the first."""
        if len(self.looks) < 2:
            return []
        first, last = self.looks[0], self.looks[-1]
        room = {"memory_bytes": GROWTH_BYTES}
        return [
            f"{name}: {first[name]} → {last[name]}" for name in first if last[name] > first[name] + room.get(name, 0)
        ]

    def _send(self, net: Network) -> None:
        stream = Stream.udp("client", "server", dst_port=9000, count=20)
        sent = self._timed("send", lambda: net.send(stream))
        if sent.received != 20:
            raise SystemExit(f"soak: cycle {self.cycles}: {sent.received} of 20 datagrams arrived")
        if self.cycles % 10 == 0:
            frame = bytes(frames.udp(net, "client", "server", dst_port=9000))
            got = self._timed("exchange", lambda: net.exchange(frame, at="client/eth0"))
            if not got["server/eth0"]:
                raise SystemExit(f"soak: cycle {self.cycles}: the frame did not arrive")

    def _timed(self, step: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.spent_s[step] += time.perf_counter() - start


def main() -> int:
    """Exit status 1 when something grew, or when there was not time for all cycles."""
    words = argparse.ArgumentParser(prog="soak", description=__doc__)
    words.add_argument("count", type=int, nargs="?", default=10_000, help="cycles (10,000)")
    words.add_argument("--workers", type=int, default=4, help="processes, which wait for the kernel together (4)")
    words.add_argument("--within", type=float, default=600, help="seconds at most (600)")
    words.add_argument("--look-every", type=int, default=250, help="cycles of a worker between two looks (250)")
    asked = words.parse_args()
    started = time.monotonic()
    with ProcessPoolExecutor(asked.workers, multiprocessing.get_context("fork")) as pool:
        shares = [len(range(number, asked.count, asked.workers)) for number in range(asked.workers)]
        jobs = [pool.submit(_work, share, asked.look_every, started + asked.within) for share in shares]
        soaks = [each.result() for each in jobs]
    return _report(soaks, asked.count, time.monotonic() - started)


def _work(count: int, look_every: int, deadline: float) -> Soak:
    """One worker's cycles; the first look is behind the warm-up."""
    soak = Soak()
    while soak.cycles < count and time.monotonic() < deadline:
        soak.cycle()
        if soak.cycles % look_every == 0:
            seen = soak.look()
            words = ", ".join(f"{value} {name}" for name, value in seen.items() if name != "memory_bytes")
            about = f"soak: worker {os.getpid()}: {soak.cycles} of {count}"
            print(f"{about}: {words}, {seen['memory_bytes'] >> 20} MiB", flush=True)
    return soak


def _report(soaks: list[Soak], count: int, seconds: float) -> int:
    grown = [words for soak in soaks for words in soak.grown()]
    for each in grown:
        print(f"GREW  {each}")
    cycles = sum(soak.cycles for soak in soaks)
    steps = {step: sum(soak.spent_s[step] for soak in soaks) * 1000 / max(1, cycles) for step in STEPS}
    counts = {
        "tool": "soak",
        "cycles": cycles,
        "of": count,
        "seconds": round(seconds, 1),
        "step_ms": {step: round(spent_ms, 2) for step, spent_ms in steps.items()},
        "looks": sum(len(soak.looks) for soak in soaks),
        "first": [soak.looks[0] for soak in soaks if soak.looks],
        "last": [soak.looks[-1] for soak in soaks if soak.looks],
        "grew": len(grown),
    }
    print(json.dumps(counts))
    return 1 if grown or cycles < count else 0


if __name__ == "__main__":
    sys.exit(main())
