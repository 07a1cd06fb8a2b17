"""Streams over real networks: side by side, beside a block, through programs that lose, repeat and change messages."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lab import Direction, Mode, NamespaceSpec, Network, Stream, Topology, Veth, wait_until
from lab.bpf.loader import Loader
from lab.errors import TrafficError
from lab.kernel import softirq
from lab.model.journal import journal

TOPOLOGY = Topology.pair("client", "server")
CHAIN = Topology.chain("client", "dut", "server")
BPF = Path(__file__).parents[1] / "bpf"
DROP, MANGLE = BPF / "drop.bpf.c", BPF / "mangle.bpf.c"


def test_streams_run_side_by_side(net: Network) -> None:
    """Five streams of all protocols and families, three of them to one port, arrive whole, each by itself."""
    streams = [
        Stream.udp("client", "server", dst_port=9000, count=300, flows=3),
        Stream.udp("client", "server", dst_port=9000, count=200, src_port=50_000),
        Stream.udp("client", "server", dst_port=9000, count=100, ip=6),
        Stream.tcp("client", "server", dst_port=9000, count=150, flows=7),
        Stream.tcp("client", "server", dst_port=9000, count=50, src_port=50_000, frame_bytes=(100, 5000)),
        Stream.icmp("client", "server", count=80, flows=4),
        Stream.icmp("client", "server", count=70, ip=6),
    ]
    deliveries = net.send_all(streams)
    assert [(each.offered, each.received, each.reordered, each.duplicated) for each in deliveries] == [
        (stream.count, stream.count, 0, 0) for stream in streams
    ]


def test_streams_together_take_the_longest_one_s_time(net: Network) -> None:
    """Two paced streams overlap: together they take no longer than one of them."""
    streams = [
        Stream.udp("client", "server", dst_port=port, src_port=port, count=100, rate_pps=1000) for port in (9000, 9001)
    ]
    start = time.monotonic()
    deliveries = net.send_all(streams)
    elapsed_s = time.monotonic() - start
    assert [each.lost for each in deliveries] == [0, 0]
    assert elapsed_s < sum(each.duration_s for each in deliveries)


@pytest.mark.parametrize("mode", list(Mode))
def test_losses_are_counted(net: Network, bpf: Loader, mode: Mode) -> None:
    """Of 300 datagrams every third is dropped: 200 arrive, none twice, none in another order."""
    with bpf.load(MANGLE, program="every_third").attach(net.interface("server/eth0"), mode=mode):
        delivery = net.send(Stream.udp("client", "server", dst_port=9000, count=300))
    assert (delivery.received, delivery.lost, delivery.duplicated, delivery.reordered) == (200, 100, 0, 0)
    assert delivery.reached == "server/eth0"


def test_duplicates_make_up_for_nothing(net: Network, bpf: Loader) -> None:
    """Each of 50 datagrams comes twice: 50 are received, and 50 are duplicates."""
    with bpf.load(MANGLE, program="duplicate").attach(net.interface("client/eth0"), direction=Direction.EGRESS):
        delivery = net.send(Stream.udp("client", "server", dst_port=9000, count=50, quiet_s=0.05))
    assert (delivery.received, delivery.lost, delivery.duplicated) == (50, 0, 50)


def test_a_changed_message_is_not_received(net: Network, bpf: Loader) -> None:
    """A program that spoils one byte of each payload delivers nothing, though every datagram comes."""
    stream = Stream.udp("client", "server", dst_port=9000, count=20, frame_bytes=100)
    with bpf.load(MANGLE, program="corrupt").attach(net.interface("server/eth0"), direction=Direction.INGRESS):
        delivery = net.send(stream)
    assert (delivery.offered, delivery.received, delivery.reached) == (20, 0, "server/eth0")


@pytest.mark.topology(CHAIN)
def test_a_delivery_says_how_far_the_stream_came(net: Network, bpf: Loader) -> None:
    """Dropped at the router, dropped at the server, not dropped at all: three different answers."""
    stream = Stream.udp("client", "server", dst_port=9000)
    drop = bpf.load(DROP, program="drop_xdp")
    with drop.attach(net.interface("dut/eth0"), mode=Mode.NATIVE):
        assert net.send(stream).reached == "dut/eth0"
    with drop.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        assert net.send(stream).reached == "server/eth0"
    assert net.send(stream).reached == ""


def test_a_blocked_stream_ends_soon(net: Network, bpf: Loader) -> None:
    """A dropped handshake does not wait for TCP's retransmissions, which come after 1, 3, 7 ... seconds."""
    with bpf.load(DROP, program="drop_xdp").attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        start = time.monotonic()
        delivery = net.send(Stream.tcp("client", "server", dst_port=80, count=100, flows=50))
        assert time.monotonic() - start < 5
    assert (delivery.offered, delivery.received) == (100, 0)


def test_many_flows_are_many_connections(net: Network) -> None:
    """3,000 connections, far more than the listener's backlog and the select call can hold, all carry their message."""
    delivery = net.send(Stream.tcp("client", "server", dst_port=80, count=3000, flows=3000, src_port=10_000))
    assert (delivery.received, delivery.duplicated) == (3000, 0)


def test_a_repeated_stream_meets_no_old_connection(net: Network) -> None:
    """The same ports again at once, twenty times, with more data than sequence numbers move on in the time between."""
    stream = Stream.tcp("client", "server", dst_port=80, count=100, frame_bytes=1500, flows=3)
    assert [net.send(stream).lost for _ in range(20)] == [0] * 20


