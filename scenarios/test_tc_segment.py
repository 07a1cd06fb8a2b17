"""tc_segment lets through what its policy allows, and of that both directions; nothing else, and counts why."""

from __future__ import annotations

import errno
import itertools
import mmap
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from lab import Stream, Topology
from lab.bpf import load
from lab.bpf.companion import companion
from lab.effort import effort
from lab.kernel import bpf as kernel
from lab.traffic import frames
from lab.wait import wait_until

segment = companion("tc_segment")

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False, "gro": False})
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
CLIENT = {4: "10.1.0.5", 6: "2001:db8:1::5"}
SERVER = {4: "10.2.0.9", 6: "2001:db8:2::9"}
OTHER = {4: "10.3.0.7", 6: "2001:db8:3::7"}
PASSED = {"IN_SESSION", "OPENED", "RELATED", "STATELESS", "NEIGHBOUR", "FRAGMENT", "NOT_IP", "UNTRACKED"}

POLICY = """
default: deny
workloads:
  clients: [10.1.0.0/16, "2001:db8:1::/48"]
  servers: [10.2.0.9, "2001:db8:2::9"]
rules:
  - {name: web, action: allow, direction: ingress, from: clients, to: servers, protocol: tcp, ports: [80, 8000-8100]}
  - {name: dns, action: allow, direction: ingress, from: clients, to: servers, protocol: udp, ports: 53}
  - {name: ping, action: allow, direction: ingress, to: servers, protocol: [icmp, icmpv6], types: [8, 128]}
  - {name: tunnel, action: allow, direction: ingress, from: clients, protocol: gre}
  - {name: source-port, action: allow, direction: ingress, from: clients, protocol: udp, source_ports: 123}
  - {name: out, action: allow, direction: egress, from: servers, protocol: udp, ports: 9999}
  - {name: not-this-one, action: deny, from: [10.1.66.0/24], to: servers, priority: 10}
"""


class Bed:
    """A loaded program with a policy, and both its hooks."""

    def __init__(self, policy: str = POLICY, sessions: int = 4096, **knobs: Any) -> None:
        self.program = load("tc_segment", **segment.sized(sessions), **knobs)
        self.segment = segment.Segment(self.program.maps)
        self.apply(policy)

    def apply(self, policy: str) -> None:
        self.segment.apply(segment.read(policy))

    def run(self, way: str, frame: Any) -> str:
        """The one outcome that a frame adds to, which must agree with its verdict."""
        before = self.packets()
        action = self.program.programs[f"segment_{way}"].run(frame).action
        (found,) = (key for key, count in self.packets().items() if count != before[key])
        assert found[1] == way and self.packets()[found] == before[found] + 1
        assert action.name == ("TC_ACT_UNSPEC" if found[0] in PASSED else "TC_ACT_SHOT"), found
        return found[0]

    def packets(self) -> dict[tuple[str, str], int]:
        counts = self.segment.outcomes().items()
        return {key: each.packets for key, each in counts if key[0] not in segment.NOT_PACKETS}

    def count(self, outcome: str) -> int:
        """In both directions."""
        return sum(self.segment.outcomes()[outcome, way].packets for way in segment.DIRECTIONS)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """Shared by tests that use ports of their own."""
    made = Bed()
    yield made
    made.program.close()


@pytest.fixture
def own_bed() -> Iterator[Any]:
    """Makes beds that are closed after the test."""
    made: list[Bed] = []

    def make(*arguments: Any, **knobs: Any) -> Bed:
        made.append(Bed(*arguments, **knobs))
        return made[-1]

    yield make
    for each in made:
        each.program.close()


sports = itertools.count(20_000)


def ether(tags: int = 0) -> Any:
    frame: Any = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for vlan in range(tags):
        frame /= Dot1Q(vlan=vlan + 1)
    return frame


def network(ip: int = 4, back: bool = False, **fields: Any) -> Any:
    ends = (SERVER[ip], CLIENT[ip]) if back else (CLIENT[ip], SERVER[ip])
    return (IP if ip == 4 else IPv6)(**{"src": ends[0], "dst": ends[1], **fields})


def udp(ip: int = 4, sport: int = 0, dport: int = 53, **fields: Any) -> Any:
    return ether() / network(ip, **fields) / UDP(sport=sport or next(sports), dport=dport) / b"hello"


def back_udp(ip: int, port: int, sport: int = 53) -> Any:
    return ether() / network(ip, back=True) / UDP(sport=sport, dport=port) / b"hello"


# ---- What a first packet comes to ----


def extended(count: int) -> Any:
    packet = network(6)
    for _ in range(count):
        packet /= IPv6ExtHdrDestOpt()
    return packet


def tcp(flags: Any = "S", ip: int = 4, dport: int = 80, **fields: Any) -> Any:
    return ether() / network(ip, **fields) / TCP(sport=next(sports), dport=dport, flags=flags, seq=1000)


def patched(frame: Any, at: int, value: int) -> bytes:
    whole = bytearray(bytes(frame))
    whole[at] = value
    return bytes(whole)


