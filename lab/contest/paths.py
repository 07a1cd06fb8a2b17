"""Where the rates of two contenders are compared: on the PATH of the benchmark, or on one veth."""

from __future__ import annotations

from lab.bench.path import Path
from lab.bpf.loader import Loader
from lab.contest.named import Named
from lab.contest.workloads import Make, benchmark_module
from lab.errors import NotComparable
from lab.model.action import Direction, Mode
from lab.net.topology import Topology


def path_of(who: Named) -> Path | None:
    """The module-level PATH of the contender's benchmark, if it has one."""
    path = getattr(benchmark_module(who), "PATH", None)
    return path if isinstance(path, Path) else None


def one_veth(make: Make) -> Path:
    """At whose end the program takes what comes in. NotComparable for one that is on no path of packets."""
    with Loader() as loader:
        program = make(loader).program
        if program.type not in ("xdp", "sched_cls"):
            raise NotComparable(
                f"compare rates of {program.name}: a {program.type} program is on no path of packets",
                mend="--metric cost, or bench.overhead in its benchmark",
            )
        is_xdp = program.type == "xdp"
    return Path(
        Topology.pair("client", "server"),
        source="client/eth0",
        at="server/eth0",
        sink="server/eth0",
        mode=Mode.NATIVE if is_xdp else None,
        direction=None if is_xdp else Direction.INGRESS,
    )
