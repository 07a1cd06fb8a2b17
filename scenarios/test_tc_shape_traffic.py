"""tc_shape_traffic holds each class to its rate: exactly by the token, and within 5 % as iperf3 measures it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from lab import Action, Direction, Stream, Topology
from lab.bpf import load
from lab.bpf.companion import companion
from lab.errors import LabError
from lab.kernel.cgroup import Cgroup

shape = companion("tc_shape_traffic")

TOPOLOGY = Topology.pair("client", "server")
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
BYTE_A_SECOND = 8
"""So slow that what a test takes is worth no token."""
SECOND = 10**9
REMOTE = {4: "198.51.100.2", 6: "2001:db8:2::2"}
LOCAL = {4: "192.0.2.1", 6: "2001:db8::1"}
PASS, SHOT = Action.TC_ACT_UNSPEC, Action.TC_ACT_SHOT


def packet(ip: int = 4, *, size: int = 100, dport: int = 9000, sport: int = 40_000, tos: int = 0, dst: str = "") -> Any:
    """A datagram of `size` bytes on the wire."""
    ends = {"src": LOCAL[ip], "dst": dst or REMOTE[ip]}
    network = IP(tos=tos, **ends) if ip == 4 else IPv6(tc=tos, **ends)
    made = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / network / UDP(sport=sport, dport=dport)
    return made / bytes(size - len(bytes(made)))


# ---- The verdict table: exact arithmetic ----


@contextmanager
def loaded(**knobs: Any) -> Iterator[tuple[Any, Any]]:
    with load("tc_shape_traffic", **knobs) as program:
        yield program.programs, shape.Shaper(program)


@pytest.mark.parametrize("half", ["shape_by_drop", "police"])
@pytest.mark.parametrize("coarse", [False, True], ids=["exact clock", "coarse clock"])
@families
def test_a_burst_passes_to_the_byte(half: str, coarse: bool, ip: int) -> None:
    """Of a burst of 350 bytes three packets of 100 pass; with 20 bytes more one of 70 does, and not one of 71."""
    with loaded(coarse_clock=coarse) as (programs, shaper):
        shaper.limit_default(BYTE_A_SECOND, burst=350)
        verdicts = [programs[half].run(packet(ip)).action for _ in range(5)]
        assert verdicts == [PASS, PASS, PASS, SHOT, SHOT]
        count = shaper.count(0)
        assert (count.packets, count.bytes, count.dropped, count.dropped_bytes) == (3, 300, 2, 200)
        shaper.change(0, BYTE_A_SECOND, burst=370)
        assert programs[half].run(packet(ip, size=71)).action is SHOT
        assert programs[half].run(packet(ip, size=70)).action is PASS


@pytest.mark.parametrize("tokens", [99, 100, 101, 1000])
def test_tokens_are_counted_exactly(tokens: int) -> None:
    """A packet of 100 bytes passes if and only if there are 100 tokens; then so many fewer are left."""
    with loaded() as (programs, shaper):
        shaper.limit_default(BYTE_A_SECOND, burst=5000)
        set_tokens(shaper, tokens, 5000)
        for left in range(tokens, -1, -100):
            assert programs["shape_by_drop"].run(packet()).action is (PASS if left >= 100 else SHOT)


def set_tokens(shaper: Any, tokens: int, burst: int, number: int = 0) -> None:
    """A quarter of a byte more, so that the test's own time does no harm either way."""
    full_ns = time.monotonic_ns() + (burst - tokens) * SECOND - SECOND // 4
    shaper._maps["buckets"][number] = {"full_ns": full_ns}


def test_tokens_come_with_time_and_not_beyond_the_burst() -> None:
    """A bucket that was full long ago holds a burst, not more."""
    with loaded() as (programs, shaper):
        shaper.limit_default(BYTE_A_SECOND, burst=250)
        shaper._maps["buckets"][0] = {"full_ns": time.monotonic_ns() - 1000 * SECOND}
        assert [programs["shape_by_drop"].run(packet()).action for _ in range(3)] == [PASS, PASS, SHOT]


