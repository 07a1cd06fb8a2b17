"""What each part of monitor_traffic costs by number of flows, and what all of them add to a packet's way under load."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import pytest

from lab import Mode, Network, Topology
from lab.bench.isolation import isolated
from lab.bench.load import load_from
from lab.bench.path import Path, Together
from lab.bench.workload import Workload
from lab.bpf.companion import companion
from lab.kernel.cgroup import Cgroup
from lab.model import statistics
from lab.model.measurement import Limit, Measurement, Trial
from lab.traffic import frames

monitor = companion("monitor_traffic")

NAME = "monitor_traffic"
PAIR = Topology.pair("client", "server", offloads={"tx": False, "gro": True})
CHAIN = Topology.chain("client", "router", "server", offloads={"tx": False, "gro": True})
PATH = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FLOWS = (1, 4_096, 65_536, 1_048_576)
LOAD_PPS, LOAD_FLOWS = 100_000, 65_536
DRIVEN = 1
"""The interface that a tc program sees under PROG_RUN."""
PORT = 8080
BLOCKS, ROUND_TRIPS, WARM_UP = 16, 500, 50
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup with this process inside."""
    with Cgroup() as made, made.entered():
        yield made


def loaded(bpf: Any, flows: int, **knobs: Any) -> Any:
    """With room for twice as many flows."""
    return bpf.load(NAME, max_entries={"flows": max(2 * flows, 65_536)}, **knobs)


def datagram(ip: int = 4, topology: Topology = PAIR) -> Any:
    """64 bytes over IPv4, 84 over IPv6."""
    return frames.udp(topology, "client", "server", src_port=20_000, dst_port=9000, ip=ip, payload=bytes(22))


def segment(ip: int = 4) -> Any:
    """Of an established connection, without payload."""
    return frames.tcp(PAIR, "client", "server", src_port=20_000, dst_port=9000, ip=ip, flags="A")


def workload_xdp(bpf: Any) -> Workload:
    """XDP, IPv4 UDP."""
    return Workload(loaded(bpf, 65_536), datagram())


def workload_ingress(bpf: Any) -> Workload:
    """tc ingress where there is no XDP, IPv6 UDP."""
    return Workload(loaded(bpf, 65_536).programs["monitor_ingress"], datagram(6))


def workload_egress(bpf: Any) -> Workload:
    """tc egress, IPv4 TCP."""
    return Workload(loaded(bpf, 65_536, loopback=0).programs["monitor_egress"], segment())


def cost_by_flows(bench: Any, make: Callable[[int], Any], frame: Any, part: str) -> None:
    """ns per packet of a part, at 1 to 1,048,576 flows that it knows, each with room for twice as many."""
    for flows in FLOWS:
        program = make(flows)
        (measured,) = bench.cost(program, frame, flows=[flows], subject=part)
        assert sum(program.maps["outcomes"].total(why) for why in ("MALFORMED", "NOT_IP", "NO_ROOM")) == 0
        assert len(program.maps["flows"]) == flows
        assert measured.p50 > 0
        program.close()


@families
def test_cost_of_xdp(bpf, bench, ip):
    """ns per datagram at XDP: its interface, its flow, its port."""
    cost_by_flows(bench, lambda flows: loaded(bpf, flows), datagram(ip), f"XDP, IPv{ip} UDP")


def test_cost_of_a_segment(bpf, bench):
    """ns per TCP segment at XDP: the same, and its flags."""
    cost_by_flows(bench, lambda flows: loaded(bpf, flows), segment(), "XDP, IPv4 TCP")


def test_cost_of_ingress(bpf, bench):
    """ns per datagram at tc ingress of an interface without XDP."""
    cost_by_flows(
        bench, lambda flows: loaded(bpf, flows).programs["monitor_ingress"], datagram(), "tc ingress, IPv4 UDP"
    )


def test_cost_of_egress(bpf, bench):
    """ns per datagram at tc egress, which this machine sent."""
    cost_by_flows(
        bench,
        lambda flows: loaded(bpf, flows, loopback=0).programs["monitor_egress"],
        datagram(),
        "tc egress, IPv4 UDP",
    )


