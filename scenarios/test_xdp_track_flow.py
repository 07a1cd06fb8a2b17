"""xdp_track_flow counts every flow in both directions, follows TCP's states, and never loses one in silence."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from lab import Mode, Stream, Topology
from lab.bpf import load
from lab.bpf.companion import companion
from lab.effort import effort
from lab.wait import wait_until

track = companion("xdp_track_flow")

TOPOLOGY = Topology.chain("client", "router", "server", offloads={"tx": False})
CLIENT = {4: "10.0.0.1", 6: "fd00::1"}
SERVER = {4: "10.0.1.2", 6: "fd00:0:0:1::2"}
TICK_NS = 20_000_000
"""Two ticks of the slowest kernel (HZ 100): times in the maps are as of the tick before."""

modes = pytest.mark.parametrize("mode", list(Mode), ids=[mode.value for mode in Mode])
families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
sports = iter(range(1_024, 60_000))


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    """The program, unattached; each row below has a client port, or a protocol, of its own."""
    with load("xdp_track_flow", **track.sized(4096)) as program:
        yield program


def run(program: Any, *frames: Any) -> None:
    """Runs frames through it, and checks the verdict that all of them get: XDP_PASS, and not a byte changed."""
    sent = [bytes(frame) for frame in frames]
    for raw, result in zip(sent, program.run_many(sent), strict=True):
        assert (result.action.name, result.frame) == ("XDP_PASS", raw)


def ether(vlans: int = 0) -> Any:
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for tag in range(vlans):
        frame /= Dot1Q(vlan=100 + tag)
    if vlans == 2:
        frame.type = 0x88A8
    return frame


def network(ip: int = 4, *, back: bool = False, **fields: Any) -> Any:
    source, dest = (SERVER, CLIENT) if back else (CLIENT, SERVER)
    return (IP if ip == 4 else IPv6)(src=source[ip], dst=dest[ip], **fields)


def udp(sport: int, ip: int = 4, *, back: bool = False, payload: bytes = b"hello") -> Any:
    ports = {"sport": 53, "dport": sport} if back else {"sport": sport, "dport": 53}
    return ether() / network(ip, back=back) / UDP(**ports) / Raw(payload)


def found(program: Any, protocol: int, port: int) -> Any:
    """The flow of that protocol with the client's port; None when there is none."""
    these = [each for each in track.flows(program.maps) if (each.protocol, each.client.port) == (protocol, port)]
    assert len(these) <= 1, "one flow has one entry"
    return these[0] if these else None


# ---- The verdict table: what is counted in a flow, and which ----

Made = Callable[[int], Any]
TRACKED: dict[str, tuple[int, Made]] = {
    "IPv4 UDP": (17, lambda port: udp(port)),
    "IPv6 UDP": (17, lambda port: udp(port, 6)),
    "IPv4 TCP": (6, lambda port: ether() / network() / TCP(sport=port)),
    "IPv6 TCP": (6, lambda port: ether() / network(6) / TCP(sport=port)),
    "SCTP has ports, too": (132, lambda port: ether() / network() / SCTP(sport=port) / Raw(bytes(16))),
    "IPv4 with options": (
        17,
        lambda port: ether() / network(options=[IPOption(b"\x94\x04\x00\x00")]) / UDP(sport=port),
    ),
    "IPv6 behind a hop-by-hop header": (17, lambda port: ether() / network(6) / IPv6ExtHdrHopByHop() / UDP(sport=port)),
    "IPv6 behind six extension headers": (17, lambda port: ether() / extended(6) / UDP(sport=port)),
    "IPv6 in an atomic fragment": (17, lambda port: ether() / network(6) / IPv6ExtHdrFragment() / UDP(sport=port)),
    "one VLAN tag": (17, lambda port: ether(1) / network() / UDP(sport=port)),
    "two VLAN tags": (17, lambda port: ether(2) / network() / UDP(sport=port)),
    "two VLAN tags before IPv6 TCP": (6, lambda port: ether(2) / network(6) / TCP(sport=port)),
    "IPv4 first fragment": (
        17,
        lambda port: ether() / network(flags="MF") / UDP(sport=port, len=3000) / Raw(bytes(64)),
    ),
    "IPv6 first fragment": (
        17,
        lambda port: ether() / network(6) / IPv6ExtHdrFragment(m=1) / UDP(sport=port, len=3000) / Raw(bytes(64)),
    ),
    "padded to 60 bytes": (17, lambda port: bytes(udp(port, payload=b"")).ljust(60, b"\xee")),
    "UDP without a checksum": (17, lambda port: ether() / network() / UDP(sport=port, chksum=0)),
    "ICMP has no ports": (1, lambda port: ether() / network() / ICMP()),
    "ICMPv6 has no ports": (58, lambda port: ether() / network(6) / ICMPv6EchoRequest()),
    "GRE is a protocol like any other": (47, lambda port: ether() / network(proto=47) / Raw(bytes(8))),
}


def extended(count: int) -> Any:
    packet = network(6)
    for _ in range(count):
        packet /= IPv6ExtHdrDestOpt()
    return packet


