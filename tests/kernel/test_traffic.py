"""Traffic through real networks: what is counted is what was sent, and nothing passes because nothing was sent."""

from __future__ import annotations

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import Direction, Mode, Network, Stream, Topology, expect
from lab.bpf.loader import Loader
from lab.errors import FeatureMissing, TrafficError
from lab.traffic import frames

TOPOLOGY = Topology.pair("client", "server")
CHAIN = Topology.chain("client", "dut", "server")
DROP = Path(__file__).parents[1] / "bpf" / "drop.bpf.c"


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize(
    "stream",
    [
        lambda ip: Stream.udp("client", "server", dst_port=9000, count=200, flows=5, ip=ip),
        lambda ip: Stream.udp("client", "server", dst_port=9000, frame_bytes=(90, 600, 1500), ip=ip),
        lambda ip: Stream.tcp("client", "server", dst_port=80, count=200, flows=20, ip=ip),
        lambda ip: Stream.tcp("client", "server", dst_port=80, count=20, frame_bytes=60_000, ip=ip),
        lambda ip: Stream.icmp("client", "server", ip=ip),
    ],
    ids=["udp flows", "udp sizes", "tcp flows", "tcp large", "icmp"],
)
def test_a_stream_arrives_whole(net: Network, stream, ip: int) -> None:
    """Over a bare veth everything that is offered is received, once."""
    described = stream(ip)
    delivery = net.send(described)
    assert (delivery.offered, delivery.received, delivery.duplicated) == (described.count, described.count, 0)


@pytest.mark.topology(CHAIN)
def test_a_stream_is_routed(net: Network) -> None:
    """Through a router nothing is lost either."""
    assert net.send(Stream.udp("client", "server", dst_port=9000)).lost == 0
    assert net.send(Stream.tcp("client", "server", dst_port=80, ip=6)).lost == 0


def test_a_rate_is_kept(net: Network) -> None:
    """200 datagrams at 2,000 a second take a tenth of a second, and not less."""
    start = time.monotonic()
    assert net.send(Stream.udp("client", "server", dst_port=9000, count=200, rate_pps=2000)).lost == 0
    assert time.monotonic() - start >= 0.099


@pytest.mark.parametrize("mode", list(Mode))
def test_a_dropped_stream_is_lost_and_was_under_way(net: Network, bpf: Loader, mode: Mode) -> None:
    """The canary sees the frames leave, so that received == 0 means something."""
    with bpf.load(DROP, program="drop_xdp").attach(net.interface("server/eth0"), mode=mode):
        assert net.send(Stream.udp("client", "server", dst_port=9000)).received == 0
        assert net.send(Stream.tcp("client", "server", dst_port=80, count=4)).received == 0
        assert net.send(Stream.icmp("client", "server")).received == 0
    assert net.send(Stream.udp("client", "server", dst_port=9000)).lost == 0


def test_a_stream_that_never_left_is_an_error(net: Network, bpf: Loader) -> None:
    """What a program at the sender's own egress stops is no proof of anything, unless the test says so."""
    stream = Stream.udp("client", "server", dst_port=9000)
    with bpf.load(DROP, program="drop_tc").attach(net.interface("client/eth0"), direction=Direction.EGRESS):
        with pytest.raises(TrafficError, match="nothing arrived, and only 0 of 100 frames left client/eth0"):
            net.send(stream)
        assert net.send(stream, canary=False).received == 0


def test_a_stream_runs_beside_the_block(net: Network) -> None:
    """The block goes on while messages are sent; the delivery is there at its end."""
    with net.sending(Stream.udp("client", "server", dst_port=9000, count=300, rate_pps=3000)) as sending:
        assert sending.under_way
    assert (sending.delivery.offered, sending.delivery.lost) == (300, 0)


@pytest.mark.topology(CHAIN)
def test_an_exchange_shows_the_frame_at_every_place(net: Network) -> None:
    """A routed frame is seen as sent at the router, and with its TTL lower at the server."""
    sent = frames.udp(net, "client", "server", dst_port=9, ttl=64, payload=b"whole")
    received = net.exchange(sent, at="client/eth0")
    expect(received["dut/eth0"]).equals(sent)
    (arrived,) = received["server/eth0"]
    assert (arrived.ttl, arrived.load) == (63, b"whole")
    (answer,) = received["dut/eth1"]
    assert answer.haslayer("ICMP"), "nobody listens on port 9, and the server says so"


def test_an_exchange_keeps_tags(net: Network) -> None:
    """The kernel takes a tag out before a socket sees it; the lab puts it back."""
    for vlans in ((100,), (200, 100)):
        sent = frames.udp(net, "client", "server", dst_port=9, vlans=vlans)
        expect(net.exchange(sent, at="client/eth0")["server/eth0"]).equals(sent)


def test_an_impossible_frame_is_refused_in_the_kernels_words(net: Network) -> None:
    """Beyond the MTU nothing is sent, and the error says so."""
    with pytest.raises(TrafficError, match=r"send a frame of 3000 bytes from client/eth0"):
        net.exchange(bytes(3000), at="client/eth0")


def test_a_capture_sees_both_ways_and_writes_what_tcpdump_reads(net: Network, tmp_path: Path) -> None:
    """Three echo requests and three replies are six frames, in the capture and in the file."""
    with net.capture("server/eth0") as capture:
        net.send(Stream.icmp("client", "server", count=3))
    assert len(capture.frames) == 6
    assert capture.dropped == 0
    assert [frame.outgoing for frame in capture.frames].count(True) == 3
    if not shutil.which("tcpdump"):
        pytest.skip("tcpdump is not installed: apt-get install tcpdump")
    file = capture.write(tmp_path / "seen.pcapng")
    printed = subprocess.run(["tcpdump", "-nr", file], capture_output=True, text=True, check=True).stdout
    assert printed.count("ICMP echo request") == 3


