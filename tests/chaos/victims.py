"""What is killed: things that people do with the lab, each in a process of its own."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Surroundings:
    """Where a round happens."""

    folder: Path
    """tmp/ (TMPDIR), cache/ (XDG_CACHE_HOME), runs/ and pytest/ in it."""
    dice: random.Random
    tests: tuple[str, ...]
    benchmarks: tuple[str, ...]


def scenarios(where: Surroundings) -> int:
    """A few scenarios; the run is stored."""
    return _pytest(where, where.dice.sample(where.tests, 4))


def benchmark(where: Surroundings) -> int:
    """One benchmark; the run is stored."""
    return _pytest(where, where.dice.sample(where.benchmarks, 1))


def attach(where: Surroundings) -> int:
    """A program on interfaces that stay when the lab dies."""
    stem = where.dice.choice(("xdp_count_packet", "tc_inspect_header", "xdp_track_flow"))
    return _lab("attach", stem, "--interface", "eth0", "--interface", "eth1")


def show(where: Surroundings) -> int:
    """The same, with a table that is drawn anew."""
    stem = where.dice.choice(("xdp_count_packet", "tc_inspect_header", "xdp_track_flow"))
    return _lab(stem, "--interface", "eth0", "--every", "100ms")


def compile_anew(where: Surroundings) -> int:
    """clang, with an empty cache; four sources, so that there is time to die."""
    from lab.bpf.build import build

    os.environ["XDG_CACHE_HOME"] = str(where.folder / "tmp" / "cache")
    for source in where.dice.sample(sorted((PROJECT / "bpf").glob("*.bpf.c")), 4):
        build(source)
    return 0


def networks(where: Surroundings) -> int:
    """Networks, programs, cgroups, processes and traffic, without end."""
    from lab import Mode, Stream, Topology
    from lab.bpf import load
    from lab.kernel.cgroup import Cgroup
    from lab.traffic.network import Network

    topologies = [Topology.pair("client", "server"), Topology.chain("client", "dut", "server")]
    while True:
        with Network(where.dice.choice(topologies)) as net, load("xdp_count_packet") as program, Cgroup() as group:
            net["client"].popen(["sleep", "1000"])
            sleeper = net["server"].popen(["sleep", "1000"])
            group.add(sleeper.pid)
            with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE), net.capture("client/eth0"):
                net.send(Stream.udp("client", "server", dst_port=9000, count=50))
                net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM).close()
            sleeper.kill()
            sleeper.wait()


def store(where: Surroundings) -> int:
    """Runs, one after the other."""
    from datetime import UTC, datetime

    from lab.bench.environment import read_environment
    from lab.bench.store import new_id, write_run
    from lab.model.run import Result, Run

    environment = read_environment(PROJECT)
    results = tuple(
        Result(f"scenarios/test_x.py::test_{n}", "x", "scenario", "passed", "x" * 400, "", 0.1) for n in range(300)
    )
    while True:
        now = datetime.now(UTC)
        write_run(Run(new_id(now), now.isoformat(), 1.0, ("chaos",), environment, results), where.folder / "runs")


VICTIMS: tuple[Callable[[Surroundings], int], ...] = (scenarios, benchmark, attach, show, compile_anew, networks, store)


def _pytest(where: Surroundings, nodes: list[str]) -> int:
    import pytest

    options = [
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        f"--rootdir={PROJECT}",
        "-c",
        str(PROJECT / "pyproject.toml"),
    ]
    places = [f"--lab-runs={where.folder / 'runs'}", f"--basetemp={where.folder / 'pytest'}"]
    sys.argv = ["pytest", *nodes]
    return int(pytest.main([*options, *places, *nodes]))


def _lab(*words: str) -> int:
    from lab.cli import run

    sys.argv = ["lab", *words]
    return run(list(words))
