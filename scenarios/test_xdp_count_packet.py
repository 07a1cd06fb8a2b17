"""xdp_count_packet counts every packet once, by source and by protocol, and both flavours count alike."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from lab import Mode, Stream, Topology
from lab.bpf.companion import companion
from lab.bpf.loader import Loader

packets = companion("xdp_count_packet")
Outcome = packets.Outcome

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})
SOURCE = {4: "192.0.2.1", 6: "2001:db8::1"}
DEST = {4: "192.0.2.2", 6: "2001:db8::2"}

FLAVOURS = ("core", pytest.param("bcc", marks=pytest.mark.needs("bcc")))
flavours = pytest.mark.parametrize("flavour", FLAVOURS)
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
modes = pytest.mark.parametrize("mode", list(Mode), ids=[mode.value for mode in Mode])


@pytest.fixture(scope="module", params=FLAVOURS)
def shared(request: Any) -> Iterator[Any]:
    """Each flavour, unattached; a row counts what it adds."""
    with Loader() as bpf:
        yield packets.load(bpf, flavour=request.param, sources=256)


def run(program: Any, *frames: Any) -> None:
    """Runs frames through it, and checks the verdict that all of them get: XDP_PASS, and not a byte changed."""
    for frame in frames:
        result = program.run(bytes(frame))
        assert (result.action.name, result.frame) == ("XDP_PASS", bytes(frame))


def ether(vlans: int = 0) -> Any:
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for tag in range(vlans):
        frame /= Dot1Q(vlan=100 + tag)
    if vlans == 2:
        frame.type = 0x88A8
    return frame


def network(ip: int = 4, **fields: Any) -> Any:
    kind = IP if ip == 4 else IPv6
    return kind(**{"src": SOURCE[ip], "dst": DEST[ip], **fields})


def udp(ip: int = 4, vlans: int = 0, **fields: Any) -> Any:
    return ether(vlans) / network(ip, **fields) / UDP(sport=1, dport=2) / Raw(b"hello")


def extended(count: int) -> Any:
    packet = network(6)
    for _ in range(count):
        packet /= IPv6ExtHdrDestOpt()
    return packet


def cut(frame: Any, to: int) -> bytes:
    return bytes(frame)[:to]


# ---- The verdict table: all pass; where each is counted ----

COUNTED: dict[str, tuple[Any, Outcome, int | None, int | None]] = {
    # frame, outcome, the family of the source that is counted, the protocol that is
    "IPv4 UDP": (udp(), Outcome.IPV4, 4, 17),
    "IPv6 UDP": (udp(6), Outcome.IPV6, 6, 17),
    "IPv4 TCP": (ether() / network() / TCP(), Outcome.IPV4, 4, 6),
    "IPv6 TCP": (ether() / network(6) / TCP(), Outcome.IPV6, 6, 6),
    "ICMP": (ether() / network() / ICMP(), Outcome.IPV4, 4, 1),
    "ICMPv6": (ether() / network(6) / ICMPv6EchoRequest(), Outcome.IPV6, 6, 58),
    "protocol 255": (ether() / network(proto=255) / Raw(bytes(8)), Outcome.IPV4, 4, 255),
    "protocol 0 over IPv4": (ether() / network(proto=0) / Raw(bytes(8)), Outcome.IPV4, 4, 0),
    "no payload at all": (ether() / network(proto=6), Outcome.IPV4, 4, 6),
    "a TCP header cut short is TCP": (cut(ether() / network(len=24) / TCP(), 38), Outcome.IPV4, 4, 6),
    "IPv4 with options": (udp(options=[IPOption(b"\x94\x04\x00\x00")]), Outcome.IPV4, 4, 17),
    "IPv4 with the longest options": (udp(options=[IPOption(b"\x01" * 40)]), Outcome.IPV4, 4, 17),
    "one VLAN tag": (udp(4, 1), Outcome.IPV4, 4, 17),
    "two VLAN tags": (udp(4, 2), Outcome.IPV4, 4, 17),
    "two VLAN tags before IPv6": (udp(6, 2), Outcome.IPV6, 6, 17),
    "IPv6 behind hop-by-hop": (ether() / network(6) / IPv6ExtHdrHopByHop() / UDP(), Outcome.IPV6, 6, 17),
    "IPv6 behind six extension headers": (ether() / extended(6) / UDP(), Outcome.IPV6, 6, 17),
    "IPv6 behind seven: no protocol": (ether() / extended(7) / UDP(), Outcome.TOO_DEEP, 6, None),
    "IPv4 first fragment": (udp(flags="MF"), Outcome.IPV4, 4, 17),
    "IPv4 later fragment": (udp(frag=100), Outcome.IPV4, 4, 17),
    "IPv6 first fragment": (ether() / network(6) / IPv6ExtHdrFragment(m=1) / UDP(), Outcome.IPV6, 6, 17),
    "IPv6 later fragment": (
        ether() / network(6) / IPv6ExtHdrFragment(offset=100, nh=17) / Raw(bytes(8)),
        Outcome.IPV6,
        6,
        17,
    ),
    "IPv6 later fragment, options behind it": (
        ether() / network(6) / IPv6ExtHdrFragment(offset=100, nh=60) / Raw(bytes(8)),
        Outcome.IPV6,
        6,
        60,
    ),
    "padded to 60 bytes": (bytes(udp()).ljust(60, b"\xee"), Outcome.IPV4, 4, 17),
    "ARP": (ether() / ARP(psrc=SOURCE[4]), Outcome.NOT_IP, None, None),
    "a third VLAN tag": (ether(3) / network() / UDP(), Outcome.NOT_IP, None, None),
    "an unknown EtherType": (ether() / Raw(bytes(50)), Outcome.NOT_IP, None, None),
    "an IPv4 header cut short": (cut(udp(), 33), Outcome.MALFORMED, None, None),
    "an IPv6 header cut short": (cut(udp(6), 53), Outcome.MALFORMED, None, None),
    "a VLAN tag cut short": (cut(udp(4, 1), 16), Outcome.MALFORMED, None, None),
    "an extension header cut short": (cut(ether() / extended(1) / UDP(), 55), Outcome.MALFORMED, None, None),
    "IPv4 options cut short": (cut(udp(options=[IPOption(b"\x01" * 40)]), 60), Outcome.MALFORMED, None, None),
    "an IPv4 header of 16 bytes": (udp(ihl=4), Outcome.MALFORMED, None, None),
    "an IPv4 packet longer than its frame": (udp(len=200), Outcome.MALFORMED, None, None),
    "an IPv6 packet longer than its frame": (udp(6, plen=200), Outcome.MALFORMED, None, None),
    "version 5": (udp(version=5), Outcome.MALFORMED, None, None),
}


Entries = dict[tuple[str, Any], tuple[int, int]]


def entries(program: Any) -> Entries:
    """All tables as one: (table, key) -> packets and bytes, where there were any."""
    maps = program.maps
    found = {("source", each.source): each.count for each in packets.top(maps, 1 << 20)}
    found |= {("protocol", number): count for number, count in packets.by_protocol(maps).items()}
    found |= {("outcome", outcome): count for outcome, count in packets.counts(maps).items()}
    return {key: (count.packets, count.bytes) for key, count in found.items() if count.packets}


def added(program: Any, before: Entries) -> Entries:
    """What came in since."""
    grown = {}
    for key, (number, size) in entries(program).items():
        had, had_bytes = before.get(key, (0, 0))
        if number != had:
            grown[key] = (number - had, size - had_bytes)
    return grown


@pytest.mark.parametrize(("frame", "outcome", "ip", "protocol"), COUNTED.values(), ids=COUNTED.keys())
def test_a_packet_is_counted_where_it_belongs(shared, frame, outcome, ip, protocol):
    """Twice the frame: two packets and the bytes of both where the row says, and nowhere else."""
    before = entries(shared)
    run(shared, frame, frame)
    expected: Entries = {("outcome", outcome): (2, 2 * len(bytes(frame)))}
    if ip:
        expected["source", ip_address(SOURCE[ip])] = expected["outcome", outcome]
    if protocol is not None:
        expected["protocol", protocol] = expected["outcome", outcome]
    assert added(shared, before) == expected


@pytest.mark.blind("it is about types, which the object has and no packet changes")
def test_the_outcomes_have_the_names_of_the_source(bpf):
    """The companion's names are those of `enum outcome`, which only the CO-RE flavour's types can tell."""
    program = packets.load(bpf)
    assert {key.name: int(key) for key in program.maps["outcomes"]} == {each.name: each.value for each in Outcome}


# ---- Both flavours, against what Python counts and against each other ----


def crowd(seed: int, number: int) -> list[bytes]:
    """Frames of 40 sources, of which some are damaged: cut, or with bytes that are another's."""
    roll = random.Random(seed)
    made = []
    for _ in range(number):
        ip = roll.choice((4, 6))
        source = f"198.51.100.{roll.randrange(20)}" if ip == 4 else f"2001:db8::{roll.randrange(20):x}"
        behind = roll.choice((UDP(), TCP(), ICMP(), extended(2).payload if ip == 6 else UDP()))
        frame = bytearray(bytes(ether(roll.randrange(4)) / network(ip, src=source) / behind / Raw(bytes(20))))
        for _ in range(roll.choice((0, 0, 0, 1, 3))):
            frame[roll.randrange(12, len(frame))] = roll.randrange(256)
        made.append(bytes(frame[: roll.choice((len(frame), len(frame), roll.randrange(14, len(frame) + 1)))]))
    return made