@families
def test_every_segment_of_a_gso_frame_is_paid_for(ip: int) -> None:
    """The kernel says what the wire will carry; of what GRO put together the headers are added."""
    frame = packet(ip, size=1000)
    headers = 14 + (20 if ip == 4 else 40) + 8
    with loaded(overhead_bytes=24) as (programs, shaper):
        shaper.limit_default("1gbit")
        programs["shape_by_drop"].run(frame, context={"gso_segs": 4, "gso_size": 240, "wire_len": 1000 + 3 * headers})
        assert shaper.count(0).bytes == 1000 + 3 * headers + 4 * 24
        programs["police"].run(frame, context={"gso_segs": 4, "gso_size": 240})
        assert shaper.count(0).bytes == 2 * (1000 + 3 * headers + 4 * 24)
        programs["police"].run(frame)
        assert shaper.count(0).bytes == 2 * (1000 + 3 * headers + 4 * 24) + 1024


def test_a_tcp_header_counts_with_its_options() -> None:
    """Of a GRO frame each segment had them."""
    made = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=LOCAL[4], dst=REMOTE[4])
    frame = made / TCP(options=[("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]) / bytes(900)
    with loaded() as (programs, shaper):
        shaper.limit_default("1gbit")
        programs["police"].run(frame, context={"gso_segs": 3, "gso_size": 300})
        assert shaper.count(0).bytes == 66 + 900 + 2 * 66


CLASSES: list[tuple[str, dict[str, Any], str]] = [
    ("nothing fits", {}, "default"),
    ("the destination port", {"dport": 873}, "port"),
    ("the source port", {"sport": 873}, "port"),
    ("the port next to it", {"dport": 874}, "default"),
    ("DSCP", {"tos": 46 << 2 | 1}, "dscp"),
    ("another DSCP", {"tos": 45 << 2}, "default"),
    ("the prefix", {"dst": {4: "203.0.113.9", 6: "2001:db8:9::9"}}, "prefix"),
    ("the address next to the prefix", {"dst": {4: "203.0.114.9", 6: "2001:db8:a::9"}}, "default"),
    ("a longer prefix", {"dst": {4: "203.0.113.200", 6: "2001:db8:9:1::9"}}, "host"),
    ("port and DSCP: the rule of the higher priority", {"dport": 873, "tos": 46 << 2}, "port"),
    ("prefix and port", {"dst": {4: "203.0.113.9", 6: "2001:db8:9::9"}, "dport": 873}, "prefix"),
    ("all three", {"dst": {4: "203.0.113.9", 6: "2001:db8:9::9"}, "dport": 873, "tos": 46 << 2}, "prefix"),
]


@pytest.fixture(scope="module")
def classified() -> Iterator[tuple[Any, Any, dict[str, int]]]:
    """Four classes, one a kind of rule, and a prefix within a prefix."""
    with loaded() as (programs, shaper):
        numbers = {name: shaper.add(name, "1gbit") for name in ("dscp", "port", "prefix", "host")}
        shaper.limit_default("1gbit")
        shaper.rule(numbers["dscp"], dscp=(46,), priority=1)
        shaper.rule(numbers["port"], ports=(873,), priority=2)
        shaper.rule(numbers["prefix"], prefixes=("203.0.113.0/24", "2001:db8:9::/48"), priority=3)
        shaper.rule(numbers["host"], prefixes=("203.0.113.200/32", "2001:db8:9:1::/64"))
        yield programs, shaper, {**numbers, "default": 0}


@families
@pytest.mark.parametrize(("name", "fields", "wanted"), CLASSES, ids=[each[0] for each in CLASSES])
def test_the_rule_of_the_highest_priority_decides(
    classified: Any, name: str, fields: dict[str, Any], wanted: str, ip: int
) -> None:
    """One packet, counted in one class."""
    programs, shaper, numbers = classified
    chosen = {key: value[ip] if isinstance(value, dict) else value for key, value in fields.items()}
    assert class_that_counts(programs["shape_by_drop"], shaper, numbers, packet(ip, **chosen)) == wanted


def class_that_counts(half: Any, shaper: Any, numbers: dict[str, int], frame: Any) -> str:
    before = {name: shaper.count(number).packets for name, number in numbers.items()}
    assert half.run(frame).action is PASS
    (found,) = (name for name, number in numbers.items() if shaper.count(number).packets != before[name])
    return found


@families
def test_the_remote_end_of_what_comes_in_is_its_source(classified: Any, ip: int) -> None:
    """Ingress looks at source addresses, egress at destinations."""
    programs, shaper, numbers = classified
    far = {4: "203.0.113.9", 6: "2001:db8:9::9"}[ip]
    frame = packet(ip, dst=far)
    assert class_that_counts(programs["police"], shaper, numbers, frame) == "default"
    frame.payload.src, frame.payload.dst = far, LOCAL[ip]
    assert class_that_counts(programs["police"], shaper, numbers, frame) == "prefix"


@families
def test_a_later_fragment_is_classed_without_ports(classified: Any, ip: int) -> None:
    """It has none, whatever its bytes look like; the first one has."""
    programs, shaper, numbers = classified
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")

    def fragment(offset: int) -> Any:
        payload = bytes(UDP(sport=873, dport=873)) + bytes(64)
        if ip == 4:
            return ether / IP(src=LOCAL[4], dst=REMOTE[4], flags="MF", frag=offset, proto=17) / Raw(payload)
        header = IPv6ExtHdrFragment(nh=17, offset=offset, m=1)
        return ether / IPv6(src=LOCAL[6], dst=REMOTE[6]) / header / Raw(payload)

    assert class_that_counts(programs["shape_by_drop"], shaper, numbers, fragment(0)) == "port"
    assert class_that_counts(programs["shape_by_drop"], shaper, numbers, fragment(100)) == "default"


def test_what_is_not_ip_is_never_held_up() -> None:
    """ARP passes with no token left; ICMP is in the default class, and does not."""
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    with loaded() as (programs, shaper):
        shaper.limit_default(BYTE_A_SECOND, burst=10)
        arp, echo = ether / ARP(), ether / IP(src=LOCAL[4], dst=REMOTE[4]) / ICMP()
        assert [programs["shape_by_drop"].run(each).action for each in (arp, echo)] == [PASS, SHOT]


@families
def test_over_the_rate_ecn_is_marked_up_to_a_second_burst(ip: int) -> None:
    """ECN-capable packets pass with CE and a right checksum; others are dropped, and so is all beyond two bursts."""
    with loaded() as (programs, shaper):
        shaper.limit_default(BYTE_A_SECOND, burst=200, mark=True)
        half, capable, not_capable = programs["shape_by_drop"], packet(ip, tos=2), packet(ip)
        assert [half.run(capable).action for _ in range(2)] == [PASS, PASS]
        assert half.run(not_capable).action is SHOT
        marked = [half.run(capable) for _ in range(2)]
        assert [each.action for each in marked] == [PASS, PASS]
        assert bytes(marked[0].frame) == bytes(packet(ip, tos=3))
        assert half.run(capable).action is SHOT
        count = shaper.count(0)
        assert (count.packets, count.marked, count.dropped) == (4, 2, 2)


def test_a_class_borrows_what_the_link_has_left() -> None:
    """It has its own first, then the link's; what another class was promised passes though the link has nothing."""
    with loaded() as (programs, shaper):
        shaper.limit_link(100 * BYTE_A_SECOND, burst=500)
        borrower = shaper.add("borrower", BYTE_A_SECOND, burst=100, borrows=True)
        promised = shaper.add("promised", BYTE_A_SECOND, burst=300)
        shaper.rule(borrower, ports=(1,))
        shaper.rule(promised, ports=(2,))
        half = programs["shape_by_drop"]
        # The link earns 100 bytes a second here, some bytes while the test runs: odd sizes leave room for that.
        assert [half.run(packet(dport=1)).action for _ in range(6)] == [PASS] * 5 + [SHOT]
        assert shaper.count(borrower).borrowed == 4
        assert [half.run(packet(dport=2)).action for _ in range(4)] == [PASS] * 3 + [SHOT]
        assert half.run(packet(dport=1)).action is SHOT


@pytest.mark.parametrize(("priority", "passed"), [(0, 8), (2, 6), (4, 4), (7, 1)])
def test_lower_priorities_leave_the_link_to_higher_ones(priority: int, passed: int) -> None:
    """Of a link's burst of 800 bytes a class of priority n may borrow all but n eighths."""
    with loaded() as (programs, shaper):
        shaper.limit_link(2 * BYTE_A_SECOND, burst=800)
        number = shaper.add("class", BYTE_A_SECOND, burst=1, borrows=True, priority=priority)
        shaper.rule(number, ports=(1,))
        verdicts = [programs["shape_by_drop"].run(packet(dport=1)).action for _ in range(10)]
        assert verdicts == [PASS] * passed + [SHOT] * (10 - passed)


def test_departures_are_spaced_exactly() -> None:
    """Beyond the burst each packet departs later than the one before it by its length at the rate; then the horizon."""
    with loaded(horizon_ns=10**9) as (programs, shaper):
        shaper.limit_default(80_000, burst=200)  # 100 µs a byte, 10 ms a packet
        raw = bytes(packet())
        results = [programs["shape_by_delay"].run(raw) for _ in range(200)]
        passed = [each for each in results if each.action is PASS]
        departures = [each.context["tstamp"] for each in passed if each.context["tstamp"]]
        assert len(passed) == len(departures) + 2, "the burst departs at once"
        assert {later - earlier for earlier, later in itertools.pairwise(departures)} == {10_000_000}
        # Between both ends of the run 100 packets fit into a second, and one more each 10 ms that it took.
        assert 100 <= len(departures) < 190 and results[-1].action is SHOT
        assert 0 < departures[-1] - time.monotonic_ns() <= 10**9
        assert (shaper.count(0).delayed, shaper.count(0).dropped) == (len(departures), 200 - len(passed))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda shaper: shaper.limit_default("fast"), "fast"),
        (lambda shaper: shaper.limit_default("0mbit"), "0mbit"),
        (lambda shaper: shaper.limit_default("1mbit", burst="much"), "much"),
        (lambda shaper: shaper.limit_default("1mbit", borrows=True), "limit_link first"),
        (lambda shaper: shaper.rule(7, ports=(1,)), "no class 7"),
        (lambda shaper: shaper.rule(0, ports=(65536,)), "65536"),
        (lambda shaper: shaper.rule(0, dscp=(64,)), "64"),
        (lambda shaper: shaper.add("a", "1mbit", priority=8), "8"),
        (lambda shaper: (shaper.limit_link("1mbit"), shaper.add("a", "2mbit")), "promised"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_cannot_be_is_refused(call: Any, said: str) -> None:
    """ValueError says what."""
    with loaded() as (_, shaper), pytest.raises(ValueError, match=said):
        call(shaper)


# ---- Real traffic ----


@contextmanager
def shaped(net: Any, bpf: Any, half: str, **knobs: Any) -> Iterator[Any]:
    """The client's egress, or the server's ingress; the client's sockets are paced. Gives the shaper."""
    program = bpf.load("tc_shape_traffic", **knobs)
    at, direction = ("server", Direction.INGRESS) if half == "police" else ("client", Direction.EGRESS)
    with (
        Cgroup() as group,
        program.programs["pace"].attach(group),
        program.programs[half].attach(net.interface(f"{at}/eth0"), direction=direction),
        group.entered(),
    ):
        yield shape.Shaper(program)


HEADERS = {("tcp", 4): 66, ("tcp", 6): 86, ("udp", 4): 42, ("udp", 6): 62}
TRIES = 3
"""A busy machine may not offer what it should for a second."""


@pytest.mark.parametrize(
    ("rate", "protocol"), [("1mbit", "udp"), *itertools.product(("10mbit", "100mbit", "1gbit"), ("tcp", "udp"))]
)
@families
def test_the_rate_is_reached_within_five_percent(net: Any, bpf: Any, rate: str, protocol: str, ip: int) -> None:
    """As iperf3 measures it, with the headers of its packets; UDP offers a tenth more."""
    with shaped(net, bpf, "shape_by_drop") as shaper:
        shaper.limit_default(rate)
        for _ in range(TRIES):
            reached = on_the_wire(net, shaper, protocol, ip)
            if 0.95 <= reached <= 1.05:
                break
        assert 0.95 <= reached <= 1.05
        if protocol == "udp":
            assert shaper.count(0).dropped > 0


def on_the_wire(net: Any, shaper: Any, protocol: str, ip: int) -> float:
    """What came to iperf3 in a second, as a part of the rate: what it read, and what its socket had no room for."""
    rate = shaper.classes[0].bits_per_second
    if protocol == "tcp":
        result = net.iperf3("client", "server", ip=ip)
        return float(result.bits_per_second * 1514 / (1514 - HEADERS["tcp", ip]) / rate)
    shaper.empty(0)
    before = no_room(net, ip)
    result = net.iperf3("client", "server", protocol="udp", ip=ip, bits_per_second=rate * 1.1)
    size = result.raw["start"]["test_start"]["blksize"]
    came = result.packets - result.lost + no_room(net, ip) - before
    return float(came * (size + HEADERS["udp", ip]) * 8 / result.seconds / rate)


def no_room(net: Any, ip: int) -> int:
    """Datagrams for which the sockets of the server had no room: its process did not get the CPU in time."""
    text = net["server"].run(Path("/proc/thread-self/net/snmp6" if ip == 6 else "/proc/thread-self/net/snmp").read_text)
    if ip == 6:
        return int(dict(line.split() for line in text.splitlines())["Udp6RcvbufErrors"])
    names, numbers = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(dict(zip(names, numbers, strict=True))["RcvbufErrors"])


@families
@pytest.mark.parametrize("half", ["shape_by_drop", "police"])
@pytest.mark.parametrize("rates", [(8, 8), (12, 4)], ids=str)
def test_two_classes_have_their_shares(net: Any, bpf: Any, half: str, rates: tuple[int, int], ip: int) -> None:
    """Both want three times as much at the same time; each gets its own rate within 5 %, whatever the other does."""
    with shaped(net, bpf, half) as shaper:
        for port, rate in zip((9000, 9001), rates, strict=True):
            number = shaper.add(f"class {port}", f"{rate}mbit", burst="8kb")
            shaper.rule(number, ports=(port,))
        streams = [
            Stream.udp(
                "client", "server", dst_port=port, src_port=port, count=3000, rate_pps=6000, frame_bytes=1000, ip=ip
            )
            for port in (9000, 9001)
        ]
        deliveries = net.send_all(streams)
    for delivery, rate in zip(deliveries, rates, strict=True):
        assert delivery.received < delivery.offered == 3000
        earned, burst = rate * 1e6 / 8 * delivery.duration_s, 8 * 1024
        assert earned * 0.95 <= delivery.received * 1000 <= (earned + burst) * 1.05


@families
def test_no_more_than_a_burst_at_once(net: Any, bpf: Any, ip: int) -> None:
    """In every stretch of time there pass at most the burst and what the rate gives, by the frames' own timestamps."""
    size, burst, rate = 500, 20_000, 8_000_000
    with shaped(net, bpf, "shape_by_drop") as shaper, net.capture("server/eth0") as capture:
        shaper.limit_default(rate, burst=burst)
        net.send(Stream.udp("client", "server", dst_port=9000, count=2000, rate_pps=20_000, frame_bytes=size, ip=ip))
    stamps = sorted(each.time_ns for each in capture.frames if not each.outgoing)
    assert burst // size <= len(stamps) < 2000
    assert most_beyond(stamps, size, rate) <= burst + 2 * size


def most_beyond(stamps: list[int], size: int, rate: int) -> float:
    """The most bytes in any stretch of time, what the rate gives in it subtracted; a stamp may be 0.2 ms late."""
    worst = least = 0.0
    for number, stamp in enumerate(stamps):
        earned = (stamp - stamps[0]) * rate / 8 / SECOND
        least = min(least, number * size - earned)
        worst = max(worst, (number + 1) * size - earned - least)
    return worst - 0.0002 * rate / 8


def test_a_rate_changes_while_traffic_flows(net: Any, bpf: Any) -> None:
    """TCP of 10 Mbit/s has 50 from one packet to the next; its sockets hear of it with the next RTT sample."""
    with shaped(net, bpf, "shape_by_drop") as shaper:
        shaper.limit_default("10mbit")
        slow = on_the_wire(net, shaper, "tcp", 4) * 10
        shaper.change(0, "50mbit")
        fast = on_the_wire(net, shaper, "tcp", 4) * 50
    assert 9 < slow < 11 and 45 < fast < 55


@pytest.mark.needs("fq")
@pytest.mark.parametrize("rate", ["10mbit", "100mbit"])
@families
def test_fq_holds_packets_until_they_depart(net: Any, bpf: Any, rate: str, ip: int) -> None:
    """By departure times TCP is shaped without a drop, and without help from its sockets."""
    add_fq(net)
    program = bpf.load("tc_shape_traffic")
    shaper = shape.Shaper(program)
    shaper.limit_default(rate)
    interface = net.interface("client/eth0")
    assert net["client"].run(shape.has_fq, interface.ifindex)
    with program.programs["shape_by_delay"].attach(interface, direction=Direction.EGRESS):
        reached = [on_the_wire(net, shaper, "tcp", ip) for _ in range(TRIES)]
    assert any(0.95 <= each <= 1.05 for each in reached)
    assert shaper.count(0).delayed > 0


def add_fq(net: Any) -> None:
    from pyroute2 import IPRoute

    def replace() -> None:
        with IPRoute() as route:
            route.tc("replace", "fq", net.interface("client/eth0").ifindex, handle="1:")

    net["client"].run(replace)


# ---- As a person runs it ----


def test_delay_is_refused_where_nothing_delays(net: Any, bpf: Any) -> None:
    """A departure time on an interface without fq would be no more than a number."""
    program = bpf.load("tc_shape_traffic")
    with placed(net) as place, pytest.raises(LabError, match="not fq"):
        list(shape.attach(program, place, how="delay", rate="1mbit"))


@contextmanager
def placed(net: Any) -> Iterator[Any]:
    """The client's interface, as the command line names it."""
    from lab.host import open_place

    with net["client"].enter(), Cgroup() as group, open_place(["eth0"], cgroup=str(group.path)) as place:
        yield place


@families
def test_rules_in_words(net: Any, bpf: Any, ip: int) -> None:
    """Rates and classes of the command line do what they say, and the view shows them."""
    program = bpf.load("tc_shape_traffic")
    with placed(net) as place:
        rules = ("bulk: 4mbit port=9000 burst=8kb", "voice: 1mbit dscp=46 priority=1 borrow")
        made = list(shape.attach(program, place, how="drop", rate="20mbit", link="50mbit", rule=rules))
        assert [each.program for each in made] == ["shape_by_drop", "pace"]
        view = shape.view(program)
        next(view)
        net.send(Stream.udp("client", "server", dst_port=9000, count=500, rate_pps=5000, frame_bytes=1000, ip=ip))
        rows = {row["class"]: row for row in next(view).records()}
        for each in made:
            each.detach()
    assert rows["bulk"]["rate bit/s"] == 4_000_000
    assert rows["bulk"]["packets"] + rows["bulk"]["dropped"] == 500
    assert rows["bulk"]["dropped"] > 300
    assert rows["voice"]["packets"] == 0
    assert shape.summary(program).endswith(f"{rows['bulk']['dropped']} dropped")


@pytest.mark.parametrize(
    "rule", ["bulk", "bulk: fast port=1", "bulk: 1mbit 2mbit", "bulk: 1mbit port=nfs", "bulk: 1mbit colour=red"]
)
def test_rules_that_are_none_are_refused(net: Any, bpf: Any, rule: str) -> None:
    """The sentence shows what one looks like."""
    program = bpf.load("tc_shape_traffic")
    with placed(net) as place, pytest.raises(LabError, match="--rule"):
        list(shape.attach(program, place, how="drop", rule=(rule,)))