@pytest.mark.parametrize(("protocol", "make"), TRACKED.values(), ids=TRACKED.keys())
def test_a_packet_is_counted_in_its_flow(shared, protocol, make):
    """Twice the frame: one flow with the right ends, two packets, and the bytes of both as they were on the wire."""
    port = next(sports) if protocol in (6, 17, 132) else 0
    frame = make(port)
    frame = bytes(frame)
    ip = 6 if SERVER_WORD in frame else 4
    run(shared, frame, frame)
    flow = found(shared, protocol, port)
    assert (str(flow.client.address), str(flow.server.address)) == (CLIENT[ip], SERVER[ip])
    assert (flow.client.packets, flow.client.bytes, flow.server.packets) == (2, 2 * len(frame), 0)


SERVER_WORD = socket.inet_pton(socket.AF_INET6, SERVER[6])


def tcp(flags: Any = "S", **fields: Any) -> Any:
    return ether() / network() / TCP(**{"sport": next(sports), "flags": flags, **fields})


def cut(frame: Any, count: int) -> bytes:
    return bytes(frame)[:-count]


def patched(frame: Any, at: int, value: int) -> bytes:
    """The frame with one byte changed; 14 is the first of the network header, 34 of a TCP or UDP header."""
    whole = bytearray(bytes(frame))
    whole[at] = value
    return bytes(whole)


def short(proto: int, count: int, **fields: Any) -> Any:
    """An IP packet that says itself how little of the transport header is in it."""
    return ether() / network(proto=proto, **fields) / Raw(b"\x30\x39\x00\x50" + bytes(count - 4))


UNTRACKED: dict[str, tuple[str, Callable[[], Any]]] = {
    "ARP": ("NOT_IP", lambda: ether() / ARP()),
    "three VLAN tags": ("NOT_IP", lambda: ether(2) / Dot1Q() / network() / UDP()),
    "an Ethernet header alone": ("MALFORMED", lambda: bytes(ether() / IP())[:14]),
    "a VLAN tag cut short": ("MALFORMED", lambda: bytes(ether(1))[:16]),
    "an IPv4 header cut short": ("MALFORMED", lambda: bytes(udp(1))[:33]),
    "IPv4 options cut short": ("MALFORMED", lambda: bytes(ether() / network(options=[IPOption(b"\x94\x04\0\0")]))[:36]),
    "IPv4 header length 4": ("MALFORMED", lambda: patched(udp(1), 14, 0x44)),
    "IPv4 with version 5": ("MALFORMED", lambda: patched(udp(1), 14, 0x55)),
    "IPv4 total length beyond the frame": ("MALFORMED", lambda: cut(udp(1), 1)),
    "IPv6 header cut short": ("MALFORMED", lambda: bytes(udp(1, 6))[:53]),
    "IPv6 with version 4": ("MALFORMED", lambda: patched(udp(1, 6), 14, 0x40)),
    "IPv6 payload length beyond the frame": ("MALFORMED", lambda: cut(udp(1, 6), 1)),
    "IPv6 extension header beyond the packet": ("MALFORMED", lambda: patched(ether() / extended(1) / UDP(), 55, 200)),
    "TCP header cut short": ("MALFORMED", lambda: short(6, 19)),
    "TCP header that only the padding completes": ("MALFORMED", lambda: bytes(short(6, 4)).ljust(60, b"\x50")),
    "TCP header in the first of many fragments": ("MALFORMED", lambda: short(6, 8, flags="MF")),
    "TCP data offset 4": ("MALFORMED", lambda: patched(tcp(), 46, 0x40)),
    "TCP data offset beyond the packet": ("MALFORMED", lambda: patched(tcp(), 46, 0xF0)),
    "UDP header cut short": ("MALFORMED", lambda: short(17, 7)),
    "UDP length below its header": ("MALFORMED", lambda: patched(udp(1), 39, 7)),
    "UDP length beyond the packet": ("MALFORMED", lambda: patched(udp(1), 39, 14)),
    "SCTP ports cut short": ("MALFORMED", lambda: cut(short(132, 4, len=23), 1)),
    "IPv4 later fragment": ("FRAGMENT", lambda: ether() / network(frag=8, proto=17) / Raw(bytes(64))),
    "IPv4 last fragment of TCP": ("FRAGMENT", lambda: ether() / network(frag=1, proto=6) / Raw(bytes(64))),
    "IPv6 later fragment": ("FRAGMENT", lambda: ether() / network(6) / IPv6ExtHdrFragment(nh=17, offset=8) / Raw(b"1")),
    "seven extension headers": ("TOO_DEEP", lambda: ether() / extended(7) / UDP()),
    "TCP without a flag": ("BAD_FLAGS", lambda: tcp(0)),
    "TCP with SYN and FIN": ("BAD_FLAGS", lambda: tcp("SF")),
    "TCP with SYN and RST": ("BAD_FLAGS", lambda: tcp("SR")),
    "TCP with FIN alone": ("BAD_FLAGS", lambda: tcp("F")),
    "TCP with all flags": ("BAD_FLAGS", lambda: tcp(0xFF)),
    "a reset of an unknown flow": ("STRAY_RESET", lambda: tcp("R")),
    "a reset with ACK of an unknown flow": ("STRAY_RESET", lambda: tcp("RA")),
}