def test_a_fragmented_datagram_is_one_message(net: Network) -> None:
    """Datagrams beyond the MTU go in fragments and count once each."""
    sizes = (3000, 9000, 65_549)
    assert net.send(Stream.udp("client", "server", dst_port=9000, count=30, frame_bytes=sizes)).lost == 0


def test_what_the_senders_kernel_refuses_did_not_leave(net: Network) -> None:
    """A rule that prohibits (EACCES, as a cgroup program gives EPERM) is a loss, which the canary sees unless told."""
    stream = Stream.udp("client", "server", dst_port=9000, count=10)
    net["client"].run(subprocess.run, ["ip", "rule", "add", "pref", "10", "to", "10.0.0.2", "prohibit"], check=True)
    with pytest.raises(TrafficError, match=r"nothing arrived, and only 0 of 10 frames left"):
        net.send(stream)
    assert net.send(stream, canary=False).lost == 10


def test_without_a_route_the_kernels_words_are_kept(net: Network) -> None:
    """A virtual address that nothing routes is an error, not a loss."""
    stream = Stream.udp("client", "server", dst_port=9000, to_address="198.51.100.1")
    with pytest.raises(TrafficError, match=r'kernel: "Network is unreachable"'):
        net.send(stream)


def test_a_taken_port_is_named(net: Network) -> None:
    """Two sockets cannot have one port: the error says which, and how to choose another."""
    with net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 9000))
        with pytest.raises(TrafficError, match="port 9000 cannot be bound"):
            net.send(Stream.udp("client", "server", dst_port=9000))


def test_a_canary_sings_before_and_after(net: Network, bpf: Loader) -> None:
    """A path that is dead before the block, or dies in it, is an error; one that lives costs nothing."""
    neighbour = Stream.udp("client", "server", dst_port=9001, count=1)
    drop = bpf.load(DROP, program="drop_xdp")
    with net.canary(neighbour):
        pass
    with (
        drop.attach(net.interface("server/eth0"), mode=Mode.NATIVE),
        pytest.raises(TrafficError, match=r"canary before the block.*reached is server/eth0"),
        net.canary(neighbour),
    ):
        pytest.fail("the block must not run")
    attachment = None
    with pytest.raises(TrafficError, match="canary after the block"), net.canary(neighbour):
        attachment = drop.attach(net.interface("server/eth0"), mode=Mode.NATIVE)
    assert attachment is not None
    attachment.detach()


def test_rules_change_while_a_stream_runs(net: Network, bpf: Loader) -> None:
    """A program comes and goes in the middle of a stream: what it dropped is missing, and nothing else."""
    program = bpf.load(DROP, program="drop_xdp")
    with net.sending(Stream.udp("client", "server", dst_port=9000, count=10_000_000, rate_pps=20_000)) as sending:
        wait_until(lambda: sending.received > 100, what="traffic to flow")
        with program.attach(net.interface("server/eth0"), mode=Mode.GENERIC):
            wait_until(lambda: program.globals["dropped"] > 100, what="frames to be dropped")
        sending.stop()
    assert sending.delivery.lost == program.globals["dropped"]
    assert not sending.under_way


def test_a_failing_block_stops_its_stream(net: Network) -> None:
    """An exception in the block ends the traffic at once, and is what the caller sees."""
    stream = Stream.udp("client", "server", dst_port=9000, count=100_000, rate_pps=1000)
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), net.sending(stream) as sending:
        wait_until(lambda: sending.offered > 10, what="traffic to flow")
        raise ZeroDivisionError
    assert time.monotonic() - start < 5
    assert "lab-traffic" not in [each.name for each in threading.enumerate()]


def test_a_stopped_stream_gives_what_it_did(net: Network) -> None:
    """`stop` ends an endless stream: offered is what was sent until then, and nothing of it is lost."""
    with net.sending(Stream.udp("client", "server", dst_port=9000, count=10_000_000, rate_pps=5000)) as sending:
        wait_until(lambda: sending.received >= 50, what="traffic to flow")
        sending.stop()
    assert 50 <= sending.delivery.offered < 10_000_000
    assert sending.delivery.lost == 0


def test_a_send_is_noted_once(net: Network) -> None:
    """The report learns of each delivery, with the words of the stream."""
    with journal() as kept:
        net.send(Stream.udp("client", "server", dst_port=9000, count=3))
    (note,) = kept.of("delivery")
    assert (note["stream"], note["offered"], note["lost"]) == ("udp client to server:9000", 3, 0)


@pytest.mark.topology(
    Topology.of(
        namespaces=[NamespaceSpec("client"), NamespaceSpec("a"), NamespaceSpec("b")],
        veths=[Veth("client/eth0", "a/eth0"), Veth("client/eth1", "b/eth0")],
    )
)
def test_a_sender_with_two_interfaces_uses_the_right_one(net: Network) -> None:
    """To each neighbour out of its own interface, with that interface's address and canary."""
    for neighbour in ("a", "b"):
        assert net.send(Stream.udp("client", neighbour, dst_port=9000, count=5)).lost == 0


def test_the_kernel_is_settled_from_any_thread(net: Network) -> None:
    """The canary of the softirqs leaves the thread on the CPUs and in the namespace where it was."""
    before = os.sched_getaffinity(0), Path("/proc/thread-self/ns/net").stat().st_ino
    threads = [threading.Thread(target=softirq.settle) for _ in range(8)]
    for each in threads:
        each.start()
    softirq.settle()
    for each in threads:
        each.join()
    assert (os.sched_getaffinity(0), Path("/proc/thread-self/ns/net").stat().st_ino) == before
