"""tc_shape_traffic holds each class to its rate: exactly by the token, and within 5 % as iperf3 measures it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from lab import Action, Direction, Network, Stream, Topology, wait_until
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
    """Of a burst of 350 bytes three packets of 100 pass; with 20 bytes more one of 70 does, and not one of 75."""
    with loaded(coarse_clock=coarse) as (programs, shaper):
        shaper.limit_default(BYTE_A_SECOND, burst=350)
        verdicts = [programs[half].run(packet(ip)).action for _ in range(5)]
        assert verdicts == [PASS, PASS, PASS, SHOT, SHOT]
        count = shaper.count(0)
        assert (count.packets, count.bytes, count.dropped, count.dropped_bytes) == (3, 300, 2, 200)
        shaper.change(0, BYTE_A_SECOND, burst=370)
        assert programs[half].run(packet(ip, size=75)).action is SHOT  # five seconds are earned meanwhile at most
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
    shaper.program.maps["buckets"][number] = {"full_ns": full_ns}


def test_tokens_come_with_time_and_not_beyond_the_burst() -> None:
    """A bucket that was full long ago holds a burst, not more."""
    with loaded() as (programs, shaper):
        shaper.limit_default(BYTE_A_SECOND, burst=250)
        shaper.program.maps["buckets"][0] = {"full_ns": 1}
        assert [programs["shape_by_drop"].run(packet()).action for _ in range(3)] == [PASS, PASS, SHOT]


def test_a_frame_longer_than_the_burst_needs_a_full_bucket() -> None:
    """It passes and leaves a debt: what comes next, however short, waits until that is paid."""
    with loaded() as (programs, shaper):
        half = programs["shape_by_drop"]
        shaper.limit_default(BYTE_A_SECOND, burst=90)
        assert [half.run(packet(size=size)).action for size in (1000, 60)] == [PASS, SHOT]
        debt_s = (shaper.program.maps["buckets"][0].full_ns - time.monotonic_ns()) / SECOND
        assert 990 < debt_s <= 1000
        set_tokens(shaper, 89, burst=90)
        assert half.run(packet()).action is SHOT
        set_tokens(shaper, 91, burst=90)
        assert half.run(packet()).action is PASS


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
        shaper.empty(0)
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
        number = shaper.add("class", BYTE_A_SECOND, burst=100, borrows=True, priority=priority)
        shaper.rule(number, ports=(1,))
        shaper.empty(number)
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


@pytest.mark.blind("the companion refuses it: the program is not asked")
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


@dataclass
class Shaped:
    """A network whose traffic is shaped, and whoever sends and receives it."""

    net: Any
    shaper: Any
    group: Cgroup

    def waited_s(self) -> float:
        """How long processes of the group have stood in a queue for a CPU; 0 where the kernel does not count it."""
        try:
            some = (self.group.path / "cpu.pressure").read_text().splitlines()[0]
        except OSError:
            return 0.0
        return int(some.rpartition("total=")[2]) / 1e6


@contextmanager
def shaped(net: Any, bpf: Any, half: str, **knobs: Any) -> Iterator[Shaped]:
    """The client's egress, or the server's ingress; the sockets of both are paced."""
    program = bpf.load("tc_shape_traffic", **knobs)
    at, direction = ("server", Direction.INGRESS) if half == "police" else ("client", Direction.EGRESS)
    with (
        Cgroup() as group,
        program.programs["pace"].attach(group),
        program.programs[half].attach(net.interface(f"{at}/eth0"), direction=direction),
        group.entered(),
    ):
        yield Shaped(net, shape.Shaper(program), group)


def within_five_percent(path: Shaped, measure: Callable[[], tuple[float, float]]) -> None:
    """`measure` gives what was reached, as a part of what was set, and in how many seconds.

    Where it is more or less than it may be, it counts, unless the processes have waited for a CPU half as long as it
    takes to send the difference (the kernel's own threads wait, too, and are not among them). Then the machine is too
    busy to tell, and it is measured again, TRIES times in all.
    """
    for _ in range(TRIES):
        before = path.waited_s()
        reached, seconds = measure()
        if 0.95 <= reached <= 1.05:
            return
        waited = path.waited_s() - before
        assert 2 * waited > abs(1 - reached) * seconds, f"{reached:.1%} of the rate, and {waited:.3f} s without a CPU"
    pytest.fail(f"{reached:.1%} of the rate in the last of {TRIES} tries, {waited:.3f} s of it without a CPU")


TRIES = 8
HEADERS = {("tcp", 4): 66, ("tcp", 6): 86, ("udp", 4): 42, ("udp", 6): 62}
BOTH = (4, 6)
fast = pytest.mark.needs("own_speed")
AT_ONCE = [
    ("1mbit", [*itertools.product(("tcp", "udp"), BOTH)]),
    *(pytest.param(rate, [*itertools.product(("tcp", "udp"), BOTH)], marks=fast) for rate in ("10mbit", "100mbit")),
    pytest.param("1gbit", [("tcp", 4), ("tcp", 6)], marks=fast),
    pytest.param("1gbit", [("udp", 4)], marks=fast),
    pytest.param("1gbit", [("udp", 6)], marks=fast),
]
JUMBO = Topology.pair("client", "server", mtu_bytes=9000)
"""For 1 Gbit/s of UDP: a sender of 100,000 datagrams a second needs most of a CPU for itself."""


@pytest.mark.parametrize(("rate", "kinds"), AT_ONCE, ids=lambda each: each if isinstance(each, str) else named(each))
def test_the_rate_is_reached_within_five_percent(bpf: Any, rate: str, kinds: list[tuple[str, int]]) -> None:
    """As iperf3 measures it, with the headers of its packets; connections and streams at once have a class each."""
    fast_udp = rate == "1gbit" and kinds[0][0] == "udp"
    with (
        Network(JUMBO if fast_udp else TOPOLOGY) as net,
        shaped(net, bpf, "shape_by_drop") as path,
        ThreadPoolExecutor() as pool,
    ):
        runs = [a_class(path, rate, protocol, ip) for protocol, ip in kinds]
        began_ns = time.monotonic_ns()
        for run in [pool.submit(within_five_percent, path, each.measure) for each in runs]:
            run.result()
        for each in runs:
            count, set_to = path.shaper.count(each.number), path.shaper.classes[each.number]
            earned = set_to.bits_per_second / 8 * (time.monotonic_ns() - began_ns) / SECOND
            assert count.bytes <= earned + set_to.burst_bytes, "no token is spent twice, whatever iperf3 says"
            if each.protocol == "udp":
                assert count.dropped > 0
            else:
                assert count.dropped < count.packets / 100, "sockets pace themselves"


def named(kinds: list[tuple[str, int]]) -> str:
    """For the names of tests."""
    return ",".join(f"{protocol}{ip}" for protocol, ip in kinds)


def a_class(path: Shaped, rate: str, protocol: str, ip: int) -> Iperf3Run:
    """For the port of a run.

    Of 1 Mbit/s the burst that classes have unless told otherwise is what a quarter of a second gives: UDP has a smaller
    one, and TCP, which needs it for its first segments, has spent it before it counts.
    """
    slow = rate == "1mbit"
    number = path.shaper.add(f"{protocol} {ip}", rate, burst="4kb" if slow and protocol == "udp" else "")
    run = Iperf3Run(path, number, protocol, ip, seconds=3 if slow else 1, omitted=int(slow and protocol == "tcp"))
    path.shaper.rule(number, ports=(run.port,))
    return run


@dataclass
class Iperf3Run:
    """How a class is measured; UDP offers a quarter more than its rate."""

    path: Shaped
    number: int
    protocol: str
    ip: int
    seconds: int = 1
    omitted: int = 0

    @property
    def port(self) -> int:
        """Of its own: any number of them run at once."""
        return 5200 + self.number

    def measure(self) -> tuple[float, float]:
        """What came to the server on the wire, as a part of the rate, and in how many seconds."""
        rate = self.path.shaper.classes[self.number].bits_per_second
        options = {
            "protocol": self.protocol,
            "ip": self.ip,
            "seconds": self.seconds,
            "port": self.port,
        }
        if self.protocol == "tcp":
            result = self.path.net.iperf3("client", "server", **options, omitted_seconds=self.omitted)
            return result.bits_per_second * 1514 / (1514 - HEADERS["tcp", self.ip]) / rate, result.seconds
        self.path.shaper.empty(self.number)
        before = self.no_room()
        result = self.path.net.iperf3("client", "server", **options, bits_per_second=rate * 1.25)
        size = result.raw["start"]["test_start"]["blksize"] + HEADERS["udp", self.ip]
        came = result.packets - result.lost + self.no_room() - before
        return came * size * 8 / result.seconds / rate, result.seconds

    def no_room(self) -> int:
        """Datagrams that came, but its socket had no room: the server's process did not get a CPU in time."""
        name = "snmp6" if self.ip == 6 else "snmp"
        text = self.path.net["server"].run(Path(f"/proc/thread-self/net/{name}").read_text)
        if self.ip == 6:
            return int(dict(line.split() for line in text.splitlines())["Udp6RcvbufErrors"])
        names, numbers = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
        return int(dict(zip(names, numbers, strict=True))["RcvbufErrors"])


OFFERED_PPS = {9000: 1500, 9001: 4500}
WATCHED_S = 0.4
MOMENT_NS = 4_000_000
"""What a class may earn in it is 1 % of what it earns while it is watched."""


@fast
@families
@pytest.mark.parametrize("half", ["shape_by_drop", "police"])
@pytest.mark.parametrize("rates", [(4, 4), (6, 2)], ids=str)
def test_two_classes_have_their_shares(net: Any, bpf: Any, half: str, rates: tuple[int, int], ip: int) -> None:
    """One offers three times as much as the other, both more than they may, and each has its own rate within 5 %.

    Between two moments at which a class had no token left, whenever the machine lets these be seen.
    """
    ends: dict[str, Any] = {"src": "client", "dst": "server", "frame_bytes": 1000, "ip": ip}
    streams = [
        Stream.udp(**ends, dst_port=port, src_port=port, count=pps * 30, rate_pps=pps)
        for port, pps in OFFERED_PPS.items()
    ]
    with shaped(net, bpf, half) as path:
        numbers = [
            path.shaper.add(f"port {port}", f"{rate}mbit") for port, rate in zip(OFFERED_PPS, rates, strict=True)
        ]
        for number, port in zip(numbers, OFFERED_PPS, strict=True):
            path.shaper.change(
                number, path.shaper.classes[number].bits_per_second, burst=4_000_000
            )  # no pause spills it
            path.shaper.rule(number, ports=(port,))
            path.shaper.empty(number)
        with net.sending(*streams) as sending:
            began = [out_of_tokens(path.shaper, number) for number in numbers]
            wait_until(
                lambda: time.monotonic_ns() - began[-1].before_ns > WATCHED_S * SECOND, within_s=5, what="traffic"
            )
            ended = [out_of_tokens(path.shaper, number) for number in numbers]
            sending.stop()
        passed = [path.shaper.count(number).packets for number in numbers]
    for first, last, rate in zip(began, ended, rates, strict=True):
        earned = rate * 1e6 / 8 * (last.after_ns - first.after_ns) / SECOND
        assert 0.95 * earned <= last.bytes - first.bytes <= 1.05 * earned
    assert [each.received for each in sending.deliveries] == passed


@dataclass
class Look:
    """What had passed a class at some moment between two others."""

    before_ns: int
    bytes: int
    dropped: int
    after_ns: int


def look(shaper: Any, number: int) -> Look:
    """Now."""
    before_ns = time.monotonic_ns()
    count = shaper.count(number)
    return Look(before_ns, count.bytes, count.dropped, time.monotonic_ns())


def out_of_tokens(shaper: Any, number: int) -> Look:
    """A packet of the class was dropped a moment ago: between two looks that are close to each other."""

    def just_dropped() -> Look | None:
        first = last = look(shaper, number)
        while last.dropped == first.dropped and last.after_ns - first.before_ns < MOMENT_NS:
            last = look(shaper, number)
        return last if last.dropped > first.dropped and last.after_ns - first.before_ns < MOMENT_NS else None

    return wait_until(just_dropped, within_s=20, what="packets over the rate")


@families
def test_no_more_than_a_burst_at_once(net: Any, bpf: Any, ip: int) -> None:
    """In every stretch of time there pass at most the burst and what the rate gives in it."""
    size, burst, rate = 500, 20_000, 8_000_000
    offered = Stream.udp("client", "server", dst_port=9000, count=2000, rate_pps=20_000, frame_bytes=size, ip=ip)
    with shaped(net, bpf, "shape_by_drop") as path:
        path.shaper.limit_default(rate, burst=burst)
        looks = [look(path.shaper, 0)]
        with net.sending(offered) as sending:
            while looks[-1].bytes + looks[-1].dropped * size < 1900 * size:
                looks.append(look(path.shaper, 0))
    assert burst // size <= sending.delivery.received < 2000
    beyond = [
        later.bytes - earlier.bytes - (later.after_ns - earlier.before_ns) * rate / 8 / SECOND
        for earlier, later in itertools.combinations(looks[:: max(1, len(looks) // 300)], 2)
    ]
    assert max(beyond) <= burst


def test_a_rate_changes_while_traffic_flows(net: Any, bpf: Any) -> None:
    """A connection of 10 Mbit/s has 50 from one packet to the next: its socket hears of it with the next RTT sample."""
    with shaped(net, bpf, "shape_by_drop") as path, ThreadPoolExecutor() as pool:
        shaper = path.shaper
        shaper.limit_default("10mbit")
        running = pool.submit(net.iperf3, "client", "server", seconds=2)
        wait_until(lambda: shaper.count(0).bytes > 500_000, within_s=5, what="half a second of 10 Mbit/s")
        began_ns, sent = time.monotonic_ns(), shaper.count(0).bytes
        shaper.change(0, "50mbit")
        running.result()
        sent, took_s = shaper.count(0).bytes - sent, (time.monotonic_ns() - began_ns) / SECOND
    assert 2.5 * 10e6 / 8 * took_s < sent <= 50e6 / 8 * took_s + shaper.classes[0].burst_bytes


@pytest.mark.needs("fq")
@pytest.mark.parametrize("rate", ["10mbit", pytest.param("100mbit", marks=fast)])
@families
def test_fq_holds_packets_until_they_depart(net: Any, bpf: Any, rate: str, ip: int) -> None:
    """By departure times TCP is shaped without a drop, and without help from its sockets."""
    add_fq(net)
    program = bpf.load("tc_shape_traffic")
    shaper = shape.Shaper(program)
    shaper.limit_default(rate)
    interface = net.interface("client/eth0")
    assert net["client"].run(shape.has_fq, interface.ifindex)
    with (
        Cgroup() as group,
        group.entered(),
        program.programs["shape_by_delay"].attach(interface, direction=Direction.EGRESS),
    ):
        path = Shaped(net, shaper, group)
        within_five_percent(path, Iperf3Run(path, 0, "tcp", ip).measure)
    assert shaper.count(0).delayed > 0


def add_fq(net: Any) -> None:
    from pyroute2 import IPRoute

    def replace() -> None:
        with IPRoute() as route:
            route.tc("replace", "fq", net.interface("client/eth0").ifindex, handle="1:")

    net["client"].run(replace)


# ---- As a person runs it ----


@pytest.mark.blind("the companion refuses it: the program is not asked")
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


@pytest.mark.blind("the companion refuses it: the program is not asked")
@pytest.mark.parametrize(
    "rule", ["bulk", "bulk: fast port=1", "bulk: 1mbit 2mbit", "bulk: 1mbit port=nfs", "bulk: 1mbit colour=red"]
)
def test_rules_that_are_none_are_refused(net: Any, bpf: Any, rule: str) -> None:
    """The sentence shows what one looks like."""
    program = bpf.load("tc_shape_traffic")
    with placed(net) as place, pytest.raises(LabError, match="--rule"):
        list(shape.attach(program, place, how="drop", rule=(rule,)))