FIRST = {
    "TCP to an allowed port": ("OPENED", lambda: tcp()),
    "TCP over IPv6": ("OPENED", lambda: tcp(ip=6)),
    "the first port of a range": ("OPENED", lambda: tcp(dport=8000)),
    "the last port of a range": ("OPENED", lambda: tcp(dport=8100)),
    "the port before a range": ("DENIED", lambda: tcp(dport=7999)),
    "the port behind a range": ("DENIED", lambda: tcp(dport=8101)),
    "UDP to an allowed port": ("OPENED", lambda: udp()),
    "UDP over IPv6": ("OPENED", lambda: udp(6)),
    "UDP to TCP's port": ("DENIED", lambda: udp(dport=80)),
    "a source port": ("OPENED", lambda: udp(sport=123, dport=7)),
    "the source port next to it": ("DENIED", lambda: udp(sport=124, dport=7)),
    "from elsewhere": ("DENIED", lambda: udp(src=OTHER[4])),
    "from elsewhere over IPv6": ("DENIED", lambda: udp(6, src=OTHER[6])),
    "to another server": ("DENIED", lambda: udp(dst="10.2.0.10")),
    "denied by a rule of higher priority": ("DENIED", lambda: udp(src="10.1.66.1")),
    "the address next to that": ("OPENED", lambda: udp(src="10.1.67.1")),
    "an IPv4 address in IPv6's clothes": ("DENIED", lambda: udp(6, src="::10.1.0.5")),
    "IPv4 with options": ("OPENED", lambda: ether() / network(options=[IPOption(b"\x94\x04\0\0")]) / UDP(dport=53)),
    "a hop-by-hop header": ("OPENED", lambda: ether() / network(6) / IPv6ExtHdrHopByHop() / UDP(sport=11, dport=53)),
    "six extension headers": ("OPENED", lambda: ether() / extended(6) / UDP(sport=12, dport=53)),
    "seven extension headers": ("TOO_DEEP", lambda: ether() / extended(7) / UDP(dport=53)),
    "extension headers hide no denied port": ("DENIED", lambda: ether() / extended(2) / UDP(dport=54)),
    "two VLAN tags": ("OPENED", lambda: ether(2) / network() / UDP(sport=next(sports), dport=53)),
    "two VLAN tags hide nothing": ("DENIED", lambda: ether(2) / network() / UDP(dport=54)),
    "three VLAN tags": ("TOO_DEEP", lambda: ether(3) / network() / UDP(dport=53)),
    "another protocol": ("OPENED", lambda: ether() / network(proto=47) / Raw(bytes(8))),
    "a protocol that no rule names": ("DENIED", lambda: ether() / network(proto=50) / Raw(bytes(16))),
    "ARP": ("NOT_IP", lambda: ether() / ARP()),
    "neighbour discovery": ("NEIGHBOUR", lambda: ether() / IPv6(dst="ff02::1", hlim=255) / ICMPv6ND_NS()),
    "neighbour discovery from beyond a router": (
        "DENIED",
        lambda: ether() / IPv6(dst="ff02::1", hlim=254) / ICMPv6ND_NS(),
    ),
    "an ICMP type that no rule names": ("DENIED", lambda: ether() / network() / ICMP(type=13)),
    "an echo reply of no request": ("UNSOLICITED", lambda: ether() / network() / ICMP(type=0, id=77)),
    "an echo reply of no request, IPv6": ("UNSOLICITED", lambda: ether() / network(6) / ICMPv6EchoReply(id=77)),
    "a segment of no connection": ("UNSOLICITED", lambda: tcp("A")),
    "a SYN+ACK of no connection": ("UNSOLICITED", lambda: tcp("SA")),
    "a reset of no connection": ("UNSOLICITED", lambda: tcp("R")),
    "no flag": ("BAD_FLAGS", lambda: tcp(0)),
    "SYN and FIN": ("BAD_FLAGS", lambda: tcp("SF")),
    "SYN and RST": ("BAD_FLAGS", lambda: tcp("SR")),
    "a later fragment of nothing": (
        "STRAY_FRAGMENT",
        lambda: ether() / network(frag=8, proto=17, id=4242) / Raw(bytes(64)),
    ),
    "an IPv4 header cut short": ("MALFORMED", lambda: bytes(ether(1) / network() / UDP())[:37]),
    "an IPv6 header cut short": ("MALFORMED", lambda: bytes(ether(1) / network(6) / UDP())[:57]),
    "a VLAN tag cut short": ("MALFORMED", lambda: bytes(ether(1) / network())[:16]),
    "IPv4 header length 4": ("MALFORMED", lambda: patched(udp(), 14, 0x44)),
    "a UDP length beyond the packet": ("MALFORMED", lambda: patched(udp(), 39, 200)),
    "a TCP header cut short": ("MALFORMED", lambda: ether() / network(proto=6) / Raw(bytes(19))),
    "a TCP data offset beyond the packet": ("MALFORMED", lambda: patched(tcp(), 46, 0xF0)),
    "an ICMP header cut short": ("MALFORMED", lambda: ether() / network(proto=1) / Raw(b"\x08\0\0\0")),
}


@pytest.mark.parametrize(("outcome", "make"), FIRST.values(), ids=FIRST.keys())
def test_a_first_packet_has_one_outcome(bed: Bed, outcome: str, make: Any) -> None:
    """Of each kind of frame: the verdict, and the one counter that says why."""
    assert bed.run("ingress", make()) == outcome


@families
def test_a_rule_holds_for_its_direction(bed: Bed, ip: int) -> None:
    """What may come in may not go out, and the other way round."""
    assert bed.run("egress", udp(ip)) == "DENIED"
    going = ether() / network(ip, back=True) / UDP(sport=next(sports), dport=9999)
    assert [bed.run(way, going) for way in ("ingress", "egress")] == ["DENIED", "OPENED"]


# ---- Sessions ----


