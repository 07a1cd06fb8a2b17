"""What the lab leaves running, attached, raised or set when it measures nothing: it must be nothing at all.

A process of the lab that has attached XDP keeps one program of two instructions, on a loopback of its own that no frame
comes to, until it ends (`lab.bpf.attach.receivers`). So the first measurement here is not looked at, every later one
must leave what was there before it, and what a process held must be gone with the process.
"""

from __future__ import annotations

import gc
import json
import os
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as File

from lab import instruments
from lab.bench.path import Path
from lab.errors import MeasurementError, WaitTimeout
from lab.kernel.bpf import bpf
from lab.kernel.process import dying_with_the_lab
from lab.model.action import Mode
from lab.model.calibration import Bar
from lab.model.journal import journal
from lab.net.topology import Topology
from lab.traffic import frames
from lab.wait import wait_until

TOPOLOGY = Topology.pair("client", "server")
PATH = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
SYSCTLS = ("net/core", "net/ipv4", "kernel")
VOLATILE = {"kernel/ns_last_pid"}
"""It counts by itself."""
HOLDERS = ("anon_inode:bpf", "anon_inode:btf", "anon_inode:[perf_event]", "net:[", "/sys/devices/system/cpu")
"""What a descriptor of ours may hold: programs, maps, links, bpf_stats; events; namespaces; the lease of a CPU."""
COMMANDS = {"prog": 13, "map": 14, "link": 30}
"""BPF_*_GET_FD_BY_ID, by the name in fdinfo."""
SETTLED_S = 5.0
"""Namespaces and attachments are closed by other threads, within some tens of ms."""


@dataclass(frozen=True)
class Held:
    """What this process holds of the kernel, how its thread is scheduled, and every sysctl of the machine."""

    descriptors: Mapping[str, int]
    scheduling: tuple[int, int, tuple[int, ...]]
    collecting: bool
    sysctls: Mapping[str, str]

    def beyond(self, before: Held) -> list[str]:
        """What is held now and was not before, or is another now; empty when nothing is."""
        more = Counter(self.descriptors) - Counter(before.descriptors)
        found = [f"{number} {name}" for name, number in sorted(more.items())]
        found += ["scheduling"] * (self.scheduling != before.scheduling)
        found += ["the garbage collector"] * (self.collecting != before.collecting)
        return found + [name for name, value in self.sysctls.items() if before.sysctls.get(name) != value]


def bars() -> Iterator[Bar]:
    """After each kind of measurement, and after the end of a process that measured; some twenty seconds."""
    with journal():
        _cost()
        for name, measure in kinds().items():
            yield _bar(f"after a measurement of {name}", measure)
        yield _bar("after the end of a process that measured", _process)


def _bar(when: str, measure: Callable[[], list[str] | None]) -> Bar:
    """What `measure` gives is left over, too."""
    start, before = time.monotonic(), held()
    found = measure()
    left = left_over(before) + (found or [])
    return Bar(
        what=f"the instrument's own overhead {when}",
        bar="none: no program, map, link, counter, namespace, sysctl, policy or affinity of ours",
        reached=", ".join(left) or "none",
        held=not left,
        duration_s=round(time.monotonic() - start, 2),
        data={"held_before": before.descriptors, "left": left},
    )


def left_over(before: Held) -> list[str]:
    """What is still held when all that ends by itself has ended."""
    with suppress(WaitTimeout):
        wait_until(lambda: not held().beyond(before), within_s=SETTLED_S, what="the measurement's ends")
    return held().beyond(before)


def kinds() -> dict[str, Callable[[], None]]:
    """One short measurement of each kind."""
    return {
        "cost": _cost,
        "a comparison": _comparison,
        "added latency": _latency,
        "a round trip": _round_trip,
        "a rate": _rate,
    }


