"""What the harness itself costs a scenario, by pytest-benchmark: a suite that runs on every save must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import Mode, Network, Stream, Topology
from lab.bpf import load
from lab.traffic import frames

PAIR = Topology.pair("client", "server")
SOURCES = Path(__file__).parents[1] / "tests" / "bpf"
ENTRIES = {number: number for number in range(100_000)}


def test_a_pair_up_and_down(benchmark: Any) -> None:
    """Two namespaces, a veth, addresses of both families, ready to carry frames, and gone."""

    def up_and_down() -> None:
        with Network(PAIR):
            pass

    benchmark(up_and_down)


def test_a_program_from_the_cache(benchmark: Any) -> None:
    """An unchanged source: found, checked, loaded through libbpf and verified, and closed."""
    benchmark(lambda: load(SOURCES / "drop.bpf.c").close())


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_attached_and_detached(benchmark: Any, mode: Mode) -> None:
    """XDP on a veth; the kernel waits for a grace period when a native one goes."""
    with Network(PAIR) as net, load(SOURCES / "drop.bpf.c", program="drop_xdp") as program:
        benchmark(lambda: program.attach(net.interface("server/eth0"), mode=mode).detach())


def test_a_frame_through_prog_run(benchmark: Any) -> None:
    """One BPF_PROG_RUN with its result."""
    frame = bytes(frames.udp(PAIR, "client", "server", dst_port=9))
    with load(SOURCES / "drop.bpf.c", program="drop_xdp") as program:
        benchmark(program.run, frame)


def test_100_000_entries_written_and_read(benchmark: Any) -> None:
    """A hash of integers, by batch, decoded: under a second is the promise."""
    with load(SOURCES / "entries.bpf.c") as program:
        entries = program.maps["entries"]

        def write_and_read() -> int:
            entries.update(ENTRIES)
            return len(dict(entries.items()))

        assert benchmark(write_and_read) == len(ENTRIES)


def test_a_hundred_datagrams(benchmark: Any) -> None:
    """Sockets of both ends opened, 100 datagrams sent, counted and closed."""
    with Network(PAIR) as net:
        stream = Stream.udp("client", "server", dst_port=9000, count=100)
        assert benchmark(net.send, stream).lost == 0


def test_an_exchange(benchmark: Any) -> None:
    """One frame out, and what arrived at every interface."""
    with Network(PAIR) as net:
        frame = bytes(frames.udp(net, "client", "server", dst_port=9))
        assert len(benchmark(net.exchange, frame, "client/eth0")["server/eth0"]) == 1