def test_cost_behind_xdp(bpf, bench):
    """ns per datagram at tc ingress of an interface where XDP has counted it: its interface alone."""
    program = loaded(bpf, 1).programs["monitor_ingress"]
    program.maps["places"][DRIVEN] = {"ifindex": DRIVEN, "layers": 1}
    measured = bench.cost(program, datagram(), flows=FLOWS, subject="tc ingress behind XDP, IPv4 UDP")
    assert len(program.maps["flows"]) == 0
    assert all(each.p50 > 0 for each in measured)


# ---- All parts together ----


@dataclass(frozen=True)
class Watched(Path):
    """A way through a router whose two interfaces have all layers of the monitor; of another program, that alone."""

    monitor: Any = None

    def attach(self, program: Any, network: Any) -> Any:
        """XDP is the program given: it may be another load than that of the monitor, with the same maps."""
        first = super().attach(program, network)
        if program.name != NAME:
            return first
        layers = ("monitor_ingress", "monitor_egress")
        places = [network.interface(f"router/{end}") for end in ("eth0", "eth1")]
        tc = [self.monitor.programs[layer].attach(place) for layer in layers for place in places]
        return Together((first, program.attach(places[1], mode=self.mode), *tc))


@contextmanager
def load_on(program: Any) -> Iterator[None]:
    """Elsewhere packets of 65,536 flows go through the same maps, from another thread, until the block ends."""
    with Network(PAIR) as network, ExitStack() as undo:
        for part in ("monitor_traffic", "monitor_ingress"):
            mode = Mode.NATIVE if part == NAME else None
            undo.enter_context(program.programs[part].attach(network.interface("server/eth0"), mode=mode))
        undo.enter_context(load_from(network, "client/eth0", datagram(), flows=LOAD_FLOWS, rate_pps=LOAD_PPS))
        yield


def test_added_latency(bpf, bench):
    """99 % of packets are forwarded less than 10 µs later, with XDP, tc ingress and tc egress on both interfaces."""
    program = loaded(bpf, LOAD_FLOWS)
    path = Watched(CHAIN, "client/eth0", "router/eth0", "server/eth0", mode=Mode.NATIVE, monitor=program)
    with load_on(program):
        added = bench.added_latency(
            program, path, datagram(topology=CHAIN), below_ns=10_000, subject="forwarded, all layers, 100,000 packets/s"
        )
    assert added.p99 < 10_000
    assert len(program.maps["flows"]) > LOAD_FLOWS


def attaching(program: Any, net: Any, group: Cgroup) -> Callable[[], AbstractContextManager[None]]:
    """All layers, as `lab monitor_traffic` attaches them."""

    @contextmanager
    def attach() -> Iterator[None]:
        with ExitStack() as undo:
            for each in monitor.attach_to(program, [net.interface("server/eth0")], group):
                undo.callback(each.detach)
            yield

    return attach


def only_sockets(program: Any, group: Cgroup) -> Callable[[], AbstractContextManager[Any]]:
    """Only sock_ops."""
    return lambda: program.programs["monitor_socket"].attach(group)


def connections(net: Any, stack: ExitStack, count: int) -> list[tuple[socket.socket, socket.socket]]:
    listener = stack.enter_context(net["server"].socket(socket.AF_INET))
    address = str(net.interface("server/eth0").ipv4), PORT
    listener.bind(address)
    listener.listen(count)
    pairs = []
    for _ in range(count):
        client = stack.enter_context(net["client"].socket(socket.AF_INET))
        client.connect(address)
        pairs.append((client, stack.enter_context(listener.accept()[0])))
    return pairs


@pytest.mark.parametrize("layers", ("sockets", "all"))
@pytest.mark.parametrize("count", (1, 4_096))
def test_a_round_trip(bpf, bench, group, count, layers):
    """ns more for a byte there and one back, in turn on so many TCP connections: an RTT sample at either end."""
    program = loaded(bpf, 65_536)
    with Network(PAIR) as net, ExitStack() as stack:
        attach = only_sockets(program, group) if layers == "sockets" else attaching(program, net, group)
        with attach():  # sockets are told of when they are made
            turn = cycle(connections(net, stack, count))

        def round_trip() -> None:
            client, served = next(turn)
            client.send(b"1")
            served.recv(1)
            served.send(b"2")
            client.recv(1)

        part = "sock_ops" if layers == "sockets" else "all layers"
        bench.overhead(
            round_trip, attach, program=NAME, subject=f"{part}: round trip, {count:,} connection{'s' * (count > 1)}"
        )
    assert sum(flow.srtt_us > 0 for flow in monitor.flows(program.maps)) == count