def held() -> Held:
    """As things are now."""
    return Held(
        descriptors=_descriptors(),
        scheduling=(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, (*sorted(os.sched_getaffinity(0)),)),
        collecting=gc.isenabled(),
        sysctls=_sysctls(),
    )


def _descriptors() -> dict[str, int]:
    found: Counter[str] = Counter()
    for entry in File("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of this folder is gone again
            target = str(entry.readlink())
            found.update(holder for holder in HOLDERS if target.startswith(holder))
    return dict(found)


def _sysctls() -> dict[str, str]:
    """Of the namespace that this thread is in, and of the kernel: a file that cannot be read says nothing."""
    found = {}
    for folder in SYSCTLS:
        for file in File("/proc/sys", folder).iterdir():
            name = f"{folder}/{file.name}"
            if file.is_file() and name not in VOLATILE:
                with suppress(OSError):
                    found[name] = file.read_text(errors="replace").strip()
    return found


def hold() -> None:
    """For a process of its own: measures, prints what it holds as JSON, and ends when its input does."""
    with journal():
        _cost()
    print(json.dumps(_ids()), flush=True)
    sys.stdin.read()


def _process() -> list[str]:
    """What is left of the BPF objects that a process held at its end. MeasurementError when it held none."""
    command = [sys.executable, "-c", "from lab.calibration.overhead import hold; hold()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=dying_with_the_lab()
    ) as process:
        assert process.stdout
        told = json.loads(process.stdout.readline() or "[]")
        if not all(_exists(kind, number) for kind, number in told) or not told:
            raise MeasurementError(f"see what a process leaves: it held {told}, which does not exist")
        process.communicate()
    with suppress(WaitTimeout):
        wait_until(lambda: not any(_exists(*each) for each in told), within_s=SETTLED_S, what="its programs to go")
    return [f"{kind} {number}" for kind, number in told if _exists(kind, number)]


def _ids() -> list[tuple[str, int]]:
    """Kind and number of the BPF objects behind this process' descriptors."""
    found = set()
    for entry in File("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            for line in entry.read_text().splitlines():
                kind, _, number = line.partition("_id:")
                if kind in COMMANDS:
                    found.add((kind, int(number)))
    return sorted(found)


def _exists(kind: str, number: int) -> bool:
    attributes = bytearray(struct.pack("=III", number, 0, 0).ljust(16, b"\0"))
    try:
        os.close(bpf(COMMANDS[kind], attributes))
    except OSError:
        return False
    return True


def _frame() -> bytes:
    return bytes(frames.udp(TOPOLOGY, "client", "server", dst_port=9, payload=bytes(18)))


def _cost() -> None:
    from lab.bench.cost import measure_cost
    from lab.bpf.loader import Loader

    with Loader() as loader:
        program = loader.load(instruments.path("burn_xdp"), rounds=50)
        measure_cost(program, _frame(), flows=[1, 4096])


def _comparison() -> None:
    from lab.bench.compare import compare_cost
    from lab.bench.workload import Contender, Workload

    def burning(rounds: int) -> Contender:
        path = instruments.path("burn_xdp")
        return Contender(f"{rounds} rounds", lambda loader: Workload(loader.load(path, rounds=rounds), _frame()))

    compare_cost(burning(50), burning(100), budget_s=0.5)


def _latency() -> None:
    from lab.bench.latency import measure_added_latency
    from lab.bpf.loader import Loader

    with Loader() as loader:
        program = loader.load(instruments.path("burn_xdp"), rounds=50)
        measure_added_latency(program, PATH, _frame())


def _round_trip() -> None:
    from lab.bench.round_trip import measure_round_trip
    from lab.bpf.loader import Loader

    with Loader() as loader:
        measure_round_trip(loader.load(instruments.path("burn_xdp"), rounds=50), PATH)


def _rate() -> None:
    from lab.bench.rate import measure_rate
    from lab.bpf.loader import Loader

    with Loader() as loader:
        program = loader.load(instruments.path("sink"))
        measure_rate(program, PATH, _frame())