def outcomes(program: Any) -> dict[str, tuple[int, int]]:
    names = ("NOT_IP", "FRAGMENT", "TOO_DEEP", "MALFORMED", "BAD_FLAGS", "STRAY_RESET", "NO_SLOT")
    counts = {name: program.maps["outcomes"].total(name) for name in names}
    return {name: (count.packets, count.bytes) for name, count in counts.items()}


@pytest.mark.parametrize(("outcome", "make"), UNTRACKED.values(), ids=UNTRACKED.keys())
def test_what_is_in_no_flow_is_counted_by_its_reason(shared, outcome, make):
    """The frame passes unchanged, opens no flow, and its packet and bytes count under one reason alone."""
    frame = bytes(make())
    before, opened = outcomes(shared), shared.maps["totals"].total("OPENED")
    run(shared, frame)
    packets, size = before[outcome]
    assert outcomes(shared) == before | {outcome: (packets + 1, size + len(frame))}
    assert shared.maps["totals"].total("OPENED") == opened


# ---- Both directions ----


@families
def test_both_directions_are_one_flow(shared, ip):
    """A question and two answers: one flow that the client opened, with either side's own packets and bytes."""
    port = next(sports)
    there, back = udp(port, ip, payload=b"question"), udp(port, ip, back=True, payload=b"answer")
    run(shared, there)
    assert found(shared, 17, port).state == "ONE_WAY"
    run(shared, back, back)
    flow = found(shared, 17, port)
    assert (flow.state, flow.client.packets, flow.server.packets) == ("TWO_WAY", 1, 2)
    assert (flow.client.bytes, flow.server.bytes) == (len(there), 2 * len(back))


def test_who_speaks_first_is_the_client(shared):
    """Whichever end has the lower address: the flow is told from the side that opened it."""
    port = next(sports)
    run(shared, udp(port, back=True), udp(port))
    flow = next(each for each in track.flows(shared.maps) if each.server.port == port)
    assert (str(flow.client.address), flow.client.port, str(flow.server.address)) == (SERVER[4], 53, CLIENT[4])


def test_one_address_with_itself(shared):
    """Where both ends have one address the ports tell the directions apart."""
    low, high = sorted((next(sports), next(sports)))
    packet = ether() / IP(src=CLIENT[4], dst=CLIENT[4])
    run(shared, packet / UDP(sport=high, dport=low), packet / UDP(sport=low, dport=high))
    flow = found(shared, 17, high)
    assert (flow.state, flow.client.packets, flow.server.packets) == ("TWO_WAY", 1, 1)


@pytest.mark.parametrize("back", (False, True), ids=("lower speaks", "upper speaks"))
def test_the_lower_end_is_lower_as_a_number(bpf, back):
    """9.0.0.2 comes before 10.0.0.1, and port 1 before port 256: in network order, not in the machine's."""
    program = bpf.load("xdp_track_flow", **track.sized(64))
    ends = [("9.0.0.2", "10.0.0.1"), ("9.0.0.2", "9.0.0.2")]
    ports = [(5, 5), (1, 256)]
    for pair, numbers in zip(ends, ports, strict=True):
        (src, dst), (sport, dport) = (pair[::-1], numbers[::-1]) if back else (pair, numbers)
        run(program, ether() / IP(src=src, dst=dst) / UDP(sport=sport, dport=dport))
    keys = [each.key for each in track.entries(program.maps)]
    assert [(str(key.lower.ipv4_mapped), str(key.upper.ipv4_mapped)) for key in keys] == ends
    assert [(key.lower_port, key.upper_port) for key in keys] == ports


NEIGHBOURS = {
    "the client's port": {"sport": 2},
    "the server's port": {"dport": 3},
    "the client's address": {"src": "10.0.0.3"},
    "the server's address": {"dst": "10.0.1.3"},
}


