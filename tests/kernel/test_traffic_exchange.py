"""Whole frames exchanged and captured on real networks."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from lab import Direction, Mode, Network, Topology, expect, wait_until
from lab.bpf.loader import Loader
from lab.errors import TrafficError
from lab.kernel import packet
from lab.model.journal import journal
from lab.traffic import frames
from lab.traffic.codec import codec

TOPOLOGY = Topology.pair("client", "server")
STAR = Topology.star("hub", leaves=3)
DROP = Path(__file__).parents[1] / "bpf" / "drop.bpf.c"


def test_exchanges_follow_each_other_without_a_trace(net: Network) -> None:
    """A hundred exchanges: each gives its own frame and none of an earlier one."""
    for number in range(100):
        sent = frames.udp(net, "client", "server", dst_port=9, payload=b"%d" % number)
        expect(net.exchange(sent, at="client/eth0")["server/eth0"]).equals(sent)


def test_what_passes_between_exchanges_is_in_none(net: Network) -> None:
    """Frames sent while no exchange listens are not found in the next."""
    first = frames.udp(net, "client", "server", dst_port=9, payload=b"first")
    net.exchange(first, at="client/eth0")
    with net.packet_socket("client/eth0") as stray:
        stray.send(bytes(first))
    second = frames.udp(net, "client", "server", dst_port=9, payload=b"second")
    expect(net.exchange(second, at="client/eth0")["server/eth0"]).equals(second)


def test_answers_come_back_to_the_sender(net: Network) -> None:
    """An echo request is in at the server, and its reply at the client."""
    received = net.exchange(frames.icmp(net, "client", "server", payload=b"ping", ip=6), at="client/eth0")
    (request,), (reply,) = received["server/eth0"], received["client/eth0"]
    assert (request.haslayer("ICMPv6EchoRequest"), reply.haslayer("ICMPv6EchoReply")) == (1, 1)
    assert len(received.everywhere) == 2


def test_frames_keep_their_order(net: Network) -> None:
    """Bytes and scapy packets in one list arrive in its order."""
    sent = [frames.udp(net, "client", "server", dst_port=port) for port in range(1, 200)]
    mixed = [bytes(each) if number % 2 else each for number, each in enumerate(sent)]
    expect(net.exchange(mixed, at="client/eth0")["server/eth0"]).equals(sent)


@pytest.mark.topology(STAR)
def test_a_frame_is_seen_where_it_goes_and_nowhere_else(net: Network) -> None:
    """Through a hub, from leaf to leaf: two interfaces see it come in, the others nothing."""
    received = net.exchange(frames.udp(net, "leaf1", "leaf3", dst_port=9), at="leaf1/eth0")
    seen = {
        name
        for name, each in received.items()
        for frame in each
        if frame.haslayer("UDP") and not frame.haslayer("ICMP")
    }
    assert seen == {net.interface("leaf1/eth0").peer.name, "leaf3/eth0"}
    assert received["leaf2"] == []


def test_a_misspelt_interface_is_no_empty_list(net: Network) -> None:
    """A slip of the pen must not let an assertion of absence pass."""
    received = net.exchange(frames.udp(net, "client", "server", dst_port=9), at="client/eth0")
    with pytest.raises(TrafficError, match="there is no interface 'servr/eth0'"):
        expect(received["servr/eth0"]).is_empty()


@pytest.mark.parametrize("mode", list(Mode))
def test_what_xdp_drops_does_not_come_in(net: Network, bpf: Loader, mode: Mode) -> None:
    """XDP comes before a packet socket, native and generic: nothing is in, though the frame left."""
    sent = frames.udp(net, "client", "server", dst_port=9)
    with bpf.load(DROP, program="drop_xdp").attach(net.interface("server/eth0"), mode=mode):
        received = net.exchange(sent, at="client/eth0")
    expect(received["server/eth0"]).is_empty()
    assert (received.offered, received.left) == (1, 1)


def test_a_frame_that_egress_drops_is_an_error_unless_meant(net: Network, bpf: Loader) -> None:
    """Nothing left: an error, so that absence further on proves something; `canary=False` says that it is meant."""
    sent = [frames.udp(net, "client", "server", dst_port=9)] * 3
    with bpf.load(DROP, program="drop_tc").attach(net.interface("client/eth0"), direction=Direction.EGRESS):
        with pytest.raises(TrafficError, match="only 0 of 3 frames left client/eth0"):
            net.exchange(sent, at="client/eth0")
        received = net.exchange(sent, at="client/eth0", canary=False)
    assert (received.left, received.everywhere) == (0, [])


def test_an_exchange_with_a_count_waits_for_it(net: Network) -> None:
    """A program's answer may take longer than the kernel: `count` waits for so many frames, and no longer."""
    with net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 9000))
        start = time.monotonic()
        received = net.exchange(
            frames.udp(net, "client", "server", dst_port=9000), at="client/eth0", count=1, within_s=30
        )
        assert time.monotonic() - start < 20
        assert len(received.everywhere) == 1
        received = net.exchange(
            frames.udp(net, "client", "server", dst_port=9000), at="client/eth0", count=2, within_s=0.05
        )
        assert len(received.everywhere) == 1


