"""Traffic's pure parts: ways, marks, paces, flows, files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import NamespaceSpec, Stream, Topology, Veth
from lab.errors import TrafficError
from lab.kernel.packet import Frame
from lab.net.spec import Route
from lab.traffic import flood, frames
from lab.traffic.codec import codec
from lab.traffic.exchange import Received, raw_frames
from lab.traffic.flight import Arrivals
from lab.traffic.flood import Amount
from lab.traffic.flow_fields import check_flows, flow_fields, flow_frame
from lab.traffic.pace import Pace
from lab.traffic.pcapng import pcapng
from lab.traffic.stream import read_mark
from lab.traffic.way import way

PAIR = Topology.pair("client", "server")
CHAIN = Topology.chain("client", "one", "two", "server")
STAR = Topology.star("hub", leaves=3)
SWITCH = Topology.bridge("switch", leaves=("x", "y"))
HUB_OF_TWO = Topology.of(
    namespaces=[NamespaceSpec("client"), NamespaceSpec("a"), NamespaceSpec("b")],
    veths=[Veth("client/eth0", "a/eth0"), Veth("client/eth1", "b/eth0")],
)
SERVICE = Topology.of(
    namespaces=[NamespaceSpec("client", routes=(Route("192.0.2.0/24", via="10.0.0.2"),)), NamespaceSpec("balancer")],
    veths=[Veth("client/eth0", "balancer/eth0", ipv4=("10.0.0.1/24", "10.0.0.2/24"))],
)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("topology", "src", "dst", "places"),
    [
        (PAIR, "client", "server", ["server/eth0"]),
        (CHAIN, "client", "server", ["one/eth0", "two/eth0", "server/eth0"]),
        (CHAIN, "server", "one", ["two/eth1", "one/eth1"]),
        (STAR, "leaf1", "leaf3", ["hub/eth0", "leaf3/eth0"]),
        (SWITCH, "x", "y", ["y/eth0"]),
        (HUB_OF_TWO, "client", "b", ["b/eth0"]),
        (PAIR, "client", "client", []),
    ],
)
def test_a_way_follows_the_routes(topology: Topology, src: str, dst: str, places: list[str], family: int) -> None:
    """Every interface that a packet enters, from hop to hop, in both families."""
    steps = way(topology, src, topology.address(dst, family))
    assert [step.into.name for step in steps if step.into] == places


def test_a_frame_to_a_virtual_address_goes_where_it_is_routed() -> None:
    """A service's address is nobody's: the frame is addressed to the router that the route names."""
    frame = frames.tcp(SERVICE, "client", "192.0.2.10", dst_port=80, flags="S")
    assert (frame.dst, frame.payload.src, frame.payload.dst) == (
        SERVICE.interface("balancer/eth0").mac,
        "10.0.0.1",
        "192.0.2.10",
    )


def test_a_frame_leaves_the_interface_of_its_route() -> None:
    """Of two interfaces the right one gives the addresses."""
    frame = frames.udp(HUB_OF_TWO, "client", "b", dst_port=9)
    own = HUB_OF_TWO.interface("client/eth1")
    assert (frame.src, frame.payload.src) == (own.mac, str(own.ipv4.ip))


@pytest.mark.parametrize(
    ("dst", "options", "words"),
    [
        ("192.0.2.1", {}, "client has no route to 192.0.2.1"),
        ("192.0.2.1", {"ip": 6}, "no IPv6 address"),
        ("client", {}, "both are in one namespace"),
    ],
)
def test_a_frame_without_a_way_is_refused(dst: str, options: dict[str, int], words: str) -> None:
    """No route, another family, nowhere to go: one sentence each."""
    with pytest.raises(TrafficError, match=words):
        frames.udp(PAIR, "client", dst, dst_port=9, **options)


def test_an_echo_request_carries_what_it_is_given() -> None:
    """Payload, tags and fields of the IP header, in both families."""
    four = frames.icmp(PAIR, "client", "server", payload=b"ping", vlans=(7,), ttl=3)
    six = frames.icmp(PAIR, "client", "server", payload=b"ping", ip=6, hlim=3)
    assert (four["Dot1Q"].vlan, four["IP"].ttl, bytes(four)[-4:]) == (7, 3, b"ping")
    assert (six["IPv6"].hlim, bytes(six)[-4:]) == (3, b"ping")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to_address": "fd00::1"}, "no IPv4 address"),
        ({"to_address": "server"}, "no IPv4 address"),
        ({"to_port": 70_000}, "to_port=70000"),
        ({"frame_bytes": 70_000}, "65549 at most"),
        ({"frame_bytes": ()}, "must be 50 or more"),
        ({"quiet_s": -1}, "quiet_s=-1"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    """One sentence names the value, before a socket is opened."""
    with pytest.raises(TrafficError, match=words):
        Stream.udp("client", "server", dst_port=9000, **options)


@given(st.integers(0, 0xFFFF), st.integers(0, (1 << 48) - 1))
def test_a_mark_is_read_as_it_was_written(index: int, number: int) -> None:
    """The stream's place and the message's number come back, whatever they are."""
    assert read_mark(Stream.udp("a", "b", dst_port=1).payload(number, index)) == (index, number)


def test_a_foreign_payload_has_no_mark() -> None:
    """What is shorter than a mark is no stream's."""
    assert read_mark(b"short") == (-1, -1)


def test_order_is_a_flow_s_own() -> None:
    """Of two flows one may overtake the other: only within a flow is a message reordered."""
    arrivals = Arrivals(flows=2)
    for number in (1, 3, 0, 2, 4, 7, 5):
        arrivals.add(number)
    assert (arrivals.reordered, arrivals.duplicated, len(arrivals.seen)) == (1, 0, 7)