@pytest.mark.needs("bcc")
def test_both_flavours_count_the_same(bpf):
    """1,000 frames, a third of them damaged: not a number differs, and each frame is in one outcome."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    frames = crowd(seed, 1_000)
    core, bcc = (packets.load(bpf, flavour=each) for each in ("core", "bcc"))
    for program in (core, bcc):
        program.run_many(frames)
    assert entries(core) == entries(bcc)
    whole = [count for count in packets.counts(core.maps).values()]
    assert (sum(each.packets for each in whole), sum(each.bytes for each in whole)) == (1_000, sum(map(len, frames)))
    assert {Outcome.IPV4, Outcome.IPV6, Outcome.NOT_IP, Outcome.MALFORMED} <= {
        outcome for outcome, count in packets.counts(core.maps).items() if count.packets
    }


def test_each_cpu_counts_for_itself(shared):
    """Three packets on one CPU and two on the other: five, and each CPU's slot has its own."""
    source = "192.0.2.77"
    cpus = sorted(os.sched_getaffinity(0))[:2]
    try:
        for cpu, times in zip(cpus, (3, 2), strict=False):
            os.sched_setaffinity(0, {cpu})
            run(shared, *[udp(src=source)] * times)
    finally:
        os.sched_setaffinity(0, cpus)
    slots = shared.maps["sources4"][source]
    assert [slots[cpu].packets for cpu in cpus] == [3, 2][: len(cpus)]
    assert slots.total().packets == sum([3, 2][: len(cpus)])


