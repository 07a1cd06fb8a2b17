"""iperf3 between two namespaces, as one typed result."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import FeatureMissing, TrafficError
from lab.wait import wait_until

if TYPE_CHECKING:
    from lab.net.namespace import Namespace
    from lab.net.network import Network

PORT = 5201
LISTEN = "0A"
"""TCP_LISTEN in /proc/<pid>/net/tcp."""
CONNECT_MS = 2000
GRACE_S = 5
"""For the set-up and the exchange of results, beside the seconds of the test itself."""
MOST_PARALLEL = 128
"""MAX_STREAMS of iperf3."""


@dataclass(frozen=True)
class Iperf3Result:
    """What a run of iperf3 measured; `raw` is its whole JSON."""

    protocol: str
    bits_per_second: float
    """Received, the sum of all parallel streams."""
    seconds: float
    retransmits: int
    """TCP only."""
    lost: int
    """UDP only, datagrams."""
    packets: int
    """UDP only, datagrams sent."""
    jitter_ms: float
    """UDP only."""
    local_cpu_percent: float
    remote_cpu_percent: float
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Iperf3Options:
    """What a run may say. Refused, when it is made: what iperf3 does not take, in whole seconds as it counts them."""

    protocol: str = "tcp"
    seconds: int = 1
    reverse: bool = False
    parallel: int = 1
    ip: int = 4
    bits_per_second: float | None = None
    """The limit of each stream; UDP has 1 Mbit/s when it is left out, as iperf3 has it."""
    omitted_seconds: int = 0
    """Before those that count: a slow start, a burst. iperf3 3.12 counts what UDP lost in them all the same."""
    port: int = PORT
    """Runs side by side need one each."""

    def __post_init__(self) -> None:
        if self.protocol not in ("tcp", "udp"):
            raise TrafficError(f"iperf3: protocol {self.protocol!r} is neither tcp nor udp")
        if not 1 <= self.parallel <= MOST_PARALLEL:
            raise TrafficError(f"iperf3: parallel={self.parallel!r} is not between 1 and {MOST_PARALLEL}")
        for name, least, most in (("seconds", 1, 120), ("omitted_seconds", 0, 60)):  # 0 seconds is for ever to it
            number = getattr(self, name)
            if int(number) != number or not least <= number <= most:
                raise TrafficError(f"iperf3: {name}={number!r} is not a whole number from {least} to {most}")

    def arguments(self, target: str) -> list[str]:
        """Of the client."""
        said = ["-J", "-c", target, "-p", str(self.port), "-t", str(int(self.seconds)), "-P", str(self.parallel)]
        said += ["--connect-timeout", str(CONNECT_MS)]
        said += ["-O", str(int(self.omitted_seconds))] * (self.omitted_seconds > 0)
        said += ["-u"] * (self.protocol == "udp") + ["-R"] * self.reverse
        return said + (["-b", f"{self.bits_per_second:.0f}"] if self.bits_per_second else [])


def run_iperf3(net: Network, client: str, server: str, **options: Any) -> Iperf3Result:
    """One run from `client` to `server`, or back, with `reverse`; the options are Iperf3Options.

    FeatureMissing without iperf3; TrafficError in iperf3's own words when it failed: its exit status is not trusted,
    3.12 exits 0 with -J.
    """
    wanted = Iperf3Options(**options)
    target = str(net.topology.address(server, wanted.ip))
    with ended() as started:
        started.append(serve(net[server.partition("/")[0]], wanted.port))
        started.append(call(net[client.partition("/")[0]], target, wanted))
        output = answer(started[-1], wanted)
    return result_of(wanted.protocol, output)


def serve(namespace: Namespace, port: int) -> subprocess.Popen[Any]:
    """A server for one run, that listens."""
    null = subprocess.DEVNULL
    listening = namespace.popen([_program(), "-s", "-1", "-p", str(port)], stdout=null, stderr=null)
    _await_listener(listening, port)
    return listening


def call(namespace: Namespace, target: str, wanted: Iperf3Options) -> subprocess.Popen[Any]:
    """A client under way."""
    pipe = subprocess.PIPE
    return namespace.popen([_program(), *wanted.arguments(target)], stdout=pipe, stderr=pipe)


@contextmanager
def ended() -> Iterator[list[subprocess.Popen[Any]]]:
    """What is put into the list ends with the block."""
    started: list[subprocess.Popen[Any]] = []
    try:
        yield started
    finally:
        for each in started:
            each.kill()  # all of them before any is waited for: one that is real-time may keep another from ending
        for each in started:
            with each:
                each.wait()


def answer(talking: subprocess.Popen[Any], wanted: Iperf3Options) -> Mapping[str, Any]:
    """The JSON of a client; TrafficError when it failed, or does not end in time."""
    return _output(talking, wanted.omitted_seconds + wanted.seconds + GRACE_S)


def _program() -> str:
    program = shutil.which("iperf3")
    if not program:
        raise FeatureMissing("run iperf3: it is not installed", mend="apt-get install iperf3")
    return program


def _await_listener(process: subprocess.Popen[Any], port: int) -> None:
    """A connection to try it would use up the one that -1 allows, so the kernel's list of sockets is read."""
    wanted = f":{port:04X} "

    def listens() -> bool:
        if process.poll() is not None:
            raise TrafficError(f"iperf3: the server ended at once, with status {process.returncode}")
        tables = (Path(f"/proc/{process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
        return any(wanted in line and line.split()[3] == LISTEN for table in tables for line in table.splitlines())

    wait_until(listens, within_s=5, what="iperf3 to listen")


def _output(process: subprocess.Popen[Any], timeout_s: float) -> Mapping[str, Any]:
    try:
        output, complaint = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TrafficError(f"iperf3: no result after {timeout_s:g} s", mend="does the path pass both ways?") from error
    try:
        raw: Mapping[str, Any] = json.loads(output)
    except ValueError as error:
        raise TrafficError("iperf3: it gave no JSON", kernel=(complaint or output).decode()[-500:].strip()) from error
    if raw.get("error"):
        raise TrafficError("iperf3 failed", kernel=str(raw["error"]), mend="is the server reachable from the client?")
    return raw


def result_of(protocol: str, raw: Mapping[str, Any]) -> Iperf3Result:
    """What a client's JSON says."""
    from iperf3 import TestResult

    parsed = TestResult(json.dumps(raw))
    end = raw["end"]
    received = end.get("sum_received") or end["sum"]
    udp = protocol == "udp"
    return Iperf3Result(
        protocol=protocol,
        bits_per_second=float(received["bits_per_second"]),
        seconds=float(received["seconds"]),
        retransmits=0 if udp else int(parsed.retransmits or 0),
        lost=int(parsed.lost_packets or 0) if udp else 0,
        packets=int(parsed.packets or 0) if udp else 0,
        jitter_ms=float(parsed.jitter_ms or 0.0) if udp else 0.0,
        local_cpu_percent=float(parsed.local_cpu_total),
        remote_cpu_percent=float(parsed.remote_cpu_total),
        raw=raw,
    )