@families
def test_replies_pass_and_only_replies(bed: Bed, ip: int) -> None:
    """The answer of the server asked passes; of another port, to another port, from another server, it does not."""
    port = next(sports)
    assert bed.run("egress", back_udp(ip, port)) == "DENIED"
    assert bed.run("ingress", udp(ip, port)) == "OPENED"
    assert bed.run("egress", back_udp(ip, port)) == "IN_SESSION"
    assert bed.run("egress", back_udp(ip, port, sport=54)) == "DENIED"
    assert bed.run("egress", back_udp(ip, port + 10_000)) == "DENIED"
    elsewhere = back_udp(ip, port)
    elsewhere[1].src = OTHER[ip]
    assert bed.run("egress", elsewhere) == "DENIED"
    assert bed.run("ingress", udp(ip, port)) == "IN_SESSION"


@families
def test_an_answer_that_comes_in_is_none(bed: Bed, ip: int) -> None:
    """Of a session that came in, packets of the server that come in as well are forged."""
    port = next(sports)
    bed.run("ingress", udp(ip, port))
    assert bed.run("ingress", back_udp(ip, port)) == "UNSOLICITED"
    assert bed.run("egress", udp(ip, port)) == "DENIED", "nor does the interface let it out on the other side"


def echo(ip: int, number: int, *, reply: bool = False, back: bool = False) -> Any:
    if ip == 4:
        return ether() / network(4, back=back) / ICMP(type=0 if reply else 8, id=number)
    return ether() / network(6, back=back) / (ICMPv6EchoReply if reply else ICMPv6EchoRequest)(id=number)


@families
@pytest.mark.parametrize("number", (7, 0))
def test_an_echo_reply_needs_its_request(bed: Bed, ip: int, number: int) -> None:
    """Of the same id and the same way; who was asked may not ask."""
    number += 100 * ip if number else 0
    assert bed.run("egress", echo(ip, number, reply=True, back=True)) == "UNSOLICITED"
    assert bed.run("ingress", echo(ip, number)) == "OPENED"
    assert bed.run("egress", echo(ip, number, reply=True, back=True)) == "IN_SESSION"
    assert bed.run("egress", echo(ip, number + 1, reply=True, back=True)) == "UNSOLICITED"
    assert bed.run("egress", echo(ip, number, back=True)) == "DENIED"
    assert bed.run("ingress", echo(ip, number, reply=True)) == "UNSOLICITED"


def problem(ip: int, quoted: Any, source: str = "", dest: str = "") -> Any:
    """Port unreachable, from the server or a router, about a packet."""
    inner = bytes(quoted[1])[: 28 if ip == 4 else 48]
    outer = (IP if ip == 4 else IPv6)(src=source or SERVER[ip], dst=dest or CLIENT[ip])
    return ether() / outer / ((ICMP(type=3, code=3) if ip == 4 else ICMPv6DestUnreach(code=4)) / Raw(inner))


@families
def test_an_icmp_error_belongs_to_the_session_that_it_quotes(bed: Bed, ip: int) -> None:
    """It passes towards who sent the quoted packet, whoever reports it; not to others."""
    port = next(sports)
    asked = udp(ip, port)
    assert bed.run("egress", problem(ip, asked)) == "UNSOLICITED"
    bed.run("ingress", asked)
    assert bed.run("egress", problem(ip, asked)) == "RELATED"
    assert bed.run("egress", problem(ip, asked, source=OTHER[ip])) == "RELATED"
    assert bed.run("egress", problem(ip, asked, dest=OTHER[ip])) == "UNSOLICITED"
    assert bed.run("ingress", problem(ip, asked)) == "UNSOLICITED", "it does not come in where the client is"
    assert bed.run("egress", problem(ip, udp(ip, port, dport=54))) == "UNSOLICITED"


def test_an_icmp_error_of_tcp_quotes_a_number_of_the_connection(bed: Bed) -> None:
    """Who never saw the connection does not know it (RFC 5927)."""
    call = Call(bed)
    call.opens()
    near, far = call.frame("c", "A"), call.frame("c", "A", seq=call.next["c"] + 2**30)
    assert bed.run("egress", problem(4, near)) == "RELATED"
    assert bed.run("egress", problem(4, far)) == "INVALID"


# ---- TCP ----


class Call:
    """A connection from c, the client, to s, told segment by segment."""

    def __init__(self, bed: Bed, ip: int = 4) -> None:
        self.bed, self.ip, self.port = bed, ip, next(sports)
        self.next = {"c": 1000, "s": 0xFFFF_FF00}

    def frame(self, side: str, flags: str, payload: int = 0, **fields: Any) -> Any:
        ports = (self.port, 80) if side == "c" else (80, self.port)
        numbers = {"seq": self.next[side], "ack": self.next["s" if side == "c" else "c"] if "A" in flags else 0}
        segment_ = TCP(sport=ports[0], dport=ports[1], flags=flags, **{**numbers, **fields})
        segment_.seq %= 2**32
        return ether() / network(self.ip, back=side == "s") / segment_ / bytes(payload)

    def says(self, side: str, flags: str, payload: int = 0, **fields: Any) -> str:
        frame = self.frame(side, flags, payload, **fields)
        if not fields:
            self.next[side] = (self.next[side] + payload + ("S" in flags) + ("F" in flags)) % 2**32
        return self.bed.run("ingress" if side == "c" else "egress", frame)

    def opens(self) -> None:
        assert self.says("c", "S") == "OPENED"
        assert self.says("s", "SA") == "IN_SESSION"
        assert self.says("c", "A") == "IN_SESSION"

    @property
    def state(self) -> str:
        (found,) = (each for each in self.bed.segment.sessions() if each.source_port == self.port)
        return str(found.state)