# ---- Real traffic ----


@modes
@families
@flavours
def test_a_stream_is_counted_under_its_source(net, bpf, flavour, ip, mode):
    """30 datagrams of 100 bytes: the client's packets and bytes, to the last one; all of them arrive."""
    program = packets.load(bpf, flavour=flavour)
    with program.attach(net.interface("server/eth0"), mode=mode):
        delivery = net.send(Stream.udp("client", "server", dst_port=9000, count=30, frame_bytes=100, ip=ip))
    assert delivery.received == 30
    client = ip_address(TOPOLOGY.address("client", ip))
    outcome = Outcome.IPV4 if ip == 4 else Outcome.IPV6
    assert entries(program) == dict.fromkeys(
        (("source", client), ("protocol", 17), ("outcome", outcome)), (30, 30 * 100)
    )


@families
@flavours
def test_the_interface_agrees(net, bpf, flavour, ip):
    """TCP and ping: as many packets as the interface itself received, by protocol, all from the client."""
    program = packets.load(bpf, flavour=flavour)
    server = net.interface("server/eth0")
    with program.attach(server, mode=Mode.NATIVE):
        before = server.counters()
        net.send(Stream.tcp("client", "server", dst_port=9000, count=50, ip=ip))
        tcp_packets = (server.counters() - before).rx_packets
        net.send(Stream.icmp("client", "server", count=7, ip=ip))
        received = (server.counters() - before).rx_packets
    counted = {number: count.packets for number, count in packets.by_protocol(program.maps).items()}
    assert counted == {6: tcp_packets, 1 if ip == 4 else 58: 7}
    (talker,) = packets.top(program.maps)
    assert (str(talker.source), talker.count.packets) == (str(TOPOLOGY.address("client", ip)), received)


@families
@flavours
def test_fragments_are_packets_of_their_protocol(net, bpf, flavour, ip):
    """Five datagrams of 4,000 bytes come in three pieces each: fifteen packets of UDP, and all arrive whole."""
    program = packets.load(bpf, flavour=flavour)
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        delivery = net.send(Stream.udp("client", "server", dst_port=9000, count=5, frame_bytes=4_000, ip=ip))
    assert delivery.received == 5
    assert {number: count.packets for number, count in packets.by_protocol(program.maps).items()} == {17: 15}