@pytest.mark.parametrize("change", NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
def test_flows_that_differ_in_one_thing_are_two(shared, change):
    """A packet that differs in one of the five is counted in another flow, and this one stays as it was."""
    port = next(sports)

    def frame(sport: int = port, dport: int = 53, src: str = CLIENT[4], dst: str = SERVER[4]) -> Any:
        return ether() / IP(src=src, dst=dst) / UDP(sport=sport, dport=dport)

    opened = shared.maps["totals"].total("OPENED")
    change = {name: next(sports) if name == "sport" else value for name, value in change.items()}
    run(shared, frame(), frame(**change), ether() / network() / TCP(sport=port, dport=53))
    assert shared.maps["totals"].total("OPENED") == opened + 3
    flows = [each for each in track.flows(shared.maps) if each.protocol == 17 and each.client.port == port]
    assert {each.client.packets for each in flows} == {1}


# ---- TCP: segments in, the state after each ----

CLIENT_ISN, SERVER_ISN = 0xFFFFFFF0, 5_000
"""The client's numbers wrap within a few bytes."""


@dataclass
class Talk:
    """A connection whose segments get right numbers by themselves; a step may give others."""

    port: int = field(default_factory=lambda: next(sports))
    next_seq: dict[str, int] = field(default_factory=lambda: {"c": CLIENT_ISN, "s": SERVER_ISN})
    last: dict[str, Any] = field(default_factory=dict)

    def segment(self, step: str) -> Any:
        """ "c SA", "s A 100" (with data), "c again", "c S seq=7 ack=9", or relative: "c R seq+9", "s A ack-1"."""
        side, flags, *more = step.split()
        if flags == "again":
            return self.last[side]
        numbers = {"seq": self.next_seq[side], "ack": self.next_seq["s" if side == "c" else "c"]}
        for word in more:
            for name in numbers:
                if word.startswith(name + "="):
                    numbers[name] = int(word[4:])
                elif word.startswith(name):
                    numbers[name] += int(word[3:])
        payload = sum(int(word) for word in more if word.isdigit())
        frame = self._frame(side, flags, payload, numbers)
        if not any(word.startswith("seq") for word in more):
            self.next_seq[side] = (numbers["seq"] + payload + ("S" in flags) + ("F" in flags)) % 2**32
        self.last[side] = frame
        return frame

    def _frame(self, side: str, flags: str, payload: int, numbers: dict[str, int]) -> Any:
        ports = {"sport": self.port, "dport": 80} if side == "c" else {"sport": 80, "dport": self.port}
        fields = {name: value % 2**32 for name, value in numbers.items() if name == "seq" or "A" in flags}
        return ether() / network(back=side == "s") / TCP(flags=flags, **ports, **fields) / Raw(bytes(payload))


OPEN = "c S: SYN_SENT, s SA: SYN_RECEIVED, c A: ESTABLISHED"
CONVERSATIONS = {
    "opened, used and closed by the client": f"{OPEN}, c A 100: ESTABLISHED, s A 1000: ESTABLISHED, "
    "c FA: FIN_WAIT, s A: CLOSE_WAIT, s A 9: CLOSE_WAIT, s FA: LAST_ACK, c A: TIME_WAIT",
    "closed by the server, FIN with the ACK of a FIN": f"{OPEN}, s FA: FIN_WAIT, c FA: LAST_ACK, s A: TIME_WAIT",
    "both close at once": f"{OPEN}, c FA: FIN_WAIT, s FA ack-1: CLOSING, c A: LAST_ACK, s A: TIME_WAIT",
    "data of the other side after a FIN": f"{OPEN}, c FA: FIN_WAIT, s A 5 ack-1: FIN_WAIT, s A: CLOSE_WAIT",
    "an ACK of the data before a FIN is not one of the FIN": f"{OPEN}, c A 10: ESTABLISHED, c FA: FIN_WAIT, "
    "s A ack-1: FIN_WAIT, s A: CLOSE_WAIT",
    "SYN again, SYN+ACK again, FIN again": "c S: SYN_SENT, c again: SYN_SENT, s SA: SYN_RECEIVED, "
    "s again: SYN_RECEIVED, c A: ESTABLISHED, s FA: FIN_WAIT, s again: FIN_WAIT, c A: CLOSE_WAIT, s again: CLOSE_WAIT, "
    "c FA: LAST_ACK, c again: LAST_ACK, s A: TIME_WAIT, s again: TIME_WAIT",
    "another try with another number": "c S: SYN_SENT, c S seq=77: SYN_SENT, s SA ack=78: SYN_RECEIVED, "
    "c A seq=78: ESTABLISHED",
    "half-open: nobody answers": "c S: SYN_SENT, c again: SYN_SENT, c again: SYN_SENT",
    "half-open: the client vanishes": "c S: SYN_SENT, s SA: SYN_RECEIVED, s again: SYN_RECEIVED",
    "half-open: a host that restarted, RFC 9293 3.5.1": f"{OPEN}, c S seq=400: ESTABLISHED, s A: ESTABLISHED, "
    "c R: RESET, c S seq=400: SYN_SENT",
    "simultaneous open": "c S: SYN_SENT, s S: SYN_CROSSED, c SA seq=4294967280: SYN_RECEIVED, "
    "s SA seq=5000: ESTABLISHED, c A 10: ESTABLISHED",
    "simultaneous open with bare ACKs": "c S: SYN_SENT, s S: SYN_CROSSED, c A: SYN_RECEIVED, s A: ESTABLISHED",
    "refused": "c S: SYN_SENT, s RA seq=0: RESET",
    "given up by the client": "c S: SYN_SENT, s SA: SYN_RECEIVED, c R: RESET",
    "reset within a connection": f"{OPEN}, s A 100: ESTABLISHED, s R: RESET",
    "a reset behind lost data": f"{OPEN}, s R seq+60000: RESET",
    "a blind reset far from the window": f"{OPEN}, s R seq+90000000: ESTABLISHED, s A: ESTABLISHED",
    "a blind reset before the SYN+ACK": "c S: SYN_SENT, s R: SYN_SENT, s RA seq=0 ack=123456789: SYN_SENT",
    "a SYN+ACK for another SYN": "c S: SYN_SENT, s SA ack=99: SYN_SENT, s SA: SYN_RECEIVED",
    "a SYN within a connection": f"{OPEN}, s S: ESTABLISHED, c A 10: ESTABLISHED",
    "SYN+ACK first: its SYN went another way": "s SA: SYN_RECEIVED, c A: ESTABLISHED",
    "begun before we looked": "c A 9: ESTABLISHED, s A 9: ESTABLISHED, s FA: FIN_WAIT, c FA: LAST_ACK, s A: TIME_WAIT",
    "begun before we looked, a reset": "c A: ESTABLISHED, c A 10: ESTABLISHED, s R: RESET",
    "only the client's direction is seen": "c S: SYN_SENT, c A: ESTABLISHED, c A 10: ESTABLISHED, c FA: FIN_WAIT",
    "only the server's direction is seen": "s SA: SYN_RECEIVED, s A 10: ESTABLISHED, s FA: FIN_WAIT",
    "the port is used again after TIME_WAIT": f"{OPEN}, c FA: FIN_WAIT, s FA: LAST_ACK, c A: TIME_WAIT, c S: SYN_SENT",
    "an old SYN in TIME_WAIT": f"{OPEN}, c FA: FIN_WAIT, s FA: LAST_ACK, c A: TIME_WAIT, c S seq-900: TIME_WAIT",
    "a reset in TIME_WAIT": f"{OPEN}, c FA: FIN_WAIT, s FA: LAST_ACK, c A: TIME_WAIT, s R: RESET",
}


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_tcp_states(shared, conversation):
    """Each segment leaves the flow in the state behind it."""
    steps = [step.split(": ") for step in conversation.split(", ")]
    talk, seen = Talk(), []
    for step, _ in steps:
        run(shared, talk.segment(step))
        (state,) = {
            each.state for each in track.flows(shared.maps) if talk.port in (each.client.port, each.server.port)
        }
        seen.append(f"{step}: {state}")
    assert ", ".join(seen) == conversation


def said(program: Any, *steps: str) -> Talk:
    talk = Talk()
    run(program, *(talk.segment(step) for step in steps))
    return talk


OPENING = ("c S", "s SA", "c A")
CLOSING = ("c FA", "s FA", "c A")


def test_the_opener_of_a_missed_syn(shared):
    """A SYN+ACK first: its receiver opened the connection."""
    talk = said(shared, "s SA")
    assert str(found(shared, 6, talk.port).client.address) == CLIENT[4]


def test_retransmissions_are_counted_by_side(shared):
    """SYN, data and FIN again count once each; new data, bare ACKs and keep-alives don't."""
    talk = said(
        shared, "c S", "c again", "s SA", "c A", "c A", "c A 100", "c again", "s A", "s A 10", "c FA", "c again"
    )
    flow = found(shared, 6, talk.port)
    assert (flow.client.retransmits, flow.server.retransmits) == (3, 0)


# ---- Events ----


def events(program: Any) -> list[tuple[str, Any]]:
    return [(event.kind.name, track.flow_of(event.flow)) for event in program.maps["events"].drain()]


def kinds(program: Any) -> list[str]:
    return [kind for kind, _ in events(program)]


ENDS = {
    "closed by both": ((*OPENING, *CLOSING, "c again"), ["OPENED", "CLOSED_FIN"]),
    "reset": ((*OPENING, "c R", "s R", "c A"), ["OPENED", "CLOSED_RST"]),
    "refused": (("c S", "s RA seq=0"), ["OPENED", "CLOSED_RST"]),
    "still open": (OPENING, ["OPENED"]),
    "used again": ((*OPENING, *CLOSING, "c S"), ["OPENED", "CLOSED_FIN", "OPENED"]),
    "reset in TIME_WAIT": ((*OPENING, *CLOSING, "s R"), ["OPENED", "CLOSED_FIN"]),
}


@pytest.mark.parametrize(("steps", "expected"), ENDS.values(), ids=ENDS.keys())
def test_a_connection_has_one_beginning_and_one_end(shared, steps, expected):
    """One OPENED, one CLOSED_ with its reason, whatever is sent again after it; and `totals` counts the same."""
    events(shared)
    before = {kind: shared.maps["totals"].total(kind) for kind in set(expected)}
    said(shared, *steps)
    assert kinds(shared) == expected
    assert {kind: shared.maps["totals"].total(kind) - count for kind, count in before.items()} == Counter(expected)


def test_events_say_what_was_counted(shared):
    """OPENED comes with the first packet, CLOSED_FIN with all there were, their bytes and the time between."""
    events(shared)
    talk = said(shared, *OPENING, "c A 100", "s A 500", *CLOSING)
    (_, opened), (_, closed) = events(shared)
    assert (opened.state, opened.client.packets, opened.server.packets) == ("SYN_SENT", 1, 0)
    assert (closed.state, closed.client.packets, closed.server.packets) == ("TIME_WAIT", 5, 3)
    assert (closed.client.bytes, closed.server.bytes) == (5 * 54 + 100, 3 * 54 + 500)
    assert opened.client.port == closed.client.port == talk.port
    assert opened.first_ns == closed.first_ns <= closed.last_ns <= time.monotonic_ns()
    assert time.monotonic_ns() - closed.last_ns < 5e9


def test_an_event_without_room_is_counted(bpf):
    """A ring buffer of one page holds some of 200 OPENED; those that are not there are in EVENT_LOST."""
    program = bpf.load("xdp_track_flow", max_entries={"events": 4096})
    run(program, *(udp(port) for port in range(1000, 1200)))
    lost = program.maps["totals"].total("EVENT_LOST")
    assert program.maps["totals"].total("OPENED") == 200
    assert len(events(program)) + lost == 200 and 0 < lost < 200


# ---- Ageing ----

AGEING = {
    "ONE_WAY": ("one_way_idle_ms", lambda: [udp(9)]),
    "TWO_WAY": ("two_way_idle_ms", lambda: [udp(8), udp(8, back=True)]),
    "SYN_SENT": ("opening_idle_ms", lambda: spoken("c S")),
    "SYN_RECEIVED": ("opening_idle_ms", lambda: spoken("c S", "s SA")),
    "ESTABLISHED": ("established_idle_ms", lambda: spoken(*OPENING)),
    "FIN_WAIT": ("closing_idle_ms", lambda: spoken(*OPENING, "c FA")),
    "LAST_ACK": ("closing_idle_ms", lambda: spoken(*OPENING, "c FA", "s FA")),
    "TIME_WAIT": ("time_wait_idle_ms", lambda: spoken(*OPENING, *CLOSING)),
    "RESET": ("reset_idle_ms", lambda: spoken(*OPENING, "c R")),
}
LIMITS = sorted({knob for knob, _ in AGEING.values()})
LIMIT_OF = {state: knob for state, (knob, _) in AGEING.items()} | dict.fromkeys(
    ("CLOSE_WAIT", "CLOSING"), "closing_idle_ms"
)


def spoken(*steps: str) -> list[Any]:
    talk = Talk()
    return [talk.segment(step) for step in steps]


def pass_ticks(program: Any) -> None:
    """Until the clock has gone on since the last packet."""
    last = max(each.last_ns for each in track.flows(program.maps))
    wait_until(lambda: time.monotonic_ns() > last + TICK_NS, what="two ticks")


@pytest.mark.parametrize("limit", LIMITS)
def test_each_state_has_its_time(bpf, limit):
    """With one limit at 0, sweep() ends the flows of its states after a tick, and no others."""
    program = bpf.load("xdp_track_flow", **track.sized(64), **{limit: 0})
    for _, make in AGEING.values():
        run(program, *make())
    pass_ticks(program)
    before = Counter(each.state for each in track.flows(program.maps))
    track.sweep(program)
    after = Counter(each.state for each in track.flows(program.maps))
    # What was there is compared: a tick between two packets may have begun a flow of this limit anew.
    ended = {state: count for state, count in before.items() if LIMIT_OF[state] == limit}
    assert ended and before - after == ended


def test_a_silent_flow_ends_once(bpf):
    """Swept twice: one CLOSED_IDLE with its counters, its slot is free, and its next packet opens a new flow."""
    program = bpf.load("xdp_track_flow", **track.sized(64), two_way_idle_ms=0, one_way_idle_ms=60_000)
    run(program, udp(9), udp(9, back=True))
    pass_ticks(program)
    track.sweep(program)
    track.sweep(program)
    assert list(track.flows(program.maps)) == []
    (_, first), (kind, closed) = events(program)
    assert (first.client.port, kind, closed.client.packets, closed.server.packets) == (9, "CLOSED_IDLE", 1, 1)
    run(program, udp(9))
    assert kinds(program) == ["OPENED"]
    assert found(program, 17, 9).client.packets == 1


def test_an_ended_connection_leaves_without_another_event(bpf):
    """TIME_WAIT is swept when its time is over, and CLOSED_FIN stays its only end."""
    program = bpf.load("xdp_track_flow", **track.sized(64), time_wait_idle_ms=0)
    said(program, *OPENING, *CLOSING)
    pass_ticks(program)
    track.sweep(program)
    assert (kinds(program), list(track.flows(program.maps))) == (["OPENED", "CLOSED_FIN"], [])


def test_a_flow_that_speaks_after_its_time_begins_anew(bpf):
    """Without any sweep: the late packet ends the old flow as CLOSED_IDLE, and is the first of a new one."""
    program = bpf.load("xdp_track_flow", **track.sized(64), one_way_idle_ms=0)
    run(program, udp(9))
    pass_ticks(program)
    run(program, udp(9))
    assert kinds(program) == ["OPENED", "CLOSED_IDLE", "OPENED"]
    assert found(program, 17, 9).client.packets == 1


def test_a_flow_that_speaks_in_time_goes_on(bpf):
    """A minute's limit and a tick's silence: the same flow, one more packet."""
    program = bpf.load("xdp_track_flow", **track.sized(64), one_way_idle_ms=60_000)
    run(program, udp(9))
    pass_ticks(program)
    run(program, udp(9))
    track.sweep(program)
    flow = found(program, 17, 9)
    assert (kinds(program), flow.client.packets) == (["OPENED"], 2)
    assert flow.last_ns > flow.first_ns


# ---- Pressure ----


def test_a_full_table_evicts_and_says_so(bpf):
    """300 flows through 64 slots: 236 CLOSED_EVICTED with their counters, 64 flows there, and not one unaccounted."""
    program = bpf.load("xdp_track_flow", **track.sized(64))
    for port in range(1000, 1300):
        run(program, *[bytes(udp(port))] * 2)
    happened = events(program)
    evicted = [flow for kind, flow in happened if kind == "CLOSED_EVICTED"]
    here = list(track.flows(program.maps))
    assert (len(evicted), len(here), track.open_flows(program.maps)) == (236, 64, 64)
    assert {flow.client.port for flow in (*evicted, *here)} == set(range(1000, 1300))
    assert {flow.client.packets for flow in (*evicted, *here)} == {2}
    assert outcomes(program)["NO_SLOT"] == (0, 0)


def test_a_table_that_is_just_full_evicts_nothing(bpf):
    """64 flows in 64 slots: all there; the 65th costs one its place."""
    program = bpf.load("xdp_track_flow", **track.sized(64))
    run(program, *(udp(port) for port in range(1000, 1064)))
    assert (len(list(track.flows(program.maps))), program.maps["totals"].total("CLOSED_EVICTED")) == (64, 0)
    run(program, udp(1064))
    assert (len(list(track.flows(program.maps))), program.maps["totals"].total("CLOSED_EVICTED")) == (64, 1)


def test_a_flood_of_syns_does_not_push_connections_out(bpf):
    """8 connections live through 1,000 half-open ones in a table of 64: the never answered go first."""
    program = bpf.load("xdp_track_flow", **track.sized(64))
    talks = [said(program, *OPENING) for _ in range(8)]
    syn = bytes(ether() / IP(src="203.0.113.9", dst=SERVER[4]) / TCP(sport=0, dport=443, flags="S"))
    program.run_many(syn[:34] + port.to_bytes(2, "big") + syn[36:] for port in range(1000))
    assert all(found(program, 6, talk.port).state == "ESTABLISHED" for talk in talks)
    assert program.maps["totals"].total("CLOSED_EVICTED") == 8 + 1000 - 64


def test_ended_flows_make_room_without_an_eviction(bpf):
    """32 closed connections give their slots to 32 new flows: no CLOSED_EVICTED, and the 32 open ones stay."""
    program = bpf.load("xdp_track_flow", **track.sized(64))
    for _ in range(2):
        for _ in range(16):
            said(program, *OPENING, *CLOSING)
            said(program, *OPENING)
    for port in range(1000, 1032):
        run(program, udp(port))
    assert program.maps["totals"].total("CLOSED_EVICTED") == 0
    assert Counter(each.state for each in track.flows(program.maps)) == {"ESTABLISHED": 32, "ONE_WAY": 32}


def test_slots_come_and_go_for_ever(bpf):
    """A thousand random flows, sweeps among them: each opened is open or ended, found once, and none is lost."""
    program = bpf.load("xdp_track_flow", **track.sized(64), one_way_idle_ms=0)
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    frames = [bytes(udp(port)) for port in range(1, 200)]
    for _ in range(10):
        run(program, *chance.choices(frames, k=100))
        track.sweep(program)
    here = list(track.flows(program.maps))
    assert len(here) == track.open_flows(program.maps) == len({each.client.port for each in here})
    assert (
        sum(flow.client.packets for kind, flow in events(program) if kind != "OPENED")
        + sum(each.client.packets for each in here)
        == 1000
    )
    assert outcomes(program)["NO_SLOT"] == (0, 0)


def test_a_port_used_again_and_again_takes_one_slot(bpf):
    """100 connections of one port after another beside 63 flows in a table of 64: no flow is evicted."""
    program = bpf.load("xdp_track_flow", **track.sized(64))
    run(program, *(udp(port) for port in range(1000, 1063)))
    talk = Talk()
    frames = [bytes(talk.segment(step)) for step in ("c S", "c R")]
    for _ in range(100):
        run(program, *frames)
    totals = program.maps["totals"]
    assert (totals.total("OPENED"), totals.total("CLOSED_RST"), totals.total("CLOSED_EVICTED")) == (163, 100, 0)
    assert len(list(track.flows(program.maps))) == 64


# ---- On a live network ----


@contextmanager
def attached(net: Any, program: Any, mode: Mode) -> Iterator[None]:
    """On both interfaces of the router: each direction comes in by one of them."""
    with ExitStack() as stack:
        for interface in net["router"].interfaces:
            stack.enter_context(program.attach(interface, mode=mode))
        yield


def address(net: Any, name: str, ip: int) -> str:
    interface = net.interface(f"{name}/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6)


@modes
@families
def test_a_real_connection_goes_through_the_states(net, bpf, mode, ip):
    """connect, send, half-close and close of real sockets: ESTABLISHED, CLOSE_WAIT, TIME_WAIT, and one event each."""
    program = bpf.load("xdp_track_flow")
    family = socket.AF_INET if ip == 4 else socket.AF_INET6
    with attached(net, program, mode), ExitStack() as stack:
        listener = stack.enter_context(net["server"].socket(family, socket.SOCK_STREAM))
        listener.bind(("0.0.0.0" if ip == 4 else "::", 8080))
        listener.listen(1)
        client = stack.enter_context(net["client"].socket(family, socket.SOCK_STREAM))
        client.settimeout(2)
        client.connect((address(net, "server", ip), 8080))
        served = stack.enter_context(listener.accept()[0])
        served.settimeout(2)
        eventually(program, "ESTABLISHED")
        client.sendall(bytes(100_000))
        assert received(served) >= 1
        client.shutdown(socket.SHUT_WR)
        while served.recv(65536):
            pass
        eventually(program, "CLOSE_WAIT")
        served.close()
        assert client.recv(1) == b""
        flow = eventually(program, "TIME_WAIT")
        sport = client.getsockname()[1]
    assert (flow.client.port, flow.server.port, str(flow.client.address)) == (sport, 8080, address(net, "client", ip))
    assert flow.client.bytes > 100_000 and flow.server.packets >= 3
    assert kinds(program) == ["OPENED", "CLOSED_FIN"]
    assert sum(map(sum, outcomes(program).values())) == 0


def received(end: socket.socket) -> int:
    return len(end.recv(65536))


def eventually(program: Any, state: str) -> Any:
    def there() -> Any:
        return next((each for each in track.flows(program.maps) if each.state == state), None)

    return wait_until(there, within_s=2, what=f"a flow in {state}")


@modes
def test_a_refused_connection(net, bpf, mode):
    """No listener: the server's kernel resets, the flow is RESET, one OPENED and one CLOSED_RST."""
    program = bpf.load("xdp_track_flow")
    with attached(net, program, mode), net["client"].socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        with pytest.raises(ConnectionRefusedError):
            client.connect((address(net, "server", 4), 81))
    assert [each.state for each in track.flows(program.maps)] == ["RESET"]
    assert kinds(program) == ["OPENED", "CLOSED_RST"]


@modes
@families
def test_a_thousand_flows_are_counted_exactly(net, bpf, mode, ip):
    """10,000 datagrams of 1,000 flows: 1,000 flows of 10 packets each, and 1,000 OPENED."""
    program = bpf.load("xdp_track_flow")
    with attached(net, program, mode):
        delivery = net.send(Stream.udp("client", "server", dst_port=9000, count=10_000, flows=1_000, ip=ip))
    flows = [each for each in track.flows(program.maps) if each.protocol == socket.IPPROTO_UDP]
    assert delivery.received == 10_000
    assert Counter(each.client.packets for each in flows) == {10: 1_000}
    assert sum(each.client.bytes for each in flows) == 10_000 * (50 if ip == 4 else 70)
    opened = [flow.client.port for kind, flow in events(program) if kind == "OPENED"]
    assert sorted(opened) == sorted(each.client.port for each in flows)


@families
def test_pings_are_a_flow(net, bpf, ip):
    """20 echo requests and 20 replies are one flow, 20 packets either way."""
    program = bpf.load("xdp_track_flow")
    with attached(net, program, Mode.NATIVE):
        assert net.send(Stream.icmp("client", "server", count=20, ip=ip)).received == 20
    (flow,) = track.flows(program.maps)
    assert (flow.state, flow.client.packets, flow.server.packets) == ("TWO_WAY", 20, 20)


def test_many_flows_at_full_speed(net, bpf):
    """Two rounds of 100,000 flows at full speed: each there with two packets, none evicted, every frame accounted.

    $LAB_EFFORT of them.
    """
    flows = effort(100_000)
    program = bpf.load("xdp_track_flow", **track.sized(flows))
    template = ether() / IP(src="10.9.0.0", dst="203.0.113.1") / UDP(sport=1000, dport=9) / Raw(bytes(18))
    with program.attach(net.interface("router/eth0"), mode=Mode.NATIVE):
        delivery = net.flood("client/eth0", template, flows=flows, count=2 * flows)
    assert delivery.received == 2 * flows
    totals = program.maps["totals"]
    assert (totals.total("OPENED"), totals.total("CLOSED_EVICTED")) == (flows, 0)
    assert Counter(each.client.packets for each in track.flows(program.maps)) == {2: flows}
    assert len(events(program)) + totals.total("EVENT_LOST") == flows


def test_pressure_at_full_speed_is_accounted(net, bpf):
    """200,000 flows through 10,000 slots: what was opened is there or was evicted, and no packet is unaccounted."""
    program = bpf.load("xdp_track_flow", **track.sized(10_000))
    template = ether() / IP(src="10.9.0.0", dst="203.0.113.1") / UDP(sport=1000, dport=9) / Raw(bytes(18))
    with program.attach(net.interface("router/eth0"), mode=Mode.NATIVE):
        delivery = net.flood("client/eth0", template, flows=200_000, count=200_000)
    totals = program.maps["totals"]
    assert delivery.received == 200_000
    assert totals.total("OPENED") + outcomes(program)["NO_SLOT"][0] == 200_000
    assert totals.total("CLOSED_EVICTED") == totals.total("OPENED") - 10_000
    assert len(list(track.entries(program.maps))) == 10_000


@modes
def test_fragments_pass_and_are_counted(net, bpf, mode):
    """A datagram of 3,000 bytes arrives whole: its first fragment is in the flow, the later two in FRAGMENT."""
    program = bpf.load("xdp_track_flow")
    with attached(net, program, mode), ExitStack() as stack:
        server = stack.enter_context(net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("0.0.0.0", 9000))
        server.settimeout(2)
        client = stack.enter_context(net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.sendto(bytes(3_000), (address(net, "server", 4), 9000))
        assert len(server.recv(4_000)) == 3_000
    (flow,) = track.flows(program.maps)
    assert (flow.client.packets, outcomes(program)["FRAGMENT"][0]) == (1, 2)
    frames = program.maps["verdicts"].total("XDP_PASS")
    assert (frames.packets, frames.bytes) == (3, flow.client.bytes + outcomes(program)["FRAGMENT"][1])
