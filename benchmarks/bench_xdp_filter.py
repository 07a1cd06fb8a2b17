"""What xdp_filter costs: ns per packet by number of rules and flows, its rate, and how long a change of rules takes."""

from __future__ import annotations

import random
import time
from functools import cache
from ipaddress import ip_address
from typing import Any

import pytest

from lab import Mode, Topology
from lab.bench.path import Path
from lab.bench.workload import Workload
from lab.bpf.companion import companion
from lab.model import statistics
from lab.model.measurement import Measurement, Trial
from lab.traffic import frames

rules = companion("xdp_filter")

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})
PATH = Path(TOPOLOGY, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
CLIENT = {ip: rules.Prefix.of(TOPOLOGY.address("client", ip)) for ip in (4, 6)}
WIDTH = {4: 32, 6: 128}
FLOWS = (1, 4_096, 65_536, 1_048_576)
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@cache
def around_the_client(ip: int, count: int) -> list[Any]:
    """Sources that are allowed: random prefixes that share the client's first 12 bits, so that its branch is full."""
    roll = random.Random(ip)
    width, client = WIDTH[ip], CLIENT[ip].number
    made = {rules.allow(rules.Prefix(ip, client >> 8 << 8, width - 8))}
    while len(made) < count:
        length = roll.randrange(24, width + 1)
        number = (client ^ roll.getrandbits(width - 12)) >> width - length << width - length
        made.add(rules.Rule("ALLOW", rules.Prefix(ip, number, length)))
    return list(made)


@cache
def room_around_the_client(ip: int, count: int) -> dict[str, int]:
    return rules.room(around_the_client(ip, count))


def filtering(bpf: Any, listed: list[Any], room: dict[str, int]) -> Any:
    program = bpf.load("xdp_filter", max_entries=room)
    rules.Filter(program.maps).replace(listed, default="DENY")
    return program


def datagram(ip: int = 4) -> Any:
    """64 bytes over IPv4, 84 over IPv6."""
    return frames.udp(TOPOLOGY, "client", "server", src_port=20_000, dst_port=9000, ip=ip, payload=bytes(22))


def workload_rules(bpf: Any) -> Workload:
    """IPv4, allowed by one of 1,000 prefixes."""
    return Workload(filtering(bpf, around_the_client(4, 1000), room_around_the_client(4, 1000)), datagram())


def workload_no_rules(bpf: Any) -> Workload:
    """IPv6, no rules."""
    return Workload(bpf.load("xdp_filter"), datagram(6))


@pytest.mark.parametrize("count", (1, 10_000, 100_000))
@families
def test_cost_by_number_of_rules(bpf, bench, ip, count):
    """ns per packet that one of so many prefixes allows, by number of flows."""
    program = filtering(bpf, around_the_client(ip, count), room_around_the_client(ip, count))
    measured = bench.cost(program, datagram(ip), flows=FLOWS, subject=f"IPv{ip}, {count:,} rule{'s' * (count > 1)}")
    assert program.maps["counts"].total("DEFAULT_POLICY").packets == 0, "a rule decided every packet"
    assert program.maps["verdicts"].total("XDP_PASS").packets > sum(FLOWS)
    assert all(each.p50 > 0 for each in measured)


def test_cost_by_number_of_sources(bpf, bench):
    """ns per packet of 65,536 and 1,048,576 IPv4 sources, spread over 100,000 prefixes: the tables leave the caches."""
    program = filtering(bpf, around_the_client(4, 100_000), room_around_the_client(4, 100_000))
    frame = datagram()
    frame["IP"].src = str(ip_address(CLIENT[4].number >> 20 << 20))
    del frame["IP"].chksum, frame["UDP"].chksum
    for sources in (65_536, 1_048_576):
        (measured,) = bench.cost(
            program, frame, flows=[sources], port_bits=0, subject="IPv4, 100,000 rules, a source to each flow"
        )
        assert measured.p50 > 0
    total = program.maps["counts"].total
    assert total("MALFORMED").packets == 0 and total("DEFAULT_POLICY").packets < total().packets


def test_cost_of_ports_and_protocols(bpf, bench):
    """ns per packet where 1,000 rules of ports, protocols and pairs of prefixes must be asked as well."""
    pair = rules.allow(CLIENT[4], f"{TOPOLOGY.address('server', 4)}/32", protocol="udp", ports="8000-9999")
    ports = [rules.allow(ports=(port, port + 7), protocol="udp") for port in range(1024, 9000, 8)]
    listed = [pair, *ports, rules.deny(CLIENT[4], ports=22), rules.allow()]
    program = filtering(bpf, listed, rules.room(listed))
    measured = bench.cost(program, datagram(), flows=FLOWS, subject="IPv4, ports and pairs")
    assert program.maps["verdicts"].total("XDP_DROP").packets == 0
    assert all(each.p50 > 0 for each in measured)


@families
def test_cost_without_rules(bpf, bench, ip):
    """ns per packet that the default policy lets through: parsing, two look-ups and the counters."""
    program = workload_no_rules(bpf).program
    (measured,) = bench.cost(program, datagram(ip), flows=[65_536], subject=f"IPv{ip}, no rules")
    assert program.maps["counts"].total("DEFAULT_POLICY").packets > 65_536
    assert measured.p50 > 0


def test_added_latency(bpf, bench):
    """Filtered by 10,000 prefixes, 99 % of packets take less than 10 µs longer."""
    program = filtering(bpf, around_the_client(4, 10_000), room_around_the_client(4, 10_000))
    added = bench.added_latency(program, PATH, datagram(), below_ns=10_000)
    assert added.p99 < 10_000


def test_rate(bpf, bench):
    """Packets a second of 1,024 flows through 10,000 prefixes on one core, none lost."""
    program = filtering(bpf, around_the_client(4, 10_000), room_around_the_client(4, 10_000))
    measured = bench.rate(program, PATH, datagram(), flows=1024)
    assert measured.ndr_pps > 100_000


@pytest.mark.parametrize("protocol", ("tcp", "udp"))
def test_goodput(bpf, bench, protocol):
    """Bits a second that pass 10,000 prefixes, and the CPU time that they take: nearly all of it is the hook's."""
    program = filtering(bpf, around_the_client(4, 10_000), room_around_the_client(4, 10_000))
    measured = bench.goodput(program, PATH, protocol=protocol)
    assert measured.p50 > 1e6


@pytest.mark.parametrize(("count", "times"), ((1, 20), (10_000, 5), (100_000, 3)))
def test_change(bpf, bench, count, times):
    """ms from the call until no packet sees the old rules any more, one rule of so many being another."""
    listed = around_the_client(4, count)
    program = bpf.load("xdp_filter", max_entries=room_around_the_client(4, count))
    made = rules.Filter(program.maps)
    samples = []
    for place in range(times):
        changed = [*listed[:-1], rules.deny(ports=place)]
        start = time.perf_counter()
        made.replace(changed)
        samples.append((time.perf_counter() - start) * 1000)
    measured = Measurement(
        metric="change",
        method="clock",
        unit="ms",
        program="xdp_filter",
        subject=f"{count:,} rule{'s' * (count > 1)}",
        headline="p50",
        summary=statistics.percentiles(samples),
        interval=statistics.median_interval(samples),
        trials=(Trial("with", tuple(samples), {"rules": count}),),
        remarks=("compiled, written, and the kernel's grace period waited for",),
    )
    bench.keep(measured)
    assert made.rules[-1] == rules.deny(ports=times - 1)