HUB = Topology.star("hub", leaves=("small", "many", "large"), offloads={"tx": False})


@pytest.mark.topology(HUB)
@families
@flavours
def test_the_top_is_in_order_over_several_interfaces(net, bpf, flavour, ip):
    """Three leaves into one program: who sends the most packets is not who sends the most bytes."""
    program = packets.load(bpf, flavour=flavour)
    with ExitStack() as stack:
        for interface in net["hub"].interfaces:
            stack.enter_context(program.attach(interface, mode=Mode.NATIVE))
        for leaf, count, size in (("small", 5, 100), ("many", 50, 100), ("large", 10, 1_400)):
            net.send(Stream.udp(leaf, "hub", dst_port=9000, count=count, frame_bytes=size, ip=ip))
    many, large, small = (HUB.address(leaf, ip) for leaf in ("many", "large", "small"))
    told = [(str(each.source), each.count.packets, each.count.bytes) for each in packets.top(program.maps)]
    assert told == [(str(large), 10, 14_000), (str(many), 50, 5_000), (str(small), 5, 500)]
    by_packets = packets.top(program.maps, 2, by="packets")
    assert [str(each.source) for each in by_packets] == [str(many), str(large)]


@families
@flavours
def test_a_full_table_leaves_out_new_sources_and_says_so(net, bpf, flavour, ip):
    """Room for four: the four that came first count on, the packets of ten others are all but their source."""
    program = packets.load(bpf, flavour=flavour, sources=4)
    base = ip_address(SOURCE[ip])
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        for place in (*range(14), *range(14)):
            net.exchange(udp(ip, src=str(base + place)), at="client/eth0")
    known = {talker.source: talker.count.packets for talker in packets.top(program.maps)}
    assert known == {base + place: 2 for place in range(4)}
    seen = packets.counts(program.maps)
    listed, unlisted = (Outcome.IPV4, Outcome.NO_ROOM_IPV4) if ip == 4 else (Outcome.IPV6, Outcome.NO_ROOM_IPV6)
    assert (seen[listed].packets, seen[unlisted].packets) == (8, 20)
    assert packets.by_protocol(program.maps)[17].packets == 28
    assert "20 packets of sources without a place" in packets.summary(program)


@flavours
def test_a_cleared_table_has_room_again(bpf, flavour):
    """After clear() a source that had no place gets one; protocols and outcomes go on."""
    program = packets.load(bpf, flavour=flavour, sources=1)
    run(program, udp(), udp(src="192.0.2.9"))
    packets.clear(program.maps)
    run(program, udp(src="192.0.2.9"))
    assert [str(each) for each in packets.top(program.maps)] == ["192.0.2.9: 1 packet, 47 bytes"]
    assert packets.by_protocol(program.maps)[17].packets == 3
    assert packets.counts(program.maps)[Outcome.NO_ROOM_IPV4].packets == 1


@flavours
def test_nothing_is_missed_under_a_flood(net, bpf, flavour):
    """200,000 live frames of eight addresses at full speed: as many as the interface received, source by source."""
    program = packets.load(bpf, flavour=flavour)
    frame = ether() / network() / UDP(sport=1, dport=9) / Raw(bytes(22))
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        delivery = net.flood("client/eth0", frame, flows=8 << 14, count=200_000)
    assert packets.counts(program.maps)[Outcome.IPV4].packets == delivery.received > 100_000
    talkers = packets.top(program.maps, 100)
    assert (len(talkers), sum(each.count.packets for each in talkers)) == (8, delivery.received)


@flavours
def test_a_person_sees_totals_and_rates(net, bpf, flavour):
    """The view names source and protocol, and its rates are those since the view before."""
    program = packets.load(bpf, flavour=flavour)
    views = packets.view(program, top=5)
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        assert [table.rows for table in next(views)] == [[], [], []]
        net.send(Stream.udp("client", "server", dst_port=9000, count=20, frame_bytes=100))
        sources, protocols, outcomes = next(views)
        quiet = next(views)
    client = str(TOPOLOGY.address("client", 4))
    for table, name in ((sources, client), (protocols, "udp"), (outcomes, "IPV4")):
        ((told, count, size, rate, bits),) = table.rows
        assert (told, count, size) == (name, 20, 2_000)
        assert bits == pytest.approx(rate * 800, rel=0.1) and rate > 0
    assert [row[3:] for table in quiet for row in table.rows] == [(0, 0)] * 3