def test_added_to_a_round_trip(bpf, bench, group):
    """99 % of TCP round trips take less than 10 µs longer with all layers, sock_ops too, under load."""
    program, arms = loaded(bpf, LOAD_FLOWS), ("without", "with", "with", "without")
    blocks: list[dict[str, list[float]]] = []
    with Network(PAIR) as net, load_on(program), isolated() as core, ExitStack() as stack:
        attach = attaching(program, net, group)
        with attach():
            ((client, served),) = connections(net, stack, 1)
        for _ in range(BLOCKS):
            blocks.append({"with": [], "without": []})
            for arm in arms:
                with attach() if arm == "with" else nullcontext():
                    round_trips(client, served, WARM_UP)
                    with core.burst():
                        blocks[-1][arm] += round_trips(client, served, ROUND_TRIPS)
    tails = [{arm: statistics.percentiles(samples)["p99"] for arm, samples in each.items()} for each in blocks]
    added = [each["with"] - each["without"] for each in tails]
    every = {arm: [x for each in blocks for x in each[arm]] for arm in ("with", "without")}
    of = {arm: statistics.percentiles(samples) for arm, samples in every.items()}
    measured = Measurement(
        metric="added_latency",
        method="clock",
        unit="ns",
        program=NAME,
        subject="TCP round trip, all layers, 100,000 packets/s",
        headline="p99",
        summary={
            **{name: of["with"][name] - of["without"][name] for name in ("p50", "p90")},
            "p99": median(added),
            **{f"{name}_{arm}": of[arm][name] for arm in every for name in ("p50", "p99")},
        },
        interval=statistics.median_interval(added),
        trials=tuple(Trial(arm, tuple(samples), {"flows": LOAD_FLOWS}) for arm, samples in every.items()),
        limit=Limit("p99", 10_000),
        remarks=(f"median of {BLOCKS} blocks; XDP's hook on a veth is in it",),
    )
    bench.keep(measured)
    assert median(added) < 10_000
    assert next(flow.srtt_us for flow in monitor.flows(program.maps) if flow.answerer.port == PORT) > 0


def round_trips(client: socket.socket, served: socket.socket, count: int) -> list[float]:
    """ns of each: a byte there and one back."""
    samples = []
    for _ in range(count):
        start = time.perf_counter_ns()
        client.send(b"1")
        served.recv(1)
        served.send(b"2")
        client.recv(1)
        samples.append(float(time.perf_counter_ns() - start))
    return samples


def test_a_connection(bpf, bench, group):
    """ns more for a connection, opened, accepted and closed: one row, five events."""
    program = loaded(bpf, 65_536)
    with Network(PAIR) as net, ExitStack() as stack:
        listener = stack.enter_context(net["server"].socket(socket.AF_INET))
        address = str(net.interface("server/eth0").ipv4), PORT
        listener.bind(address)
        listener.listen(128)

        def connect() -> None:
            with net["client"].socket(socket.AF_INET) as client:
                client.connect(address)
                listener.accept()[0].close()

        bench.overhead(connect, only_sockets(program, group), program=NAME, subject="sock_ops: a connection, both ends")
    assert program.maps["connections"].total("ACCEPTED") > 100


def test_capacity(bpf, bench):
    """New flows a second, and a million held at once; a full table makes room, and no packet goes uncounted."""
    program = bpf.load(NAME, max_entries={"flows": 1 << 21})
    found = bench.capacity(program, PATH, datagram(), held="flows", sessions=1_000_000)
    assert found.held.summary["entries"] == 1_000_000
    assert program.maps["outcomes"].total("NO_ROOM") == 0


def test_rate(bpf, bench):
    """Packets a second of 1,024 flows through XDP on one core, none lost."""
    measured = bench.rate(loaded(bpf, 1024), PATH, datagram(), flows=1024)
    assert measured.ndr_pps > 100_000