@families
def test_a_connection_goes_through_its_states(bed: Bed, ip: int) -> None:
    """SYN, SYN+ACK, ACK, data, FIN, FIN: each passes, and leads on; the numbers wrap."""
    call = Call(bed, ip)
    told = []
    for side, flags, payload in (
        ("c", "S", 0),
        ("s", "SA", 0),
        ("c", "A", 0),
        ("s", "A", 700),
        ("c", "FA", 0),
        ("s", "A", 0),
        ("s", "FA", 0),
        ("c", "A", 0),
    ):
        assert call.says(side, flags, payload) in PASSED
        told.append(call.state)
    before = ["SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "ESTABLISHED"]
    assert told == [*before, "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"]


def test_before_the_handshake_nothing_else_passes(bed: Bed) -> None:
    """Data of either side, an answer to another SYN, a reset from nowhere; a SYN sent again does."""
    call = Call(bed)
    assert call.says("c", "S") == "OPENED"
    assert call.says("c", "A", ack=5) == "INVALID"
    assert call.says("s", "A", ack=call.next["c"]) == "INVALID"
    assert call.says("s", "SA", ack=call.next["c"] + 1) == "INVALID"
    assert call.says("s", "RA", ack=call.next["c"] + 2**24) == "INVALID"
    assert call.says("c", "S", seq=1000) == "IN_SESSION"
    assert call.state == "SYN_SENT"
    assert call.says("s", "RA") == "IN_SESSION"
    assert call.state == "RESET"


def test_a_reset_counts_only_near_the_connection(bed: Bed) -> None:
    """Far from its numbers it is dropped, and the connection goes on."""
    call = Call(bed)
    call.opens()
    assert call.says("s", "R", seq=call.next["s"] + 2**22) == "INVALID"
    assert call.state == "ESTABLISHED"
    assert call.says("s", "R") == "IN_SESSION"
    assert call.state == "RESET"


def test_a_port_may_be_used_again(bed: Bed) -> None:
    """After a reset a SYN opens a session anew, by the rules."""
    call = Call(bed)
    call.opens()
    call.says("c", "R")
    call.next["c"] = 5_000_000
    assert call.says("c", "S") == "OPENED"
    assert call.state == "SYN_SENT"


def test_a_connection_from_before_may_be_adopted(own_bed: Any) -> None:
    """With adopt=1, and if a rule allows its next packet; without, it is nobody's."""
    made = own_bed(adopt=1)
    assert Call(made).says("c", "A", 10) == "OPENED"
    assert made.run("ingress", tcp("A", dport=81)) == "DENIED"
    assert made.run("ingress", tcp("R")) == "UNSOLICITED"
    assert own_bed().run("ingress", tcp("A")) == "UNSOLICITED"


# ---- Time ----

QUICK = POLICY + "timeouts: {one_way: 1ms, two_way: 1h, opening: 1ms, established: 1h, time_wait: 100ms, icmp: 1ms}\n"


def test_each_state_has_a_time_of_its_own(own_bed: Any) -> None:
    """An unanswered datagram, a half-open connection and an echo request end; what was answered, and is open, stays."""
    made = own_bed()
    lone, answered, half, whole = next(sports), next(sports), Call(made), Call(made)
    for frame in (udp(4, lone), udp(4, answered), echo(4, 900)):
        assert made.run("ingress", frame) == "OPENED"
    assert made.run("egress", back_udp(4, answered)) == "IN_SESSION"
    half.says("c", "S")
    whole.opens()
    assert made.segment.count_sessions() == 5
    made.apply(QUICK)
    wait_until(lambda: made.segment.count_sessions() == 2, within_s=2, what="three sessions over")
    assert made.run("egress", back_udp(4, lone)) == "DENIED"
    assert made.run("egress", echo(4, 900, reply=True, back=True)) == "UNSOLICITED"
    assert half.says("s", "SA") == "UNSOLICITED"
    assert made.run("egress", back_udp(4, answered)) == "IN_SESSION"
    assert whole.says("s", "A", 10) == "IN_SESSION"


def test_what_still_comes_does_not_prolong_time_wait(own_bed: Any) -> None:
    """A closed connection ends in its time, however many late segments there are."""
    made = own_bed()
    call = Call(made)
    call.opens()
    for side, flags in (("c", "FA"), ("s", "FA"), ("c", "A")):
        assert call.says(side, flags) == "IN_SESSION"
    made.apply(QUICK)
    wait_until(lambda: call.says("c", "A") == "UNSOLICITED", within_s=2, what="TIME_WAIT over, under fire")


@pytest.mark.parametrize("days", (1, 24, 26, 49))
def test_what_was_silent_for_weeks_is_over(own_bed: Any, days: int) -> None:
    """However long: a session's time has 32 bits of milliseconds, which are 49.7 days."""
    made, port = own_bed(), next(sports)
    made.run("ingress", udp(4, port))
    assert made.run("egress", back_udp(4, port)) == "IN_SESSION"
    with made.segment.memory(mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        sessions = segment.sessions_in(memory)
        sessions["heard_ms"][sessions["let_through"] != 0] -= numpy.uint32(days * 86_400_000)
        del sessions
    assert made.segment.count_sessions() == 0
    assert made.run("egress", back_udp(4, port)) == "DENIED"


# ---- Pressure ----


def fill(made: Bed) -> list[int]:
    """Eight sessions: as many as there is room for."""
    ports = [next(sports) for _ in range(8)]
    assert {made.run("ingress", udp(4, port)) for port in ports} == {"OPENED"}
    return ports


@pytest.mark.parametrize(("full", "outcome"), (("closed", "NO_ROOM"), ("open", "UNTRACKED"), ("evict", "OPENED")))
def test_a_full_table_does_what_the_policy_says(own_bed: Any, full: str, outcome: str) -> None:
    """The ninth session of eight: dropped, passed without one, or in the place of another; each is counted."""
    made = own_bed(POLICY + f"full: {full}\n", sessions=1)
    fill(made)
    assert made.run("ingress", udp(4)) == outcome
    assert made.segment.count_sessions() == 8
    assert made.count("EVICTED") == (full == "evict")


def test_who_was_answered_stays(own_bed: Any) -> None:
    """Evicted is who never was: a flood of unanswered ones does not push out a connection."""
    made = own_bed(POLICY, sessions=1)
    kept = fill(made)[3]
    assert made.run("egress", back_udp(4, kept)) == "IN_SESSION"
    for _ in range(50):
        assert made.run("ingress", udp(4)) == "OPENED"
    assert made.count("EVICTED") == 50
    assert made.run("ingress", udp(4, kept)) == "IN_SESSION"


def test_who_was_heard_of_by_a_clock_ahead_stays(own_bed: Any) -> None:
    """Another CPU's tick may be later than this one's: the session is the latest, not the oldest."""
    made = own_bed(POLICY + "full: evict\n", sessions=1)
    ports = fill(made)
    with made.segment.memory(mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        sessions = segment.sessions_in(memory)
        sessions["heard_ms"][sessions["lower_port"] == ports[3]] += numpy.uint32(1000)
        del sessions
    assert made.run("ingress", udp(4, next(sports))) == "OPENED"
    assert made.count("EVICTED") == 1
    assert made.run("egress", back_udp(4, ports[3])) == "IN_SESSION"


def test_what_is_over_makes_room(own_bed: Any) -> None:
    """Nobody is evicted for it, and nothing is dropped."""
    made = own_bed(POLICY + "full: closed\n", sessions=1)
    fill(made)
    assert made.run("ingress", udp(4, next(sports))) == "NO_ROOM"
    made.apply(QUICK + "full: closed\n")
    wait_until(lambda: made.segment.count_sessions() == 0, within_s=2, what="all sessions over")
    fill(made)
    assert made.count("EVICTED") == 0


def test_as_many_sessions_as_promised(own_bed: Any) -> None:
    """Room for 9,800 is room for 9,800: none finds its places taken."""
    made = own_bed(POLICY + "full: closed\n", sessions=9_800)
    frame = bytes(udp(4, 1, src="10.1.0.0"))
    host = 28  # in the frame: the last two bytes of the source address
    frames = [frame[:host] + number.to_bytes(2, "big") + frame[host + 2 :] for number in range(9_800)]
    made.program.programs["segment_ingress"].run_many(frames)
    assert made.segment.count_sessions() == 9_800
    assert made.count("NO_ROOM") == 0


MILLION = 1_000_000


@pytest.mark.needs("own_speed")
def test_a_million_sessions_at_once(net: Any, own_bed: Any) -> None:
    """Each of a million flows has its session, in 110 bytes each; who sends again is in it."""
    made = own_bed(LIVE + "full: closed\n", sessions=MILLION)
    frame = frames.udp(net, "client", "server", dst_port=9000, payload=bytes(22))
    with made.program.programs["segment_ingress"].attach(net.interface("server/eth0")):
        for _ in range(5):  # a busy machine may lose some on the way
            net.flood("client/eth0", frame, flows=MILLION, count=MILLION)
            if made.count("OPENED") == MILLION:
                break
        assert made.segment.count_sessions() == made.count("OPENED") == MILLION
        before = made.count("IN_SESSION")
        again = net.flood("client/eth0", frame, flows=MILLION, count=100_000)
        assert made.count("IN_SESSION") - before == again.received > 0
    assert made.count("NO_ROOM") == made.count("EVICTED") == 0
    assert sum(memory_bytes(made.program.maps[name]) for name in ("session_map", "tag_map")) < 115 * MILLION


def memory_bytes(table: Any) -> int:
    """What the kernel has taken for it."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{table.fd}").read_text().splitlines())
    return int(told["memlock"])


# ---- Fragments ----


@families
def test_later_fragments_follow_their_first(bed: Bed, ip: int) -> None:
    """Of the same datagram, and the same way; not before it, and not of a denied one."""

    def parts(number: int, dport: int) -> tuple[Any, Any]:
        start, rest = UDP(sport=next(sports), dport=dport, len=200) / bytes(64), Raw(bytes(120))
        if ip == 4:
            return ether() / network(flags="MF", id=number) / start, ether() / network(
                frag=9, id=number, proto=17
            ) / rest
        first = network(6) / IPv6ExtHdrFragment(m=1, id=number) / start
        return ether() / first, ether() / network(6) / IPv6ExtHdrFragment(nh=17, offset=9, id=number) / rest

    first, later = parts(1, 53)
    assert bed.run("ingress", later) == "STRAY_FRAGMENT"
    assert bed.run("ingress", first) == "OPENED"
    assert bed.run("ingress", later) == "FRAGMENT"
    assert bed.run("egress", later) == "STRAY_FRAGMENT"
    assert bed.run("ingress", parts(2, 53)[1]) == "STRAY_FRAGMENT"
    first, later = parts(3, 54)
    assert [bed.run("ingress", each) for each in (first, later)] == ["DENIED", "STRAY_FRAGMENT"]


# ---- A router's two interfaces ----


@families
def test_a_router_asks_the_rules_of_either_direction(own_bed: Any, ip: int) -> None:
    """Let in by one interface is not let out by the next, unless a rule of that direction says so."""
    made = own_bed(POLICY)
    port = next(sports)
    assert [made.run(way, udp(ip, port)) for way in ("ingress", "egress")] == ["OPENED", "DENIED"]
    made.apply(POLICY + "  - {name: onward, action: allow, direction: egress, to: servers, protocol: udp, ports: 53}\n")
    port = next(sports)
    assert [made.run(way, udp(ip, port)) for way in ("ingress", "egress")] == ["OPENED", "OPENED"]
    assert [made.run(way, back_udp(ip, port)) for way in ("ingress", "egress")] == ["IN_SESSION"] * 2
    (session,) = (each for each in made.segment.sessions() if each.source_port == port)
    assert session.rules == ("dns", "onward")


# ---- Policies ----


def test_nothing_passes_before_the_first_policy() -> None:
    """A program without one denies."""
    with load("tc_segment") as program:
        assert program.programs["segment_ingress"].run(udp()).action.name == "TC_ACT_SHOT"
        assert segment.Segment(program.maps).outcomes()["DENIED", "ingress"].packets == 1


STOPPED = POLICY.replace("ports: 53}", "ports: 5353}")


def test_a_running_session_that_a_new_policy_denies_ends(own_bed: Any) -> None:
    """With `recheck` at its next packet, whoever sends it; what the policy still allows goes on."""
    made = own_bed()
    port, call = next(sports), Call(made)
    made.run("ingress", udp(4, port))
    call.opens()
    made.apply(STOPPED)
    assert made.run("egress", back_udp(4, port)) == "REVOKED"
    assert made.run("ingress", udp(4, port)) == "DENIED"
    assert call.says("s", "A", 100) == "IN_SESSION"
    made.apply(POLICY)
    assert made.run("ingress", udp(4, port)) == "OPENED"


def test_a_running_session_may_be_kept(own_bed: Any) -> None:
    """With `keep` it goes on until it ends, and new ones are denied."""
    made = own_bed()
    port = next(sports)
    made.run("ingress", udp(4, port))
    made.apply(STOPPED + "running: keep\n")
    assert [made.run("egress", back_udp(4, port)), made.run("ingress", udp(4, port))] == ["IN_SESSION"] * 2
    assert made.run("ingress", udp(4)) == "DENIED"
    made.apply(STOPPED)
    assert made.run("ingress", udp(4, port)) == "REVOKED"


def test_a_generation_is_not_taken_for_an_old_one(own_bed: Any) -> None:
    """Sessions have 16 bits of it: when the numbers begin anew, all are judged again."""
    made = own_bed()
    port = next(sports)
    made.run("ingress", udp(4, port))
    now = made.segment.in_force
    inner = made.program.maps["policy_map"][0]
    fields = {
        name: getattr(now, name) for name in ("half", "words", "text_bytes", "allows", "logs", "rechecks", "full")
    }
    rest = {
        "next_slot": now.next_slot,
        "idle_ms": list(now.idle_ms),
        "icmp_idle_ms": now.icmp_idle_ms,
        "text": now.text,
    }
    inner[0] = {**fields, **rest, "generation": 0xFFFF}
    made.apply(STOPPED)
    assert made.segment.in_force.generation == 0x1_0001
    assert made.run("ingress", udp(4, port)) == "REVOKED"


def test_a_rule_keeps_its_counters(own_bed: Any) -> None:
    """Over a change of others, and of its own; a new one begins at 0, in the place of none that was."""
    made = own_bed()
    made.run("ingress", udp())
    changed = STOPPED.replace("ping", "knock")
    made.apply(changed)
    counts = made.segment.rule_counts()
    assert (counts["dns"].sessions, counts["dns"].packets, counts["knock"].packets) == (1, 1, 0)
    made.run("ingress", udp(dport=5353))
    made.run("ingress", echo(4, 1))
    counts = made.segment.rule_counts()
    assert (counts["dns"].sessions, counts["knock"].sessions, counts["default ingress"].packets) == (2, 1, 0)
    for way, frame in (("egress", udp()), ("ingress", tcp(dport=81)), ("ingress", tcp(dport=82))):
        made.run(way, frame)
    counts = made.segment.rule_counts()
    assert (counts["default ingress"].packets, counts["default egress"].packets) == (2, 1)


def test_nothing_of_a_former_policy_remains(own_bed: Any) -> None:
    """Each half of the tables is used again: what a rule named that is gone decides nothing."""
    made = own_bed("rules:\n  - {name: gone, action: deny, from: 10.1.0.5}\n")
    assert made.run("ingress", udp()) == "DENIED"
    for _ in range(3):
        made.apply(POLICY)
        assert made.run("ingress", udp()) == "OPENED"


def test_rules_that_log_are_told(own_bed: Any) -> None:
    """What a rule with `log` decides, and a rule that only logs on the way to it; and the first in the list decides."""
    made = own_bed(
        "default: deny\nlog_default: true\nrules:\n"
        "  - {name: see, action: log, protocol: udp}\n"
        "  - {name: accept, action: allow, protocol: udp, ports: 53, log: true}\n"
        "  - {name: refuse, action: deny, protocol: udp, ports: 53}\n"
    )
    port = next(sports)
    made.run("ingress", udp(4, port))
    made.run("ingress", udp(4, port))
    made.run("ingress", tcp())
    told = made.program.maps["events"].drain()
    assert [each.outcome.name for each in told] == ["OUTCOMES", "OPENED", "DENIED"]
    assert (str(told[1].source.ipv4_mapped), told[1].source_port, told[1].dest_port) == (CLIENT[4], port, 53)


def test_a_thousand_rules(own_bed: Any) -> None:
    """The last of 1,024 decides where no other matches, the first where all do."""
    rules = "".join(f"  - {{name: r{n}, action: deny, protocol: udp, ports: {10_000 + n}}}\n" for n in range(1023))
    made = own_bed(f"rules:\n{rules}  - {{name: last, action: allow, protocol: udp}}\n")
    assert made.run("ingress", udp(dport=53)) == "OPENED"
    assert [made.run("ingress", udp(dport=port)) for port in (10_000, 11_022, 11_023)] == ["DENIED", "DENIED", "OPENED"]


MISTAKES = {
    "ports: 70000": ("70000", "'70000' is no port"),
    "log: maybe": ("maybe", "'maybe': one of true, false"),
    "ports: 9-8": ("9-8", "'9-8' is no port"),
    "colour: red": ("colour", "'colour': a rule has"),
    "from: 10.0.0.1/8": ("10.0.0.1/8", "'10.0.0.1/8': bits are set"),
    "from: nobody": ("nobody", "'nobody': no prefix, and no workload"),
    "protocol: tpc": ("tpc", "'tpc': a protocol is"),
    "priority: high": ("high", "'high' is no whole number"),
    "direction: up": ("up", "'up': one of ingress, egress, both"),
    "protocol: icmp, ports: 80": ("80", "only tcp, udp and sctp"),
    "types: 8": ("8", "types need protocol"),
    "action: deny": ("action: deny", "'action' for the second time"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_column(text: str) -> None:
    """file:line:column: what; the column is where the mistake stands."""
    token, said = MISTAKES[text]
    line = f"- {{name: a, action: allow, {text}}}"
    with pytest.raises(segment.PolicyError) as caught:
        segment.read(f"default: deny\nrules:\n{line}\n", "shop.yaml")
    assert caught.value.mistakes[0].startswith(f"shop.yaml:3:{line.index(token) + 1}: {said}")


@pytest.mark.blind("a policy is refused before the program hears of it")
def test_all_mistakes_are_told_and_nothing_is_applied(own_bed: Any) -> None:
    """In the order of the file; what was in force stays."""
    made = own_bed()
    before = made.segment.text
    with pytest.raises(segment.PolicyError) as caught:
        made.apply("full: maybe\nrules:\n- {action: allow}\n- {name: b, action: let, ports: x}\n")
    assert [each.split(":")[1] for each in caught.value.mistakes] == ["1", "3", "4", "4"]
    assert made.segment.text == before
    with pytest.raises(segment.PolicyError, match=r"policy:2:"):
        made.apply("rules: [\n")


# ---- Live ----

LIVE = """
default: deny
rules:
  - {name: tcp, action: allow, direction: ingress, protocol: tcp, ports: 9000}
  - {name: udp, action: allow, direction: ingress, protocol: udp, ports: 9000}
  - {name: ping, action: allow, direction: ingress, protocol: [icmp, icmpv6], types: [8, 128]}
"""


@pytest.fixture
def live(net: Any, own_bed: Any) -> Any:
    """On the server's interface, both ways."""
    made = own_bed(LIVE)
    for each in made.program.programs.values():
        net.on_close("detach", each.attach(net.interface("server/eth0")).detach)
    return made


@families
def test_sockets_talk_where_the_policy_says(live: Bed, net: Any, ip: int) -> None:
    """A connection to the allowed port carries data both ways and closes; one to the next port gets nowhere."""
    family = socket.AF_INET if ip == 4 else socket.AF_INET6
    address = str(net.topology.address("server", ip))
    with (
        net["server"].socket(family, socket.SOCK_STREAM) as listener,
        net["client"].socket(family, socket.SOCK_STREAM) as caller,
    ):
        listener.bind((address, 9000))
        listener.listen()
        caller.settimeout(2)
        caller.connect((address, 9000))
        answering, _ = listener.accept()
        with answering:
            caller.sendall(b"x" * 100_000)
            received = 0
            while received < 100_000:
                received += len(answering.recv(65_536))
            answering.sendall(b"y")
            assert caller.recv(10) == b"y"
            (session,) = live.segment.sessions()
            assert (session.state, session.destination, session.destination_port) == ("ESTABLISHED", address, 9000)
    with net["client"].socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(0.05)
        with pytest.raises(TimeoutError):
            caller.connect((address, 9001))
    assert live.count("DENIED") >= 1
    assert live.count("INVALID") == 0


@pytest.mark.topology(Topology.pair("client", "server", mtu_bytes=9000))
def test_headers_in_the_pages_of_a_frame_are_found(live: Bed, net: Any) -> None:
    """A packet socket's frame of 6,000 bytes has nothing but its Ethernet header where a program looks first."""
    for options in (0, 1, 2, 4):
        before = live.count("OPENED")
        ports = {"src_port": next(sports), "dst_port": 9000}
        frame = frames.udp(net, "client", "server", ip=6, **ports, payload=bytes(6000))
        padding = [IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(252))]) for _ in range(options)]
        net.exchange(with_headers(frame, padding), at="client/eth0")
        assert live.count("OPENED") == before + 1, f"behind {256 * options} bytes of extension headers"
    assert live.count("MALFORMED") == 0


