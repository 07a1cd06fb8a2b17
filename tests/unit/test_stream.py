"""Traffic described, frames addressed and compared: no network is needed."""

from __future__ import annotations

import pytest

from lab import Stream, Topology, expect
from lab.errors import TrafficError
from lab.traffic import frames
from lab.traffic.codec import codec
from lab.traffic.datagrams import internet_checksum
from lab.traffic.expect import differences
from lab.traffic.flight import Arrivals
from lab.traffic.flow_fields import NOT_THERE, flow_fields, flow_knobs

PAIR = Topology.pair("client", "server")
CHAIN = Topology.chain("client", "dut", "server")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dst_port": 0}, "dst_port=0"),
        ({"dst_port": 70_000}, "dst_port=70000"),
        ({"count": 0}, "count=0"),
        ({"flows": 0}, "flows=0"),
        ({"flows": 30_000}, "flows=30000"),
        ({"src_port": 65_000, "flows": 1000}, "src_port=65000"),
        ({"rate_pps": 0}, "rate_pps=0"),
        ({"frame_bytes": 49}, "must be 50 or more"),
        ({"frame_bytes": 69, "ip": 6}, "must be 70 or more"),
        ({"ip": 5}, "neither 4 nor 6"),
    ],
)
def test_what_cannot_be_sent_is_refused_when_it_is_described(options: dict[str, object], words: str) -> None:
    """One clear sentence names the value, before a socket is opened."""
    with pytest.raises(TrafficError, match=words):
        Stream.udp("client", "server", **{"dst_port": 9000, **options})  # type: ignore[arg-type]


def test_a_message_fills_its_frame() -> None:
    """frame_bytes counts from the Ethernet header to the last payload byte, and sizes are taken in turn."""
    stream = Stream.udp("client", "server", dst_port=9, frame_bytes=(64, 1514))
    assert [len(stream.payload(number)) + 42 for number in range(3)] == [64, 1514, 64]
    assert int.from_bytes(stream.payload(7)[:8], "big") == 7


def test_arrivals_tell_reordered_from_duplicated() -> None:
    """RFC 4737: what comes behind a higher number is reordered; what came already is a duplicate."""
    arrivals = Arrivals()
    for number in (0, 2, 1, 1, 3):
        arrivals.add(number)
    assert (len(arrivals.seen), arrivals.reordered, arrivals.duplicated) == (4, 1, 1)


@pytest.mark.parametrize("message", [b"", b"\x00", b"abc", bytes(range(256)), b"\xff" * 33])
def test_the_checksum_of_a_message_with_its_checksum_is_zero(message: bytes) -> None:
    """RFC 1071, section 1: the receiver sums over the checksum too and gets all ones."""
    even = message + b"\0" * (len(message) % 2)
    assert internet_checksum(even + internet_checksum(message)) == b"\0\0"


@pytest.mark.parametrize("ip", [4, 6])
def test_a_frame_goes_to_the_next_hop(ip: int) -> None:
    """On one segment to the destination's MAC, over a router to the router's."""
    straight = frames.udp(PAIR, "client", "server", dst_port=9, ip=ip)
    routed = frames.udp(CHAIN, "client", "server", dst_port=9, ip=ip)
    assert straight.dst == PAIR.interface("server/eth0").mac
    assert routed.dst == CHAIN.interface("dut/eth0").mac
    assert routed.payload.dst == str(CHAIN.address("server", ip))


def test_tags_stand_outside_in() -> None:
    """One tag is 802.1Q; of two the outer is 802.1ad."""
    one = frames.udp(PAIR, "client", "server", dst_port=9, vlans=(100,))
    two = frames.udp(PAIR, "client", "server", dst_port=9, vlans=(200, 100))
    assert bytes(one)[12:18].hex() == "810000640800"
    assert bytes(two)[12:22].hex() == "88a800c8810000640800"


def test_a_difference_names_its_field() -> None:
    """Only what differs is shown, by layer and field, the expected first."""
    want = frames.udp(PAIR, "client", "server", dst_port=80, ttl=64)
    got = frames.udp(PAIR, "client", "server", dst_port=81, ttl=64)
    found = differences(bytes(want), bytes(got))
    assert "UDP.dport: expected 80, got 81" in [each.replace("www_http", "80").replace("http", "80") for each in found]
    assert {each.partition(":")[0] for each in found} == {"UDP.dport", "UDP.chksum"}


def test_expecting_fails_when_it_should() -> None:
    """Another frame, one too few, one too many and any where none should be: each is an AssertionError."""
    frame = frames.udp(PAIR, "client", "server", dst_port=80)
    other = frames.udp(PAIR, "client", "server", dst_port=81)
    expect([frame]).equals(frame)
    expect([other, frame]).contains(frame)
    expect([]).is_empty()
    for attempt in (
        lambda: expect([other]).equals(frame),
        lambda: expect([]).equals(frame),
        lambda: expect([frame, frame]).equals(frame),
        lambda: expect([other]).contains(frame),
        lambda: expect([frame]).is_empty(),
    ):
        with pytest.raises(AssertionError, match="frames are not what was expected"):
            attempt()


def test_a_field_can_be_ignored() -> None:
    """What a program may choose freely is named, and nothing else is forgiven."""
    want = frames.udp(PAIR, "client", "server", dst_port=80, id=1)
    got = frames.udp(PAIR, "client", "server", dst_port=80, id=2)
    expect([got]).equals(want, ignore=("IP.id", "IP.chksum"))
    with pytest.raises(AssertionError):
        expect([got]).equals(want, ignore=("IP.id",))


def test_the_fields_of_a_flow_are_found_behind_everything() -> None:
    """Two tags, IPv4 options, IPv6 extension headers: the offsets point at the source port and the checksums."""
    scapy = codec()
    plain = bytes(frames.udp(PAIR, "client", "server", dst_port=80, src_port=0x1234))
    tagged = bytes(frames.tcp(PAIR, "client", "server", dst_port=80, src_port=0x1234, vlans=(1, 2)))
    long = (
        frames.ether(PAIR, "client", "server") / scapy.IP(options=[scapy.IPOption_NOP()] * 4) / scapy.UDP(sport=0x1234)
    )
    six = (
        frames.ether(PAIR, "client", "server", ip=6)
        / scapy.IPv6()
        / scapy.IPv6ExtHdrHopByHop()
        / scapy.UDP(sport=0x1234)
    )
    for frame in (plain, tagged, bytes(long), bytes(six)):
        fields = flow_fields(frame)
        assert frame[fields.port : fields.port + 2] == b"\x12\x34"
    assert flow_fields(bytes(six)).ip_checksum == NOT_THERE
    assert flow_knobs(tagged, 8)["is_udp"] is False


@pytest.mark.parametrize("frame", [b"", bytes(60), bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x01" + bytes(40)])
def test_a_frame_without_ports_cannot_be_varied(frame: bytes) -> None:
    """Truncated, no IP, ICMP: one sentence each."""
    with pytest.raises(TrafficError, match="vary the flows"):
        flow_fields(frame)