def test_a_pace_is_due_when_it_is() -> None:
    """Without a rate everything is due at once; at 10 a second the second message is not."""
    assert Pace(None).due_in_s(10**9) == 0.0
    pace = Pace(10)
    assert pace.due_in_s(0) == 0.0
    assert 0 < pace.due_in_s(1) <= 0.1


def test_a_missing_interface_is_no_empty_list() -> None:
    """A namespace's name gives the frames of all its interfaces; an unknown name is an error."""
    received = Received({"dut/eth0": [1], "dut/eth1": [2], "server/eth0": []}, 3, 3)
    assert (received["dut"], received["server/eth0"], received["server"]) == ([1, 2], [], [])
    with pytest.raises(TrafficError, match="there is no interface 'sever'"):
        received["sever"]


def test_one_frame_and_many_are_frames() -> None:
    """Bytes, a packet, a list, a generator; nothing at all is refused."""
    frame = frames.udp(PAIR, "client", "server", dst_port=9)
    assert raw_frames(frame) == raw_frames([frame]) == raw_frames(bytes(frame)) == raw_frames(each for each in (frame,))
    with pytest.raises(TrafficError, match="no frame at all"):
        raw_frames([])


def variants() -> Iterator[tuple[str, bytes]]:
    """Templates of all kinds that a flood takes."""
    for make in (frames.udp, frames.tcp):
        for ip in (4, 6):
            for vlans in ((), (5,), (5, 6)):
                frame = make(PAIR, "client", "server", dst_port=80, src_port=49_000, ip=ip, vlans=vlans, payload=b"odd")
                yield f"{make.__name__} {ip} {vlans}", bytes(frame)


@pytest.mark.parametrize(("name", "frame"), list(variants()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_flow_s_checksums_are_right(name: str, frame: bytes) -> None:
    """The incremental checksums (RFC 1624) are those that scapy computes afresh, for any flow."""
    fields = flow_fields(frame)
    seen = set()
    for flow in (0, 1, 255, 16_383, 16_384, 999_999, (1 << 20) - 1):
        made = flow_frame(frame, fields, flow)
        packet = codec().Ether(made)
        seen.add((packet["IPv6" if "IPv6" in packet else "IP"].src, packet.sport))
        for layer in ("IP", "UDP", "TCP"):
            if layer in packet:
                del packet[layer].chksum
        assert bytes(packet) == made
    assert len(seen) == 7


def test_a_udp_checksum_of_zero_stays() -> None:
    """RFC 768: zero says that there is none, and a flood makes none up."""
    frame = frames.udp(PAIR, "client", "server", dst_port=9)
    frame["UDP"].chksum = 0
    raw = bytes(frame)
    made = flow_frame(raw, flow_fields(raw), 77)
    assert codec().Ether(made)["UDP"].chksum == 0


def test_ports_do_not_run_over() -> None:
    """Flows whose source ports would pass 65,535 are refused, with the port to begin at."""
    frame = bytes(frames.udp(PAIR, "client", "server", dst_port=9, src_port=60_000))
    check_flows(frame, 5536)
    with pytest.raises(TrafficError, match=r"5,537 flows from port 60000 run to 65536"):
        check_flows(frame, 5537)
    with pytest.raises(TrafficError, match="src_port=49152 or below"):
        check_flows(frame, 1 << 20)


def test_an_amount_is_sent_to_the_last_frame() -> None:
    """A count is met exactly in chunks; seconds end; a rate offers what is due in the turn."""
    chunks: list[int] = []

    def send(chunk: int) -> int:
        chunks.append(chunk)
        return chunk

    Amount(count=2500).send(send, 1000)
    assert chunks == [1000, 1000, 500]
    chunks.clear()
    start = time.monotonic()
    Amount(seconds=0.05, rate_pps=100_000).send(send, 1000)
    assert time.monotonic() - start >= 0.05
    assert 4000 <= sum(chunks) <= 5000


def test_a_count_that_cannot_be_met_is_an_error(monkeypatch) -> None:
    """A flood that sends less than it was asked for, because its time is over, does not pass for one that sent all."""
    monkeypatch.setattr(flood, "LONGEST_S", 0.01)
    with pytest.raises(TrafficError, match=r"1 of 2 frames went within 0.01 s"):
        Amount(count=2).send(lambda _: time.sleep(0.02) or 1, 1000)


def test_cpu_time_is_that_of_sending() -> None:
    """What the sending took of the CPU is told, and not the pauses between turns."""
    cpu_s = Amount(seconds=0.02, rate_pps=2000).send(lambda chunk: sum(range(1000)) * 0 + chunk, 1000)
    assert 0 < cpu_s < 0.02


def test_a_capture_file_is_read_by_others(tmp_path: Path) -> None:
    """scapy's own reader finds the frames, their times to the ns, and the interface's name."""
    seen = [Frame(b"\x01" * 61, 1_795_240_762_123_456_789, False, False), Frame(b"\x02" * 64, 1 << 61, True, False)]
    file = tmp_path / "seen.pcapng"
    file.write_bytes(b"".join(pcapng("server/eth0", seen)))
    with codec().RawPcapNgReader(str(file)) as reader:
        found = list(reader)
    assert [raw for raw, _ in found] == [each.raw for each in seen]
    times = [((about.tshigh << 32) | about.tslow, about.tsresol, about.ifname) for _, about in found]
    assert times == [(each.time_ns, 1_000_000_000, b"server/eth0") for each in seen]