def with_headers(frame: Any, headers: list[Any]) -> Any:
    """The frame with these between IPv6 and UDP."""
    made = Ether(src=frame.src, dst=frame.dst) / IPv6(src=frame[IPv6].src, dst=frame[IPv6].dst)
    for each in headers:
        made /= each
    return made / UDP(sport=frame[UDP].sport, dport=frame[UDP].dport) / Raw(bytes(frame[UDP].payload))


@families
def test_datagrams_and_pings(live: Bed, net: Any, ip: int) -> None:
    """100 datagrams to the allowed port arrive and none to the next; 20 echo requests are answered."""
    allowed = net.send(Stream.udp("client", "server", dst_port=9000, count=100, ip=ip))
    denied = net.send(Stream.udp("client", "server", dst_port=9001, count=100, ip=ip))
    pings = net.send(Stream.icmp("client", "server", count=20, ip=ip))
    assert (allowed.received, denied.received, pings.received) == (100, 0, 20)
    assert live.count("DENIED") == 100


@families
def test_an_unreachable_port_is_reported(live: Bed, net: Any, ip: int) -> None:
    """The server's ICMP error reaches the client's socket, because it belongs to a session."""
    family = socket.AF_INET if ip == 4 else socket.AF_INET6
    with net["client"].socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.connect((str(net.topology.address("server", ip)), 9000))
        asking.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError) as caught:
            asking.recv(10)
    assert caught.value.errno == errno.ECONNREFUSED
    assert live.count("RELATED") == 1