@pytest.mark.needs("live_frames")
@pytest.mark.parametrize("flows", [1, 1000, 1 << 20])
@pytest.mark.parametrize("ip", [4, 6])
def test_a_flood_is_counted_to_the_last_frame(net: Network, bpf: Loader, flows: int, ip: int) -> None:
    """300,000 live frames into a program that drops them: each is received, and all flows are told apart."""
    program = bpf.load(DROP, program="drop_xdp")
    frame = frames.udp(net, "client", "server", dst_port=9, ip=ip, payload=bytes(18))
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        delivery = net.flood("client/eth0", frame, flows=flows, count=300_000)
    assert (delivery.offered, delivery.received) == (300_000, 300_000)
    assert program.globals["dropped"] == 300_000


@pytest.mark.needs("live_frames")
def test_a_floods_frames_are_right(net: Network) -> None:
    """Every flow's frame has its own source, and checksums that scapy computes too."""
    template = frames.tcp(net, "client", "server", dst_port=80, src_port=1000, payload=b"x" * 20)
    with net.capture("server/eth0") as capture:
        net.flood("client/eth0", template, flows=1 << 16, count=256)
    seen = [each for each in capture.packets if each.haslayer("TCP") and each.dport == 80]
    assert len(seen) == 256
    assert len({(each.payload.src, each.sport) for each in seen}) == 256
    for each in seen:
        again = each.copy()
        del again["IP"].chksum, again["TCP"].chksum
        expect(each).equals(type(each)(bytes(again)))


@pytest.mark.needs("live_frames")
def test_a_flood_keeps_to_its_rate(net: Network, bpf: Loader) -> None:
    """Paced floods are within a tenth of the rate that was asked for."""
    frame = frames.udp(net, "client", "server", dst_port=9)
    program = bpf.load(DROP, program="drop_xdp")
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        delivery = net.flood("client/eth0", frame, flows=16, seconds=0.3, rate_pps=100_000)
    assert 1000 < delivery.offered <= 110_000 * delivery.duration_s


def test_iperf3_gives_typed_figures(net: Network) -> None:
    """TCP and UDP, forwards and backwards: bytes came, and the counts are there."""
    tcp = net.iperf3("client", "server")
    udp = net.iperf3("client", "server", protocol="udp", bits_per_second=10e6, reverse=True)
    assert tcp.bits_per_second > 1e8
    assert udp.packets > 100
    assert udp.lost <= udp.packets
    assert tcp.raw["start"]["version"].startswith("iperf")


def test_iperf3_runs_in_parallel_over_ipv6(net: Network) -> None:
    """Three parallel streams backwards over IPv6 are one result, and raw has all three."""
    result = net.iperf3("client", "server", parallel=3, reverse=True, ip=6)
    assert len(result.raw["end"]["streams"]) == 3
    assert result.bits_per_second > 1e8


def test_iperf3_runs_side_by_side(net: Network) -> None:
    """Each on its port; seconds that are omitted come before those that count."""
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(net.iperf3, "client", "server", port=port, omitted_seconds=1) for port in (5201, 5202)]
    for run in runs:
        intervals = [each["sum"]["omitted"] for each in run.result().raw["intervals"]]
        assert (intervals.count(True), intervals.count(False)) == (1, 1)
        assert 0.9 < run.result().seconds < 1.5


def test_iperf3_refuses_what_cannot_be(net: Network) -> None:
    """Half a second, 999 streams, an unknown protocol: one sentence each, and no process."""
    for options, words in (
        ({"seconds": 0.5}, "whole number"),
        ({"parallel": 999}, "between 1 and 128"),
        ({"protocol": "sctp"}, "neither tcp nor udp"),
        ({"omitted_seconds": -1}, "omitted_seconds=-1"),
    ):
        with pytest.raises(TrafficError, match=words):
            net.iperf3("client", "server", **options)
    assert net["server"].processes == []


def test_iperf3_fails_in_its_own_words(net: Network, bpf: Loader) -> None:
    """iperf3 3.12 exits with 0 when it failed: the lab reads what it says, and does not wait for long."""
    start = time.monotonic()
    with (
        bpf.load(DROP, program="drop_xdp").attach(net.interface("server/eth0"), mode=Mode.NATIVE),
        pytest.raises(TrafficError, match="unable to connect to server"),
    ):
        net.iperf3("client", "server")
    assert time.monotonic() - start < 10
    assert [each.poll() is not None for each in net["server"].processes] == [True]


def test_iperf3_that_is_missing_says_how_to_get_it(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """FeatureMissing, with the package's name."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FeatureMissing, match="apt-get install iperf3"):
        net.iperf3("client", "server")


@pytest.mark.topology(Topology.chain("client", "dut", "server"))
def test_a_path_that_is_dead_behind_the_first_hop_is_an_error(net: Network) -> None:
    """Frames leave the client, and a link behind the router is down: no stream, and no frame, is silently lost."""
    stream = Stream.udp("client", "server", dst_port=9000, count=5)
    frame = frames.udp(net, "client", "server", dst_port=9000)
    assert net["server"].popen(["ip", "link", "set", "eth0", "down"]).wait() == 0
    with pytest.raises(TrafficError, match=r"nothing arrived, and (dut|server)/eth\d is down"):
        net.send(stream)
    assert net.send(stream, canary=False).received == 0
    assert net.exchange(frame, at="client/eth0")["dut/eth0"], "it came as far as the router"
    assert net["dut"].popen(["ip", "link", "set", "eth0", "down"]).wait() == 0
    with pytest.raises(TrafficError, match=r"exchange: nothing arrived, and .* is down"):
        net.exchange(frame, at="client/eth0")