@pytest.mark.parametrize("nothing", [[], "frame", 7])
def test_what_is_no_frame_is_refused(net: Network, nothing: object) -> None:
    """No frame at all, text, a number: nothing is sent."""
    with pytest.raises((TrafficError, TypeError)):
        net.exchange(nothing, at="client/eth0")


def test_extension_headers_tags_and_fragments_pass_unchanged(net: Network) -> None:
    """What scapy can build, a veth carries to the last byte: two tags, IPv4 options, IPv6 headers, fragments, runts."""
    scapy = codec()
    below, below6 = (frames.ether(net, "client", "server", ip=ip, vlans=(5, 6)) for ip in (4, 6))
    sent = [
        below / scapy.IP(src="10.0.0.1", dst="10.0.0.2", options=[scapy.IPOption_NOP()] * 4) / scapy.UDP(dport=9),
        below6
        / scapy.IPv6(dst="fd00::2")
        / scapy.IPv6ExtHdrHopByHop()
        / scapy.IPv6ExtHdrDestOpt()
        / scapy.UDP(dport=9),
        *scapy.fragment(frames.udp(net, "client", "server", dst_port=9, payload=bytes(3000)), fragsize=1000),
        bytes.fromhex("ffffffffffff0200000000020800") + b"\x45",
    ]
    expect(net.exchange(sent, at="client/eth0")["server/eth0"]).equals(sent)


def test_the_sockets_of_exchanges_end_with_the_network() -> None:
    """Closing them takes the kernel its time: they are gone soon after the network, and cost its close nothing."""
    wait_until(lambda: not _packet_sockets(), within_s=10, what="the packet sockets of other tests to be closed")
    with Network(TOPOLOGY) as net:
        net.exchange(frames.udp(net, "client", "server", dst_port=9), at="client/eth0")
        assert _packet_sockets() == 4
    wait_until(lambda: not _packet_sockets(), within_s=10, what="the packet sockets to be closed")


def _packet_sockets() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if str(descriptor.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(descriptor.name))) as each:
                    found += each.family == socket.AF_PACKET
        except OSError:
            continue
    return found


def test_a_capture_keeps_times_and_directions(net: Network) -> None:
    """Requests come in and replies go out, in order of time, and nothing is seen after the end."""
    with net.capture("server/eth0") as capture:
        net.exchange([frames.icmp(net, "client", "server", sequence=each) for each in (1, 2)], at="client/eth0")
    net.exchange(frames.icmp(net, "client", "server"), at="client/eth0")
    seen = capture.frames
    assert [each.outgoing for each in seen] == [False, True, False, True]
    assert [each.time_ns for each in seen] == sorted(each.time_ns for each in seen)
    assert abs(seen[0].time_ns - time.time_ns()) < 60_000_000_000
    assert capture.packets[0].time == pytest.approx(seen[0].time_ns / 1e9)


def test_a_capture_is_evidence(net: Network) -> None:
    """The report lists what was captured, a line a frame."""
    with journal() as kept, net.capture("server/eth0"):
        net.exchange(frames.icmp(net, "client", "server"), at="client/eth0")
    (note,) = kept.of("evidence")
    assert note["title"] == "captured at server/eth0"
    assert [line[:4] for line in note["text"].splitlines()] == ["in  ", "out "]


def test_a_capture_says_what_did_not_fit(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames beyond the buffer are counted as dropped: kept and dropped are all that passed."""
    monkeypatch.setattr(packet, "BUFFER_BYTES", 64 << 10)
    sent = bytes(frames.udp(net, "client", "server", dst_port=9, payload=bytes(1000)))
    with net.capture("client/eth0") as capture, net.packet_socket("client/eth0") as sender:
        for _ in range(500):
            sender.send(sent)
    assert capture.dropped > 0
    assert len([each for each in capture.frames if each.outgoing]) + capture.dropped >= 500


def test_a_capture_that_cannot_be_written_says_where(net: Network, tmp_path: Path) -> None:
    """The path and the kernel's words are in the error."""
    with net.capture("server/eth0") as capture:
        pass
    with pytest.raises(TrafficError, match=r"write the capture to .*missing"):
        capture.write(tmp_path / "missing" / "seen.pcapng")