def test_policies_change_under_traffic(live: Bed, net: Any) -> None:
    """Of what all of them allow no datagram is lost, of what all deny none arrives, while they change all the time."""
    other = LIVE + "  - {name: more, action: allow, direction: ingress, protocol: udp, ports: 9002}\n"
    streams = [
        Stream.udp("client", "server", dst_port=port, src_port=port, count=100_000, rate_pps=5_000)
        for port in (9000, 9001)
    ]
    with net.sending(*streams) as sending:
        for change in range(max(4, effort(20))):
            live.apply(LIVE if change % 2 else other)
        sending.stop()
    allowed, denied = sending.deliveries
    assert allowed.received == allowed.offered > 0
    assert (denied.received, denied.offered > 0) == (0, True)
    assert live.segment.in_force.generation == change + 2


# ---- The command ----


def said(*words: str) -> Any:
    """What `lab tc_segment` prints, and how it ends."""
    from click.testing import CliRunner

    return CliRunner().invoke(segment.command, [*words])


@pytest.fixture
def talk(own_bed: Any) -> Any:
    """A bed, and the command on it; found by its id, for others may run."""
    made = own_bed()
    ours = kernel.program_id(made.program.programs["segment_ingress"].fd)

    def speak(*words: str) -> Any:
        return said(*words, "--id", str(ours))

    return made, speak


def test_rules_are_created_read_updated_and_deleted(talk: Any) -> None:
    """On an instance that runs: each is in force at once."""
    made, speak = talk
    knock = udp(dport=7777)
    assert made.run("ingress", knock) == "DENIED"
    created = speak(
        "policy", "create", "knock", "--action", "allow", "--from", "clients", "--protocol", "udp", "--ports", "7777"
    )
    assert created.exit_code == 0, created.output
    assert made.run("ingress", knock) == "OPENED"
    assert (
        speak("policy", "read", "knock").output
        == "name: knock\naction: allow\nfrom: clients\nprotocol: udp\nports: 7777\n"
    )
    speak("policy", "update", "knock", "--ports", "7778", "--ports", "7779-7780")
    assert [made.run("ingress", udp(dport=port)) for port in (7777, 7778, 7780)] == ["DENIED", "OPENED", "OPENED"]
    assert "knock" in speak("policy", "list").output
    assert speak("policy", "delete", "knock").exit_code == 0
    assert made.run("ingress", udp(dport=7778)) == "DENIED"
    assert speak("policy", "delete", "knock").exit_code == 1


@pytest.mark.blind("a policy is refused before the program hears of it")
def test_a_wrong_rule_is_refused_whole(talk: Any) -> None:
    """What was in force stays."""
    made, speak = talk
    before = made.segment.text
    assert speak("policy", "create", "bad", "--action", "allow", "--ports", "70000").exit_code == 1
    assert made.segment.text == before


def test_a_policy_goes_out_and_in(talk: Any, tmp_path: Any) -> None:
    """What export prints, import takes; a file with mistakes changes nothing, and validate tells them."""
    made, speak = talk
    kept, wrong = tmp_path / "kept.yaml", tmp_path / "wrong.yaml"
    kept.write_text(speak("policy", "export").output)
    made.apply("default: allow")
    wrong.write_text("default: deny\nrules:\n- {name: a, action: nope}\n")
    for words in (("policy", "import", str(wrong), "--id", "0"), ("policy", "validate", str(wrong))):
        failed = said(*words)
        assert failed.exit_code == 1
        assert f"{wrong}:3:21: 'nope'" in str(failed.exception)
    assert made.run("ingress", udp(dport=54)) == "OPENED"
    assert speak("policy", "import", str(kept)).exit_code == 0
    assert made.run("ingress", udp(dport=55)) == "DENIED"
    assert said("policy", "validate", str(kept)).output == f"{kept}: 7 rules\n"


def test_what_it_counted_is_shown_and_served(talk: Any) -> None:
    """As tables, and as metrics that a Prometheus parser reads back."""
    from prometheus_client.parser import text_string_to_metric_families

    made, speak = talk
    port = next(sports)
    made.run("ingress", udp(4, port))
    made.run("egress", back_udp(4, port))
    made.run("ingress", udp(dport=54))
    assert f"udp {CLIENT[4]}:{port} -> {SERVER[4]}:53 TWO_WAY, by dns" in speak("show").output
    read = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(speak("metrics").output)
        for sample in family.samples
    }
    assert read["segment_packets_total", "egress", "in_session"] == 1
    assert read["segment_packets_total", "ingress", "denied"] == 1
    assert read["segment_rule_packets_total", "dns"] == 2
    assert read["segment_rule_sessions_total", "dns"] == 1
    assert read["segment_sessions",] == 1
