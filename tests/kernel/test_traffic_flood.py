"""Floods on real networks: counted to the last frame, each flow its own, and as fast as they must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Direction, Mode, Network, Topology, bpf, instruments
from lab.bpf.loader import Loader
from lab.errors import TrafficError
from lab.kernel import packet
from lab.model.journal import journal
from lab.traffic import frames
from lab.traffic.flow_fields import flow_fields, flow_frame, flow_knobs

TOPOLOGY = Topology.pair("client", "server")
CHAIN = Topology.chain("client", "dut", "server")
BPF = Path(__file__).parents[1] / "bpf"
DROP = BPF / "drop.bpf.c"
live = pytest.mark.needs("live_frames")
vias = pytest.mark.parametrize("via", [pytest.param("live", marks=live), "packet"])


@pytest.mark.parametrize("make", [frames.udp, frames.tcp])
@pytest.mark.parametrize(("ip", "vlans"), [(4, ()), (6, ()), (4, (5, 6))])
def test_python_and_the_generator_make_the_same_frames(make, ip: int, vlans: tuple[int, ...]) -> None:
    """Flow by flow, checksums included, the program's frame is the one that Python computes."""
    template = bytes(make(TOPOLOGY, "client", "server", dst_port=9, ip=ip, vlans=vlans, payload=b"payload of a flow"))
    flows = 100_000
    fields = flow_fields(template)
    with bpf.load(instruments.path("generate"), **flow_knobs(template, flows)) as generator:
        for flow in (0, 1, 16_383, 16_384, 16_385, 70_000, 99_999):
            generator.globals["rounds"] = flow
            assert generator.run(template).frame == flow_frame(template, fields, flow)


@live
@pytest.mark.parametrize("flows", [1, 1000, 65_536, 1_000_000, 1 << 20])
def test_each_flow_comes_once_before_any_comes_twice(net: Network, bpf: Loader, flows: int) -> None:
    """As many frames as flows are as many different flows, up to a million and beyond; none is lost."""
    frame = frames.udp(net, "client", "server", dst_port=9, payload=bytes(18))
    program = bpf.load(instruments.path("distinct"))
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        delivery = net.flood("client/eth0", frame, flows=flows, count=flows)
    assert (delivery.offered, delivery.lost) == (flows, 0)
    assert (program.globals["frames"], program.globals["flows"]) == (flows, flows)


@live
def test_a_sink_takes_a_flood_where_there_is_no_program(net: Network) -> None:
    """Without a program of the scenario the lab's own takes and counts the frames."""
    frame = frames.udp(net, "client", "server", dst_port=9, ip=6)
    delivery = net.flood("client/eth0", frame, flows=1000, count=100_000, sink="server/eth0")
    assert (delivery.offered, delivery.received) == (100_000, 100_000)


@vias
def test_a_sink_counts_at_the_end_of_the_way(via: str) -> None:
    """Through a router, at a rate that it can bear, everything that was offered comes in at the far end."""
    with Network(CHAIN) as net:
        frame = frames.udp(net, "client", "server", dst_port=9)
        delivery = net.flood("client/eth0", frame, flows=16, count=5000, rate_pps=50_000, sink="server/eth0", via=via)
    assert (delivery.offered, delivery.received) == (5000, 5000)


@vias
def test_a_program_between_loses_what_it_drops(via: str, bpf: Loader) -> None:
    """What a router's program drops is lost to the sink, and that is no error: frames did come to the router."""
    with Network(CHAIN) as net:
        frame = frames.udp(net, "client", "server", dst_port=9)
        with bpf.load(DROP, program="drop_xdp").attach(net.interface("dut/eth0"), mode=Mode.NATIVE):
            delivery = net.flood("client/eth0", frame, count=1000, sink="server/eth0", via=via)
    assert (delivery.offered, delivery.received) == (1000, 0)


@pytest.mark.parametrize("flows", [1, 3, 5000])
def test_packets_are_counted_to_the_last(net: Network, bpf: Loader, flows: int) -> None:
    """The fallback sends exactly what was asked for, flow after flow, many frames a system call."""
    frame = frames.udp(net, "client", "server", dst_port=9)
    program = bpf.load(instruments.path("distinct"))
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        delivery = net.flood("client/eth0", frame, flows=flows, count=10_001, via="packet")
    assert (delivery.offered, delivery.received) == (10_001, 10_001)
    assert (program.globals["frames"], program.globals["flows"]) == (10_001, flows)


def test_a_batch_goes_in_one_call(net: Network) -> None:
    """sendmmsg takes all 300 frames of a batch at once, and each arrives whole and in order."""
    sent = [bytes(frames.udp(net, "client", "server", dst_port=9, payload=b"%03d" % number)) for number in range(300)]
    batch = packet.FrameBatch(sent)
    with net.capture("server/eth0") as capture, net.packet_socket("client/eth0") as sender:
        assert batch.send(sender, 100, 1000) == 200
        assert batch.send(sender, 0, 100) == 100
    came = [each.raw for each in capture.frames if not each.outgoing]
    assert came == [*sent[100:], *sent[:100]]


def test_a_flood_that_egress_stops_is_an_error(net: Network, bpf: Loader) -> None:
    """Nothing came to the peer: no measurement may be made of that."""
    frame = frames.udp(net, "client", "server", dst_port=9)
    with (
        bpf.load(DROP, program="drop_tc").attach(net.interface("client/eth0"), direction=Direction.EGRESS),
        pytest.raises(TrafficError, match="none of 100 frames came to server/eth0"),
    ):
        net.flood("client/eth0", frame, count=100, via="packet")


@live
def test_live_frames_pass_below_the_egress(net: Network, bpf: Loader) -> None:
    """Live frames do not meet the tc program of their own interface: that is what `via="packet"` is for."""
    frame = frames.udp(net, "client", "server", dst_port=9)
    program = bpf.load(DROP, program="drop_tc")
    with program.attach(net.interface("client/eth0"), direction=Direction.EGRESS):
        assert net.flood("client/eth0", frame, count=100).received == 100
    assert program.globals["dropped"] == 0


@live
def test_a_flood_reaches_a_million_a_second(net: Network, bpf: Loader) -> None:
    """On one core, generated, received and dropped by a program, with a million flows: over 1,000,000 a second."""
    frame = frames.udp(net, "client", "server", dst_port=9, payload=bytes(18))
    with bpf.load(DROP, program="drop_xdp").attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        best = max(net.flood("client/eth0", frame, flows=1_000_000, seconds=0.1).rate_pps for _ in range(10))
    assert best > 1_000_000


@live
def test_what_a_flood_changed_is_as_before(net: Network) -> None:
    """The peer polls (GRO) during a flood only, and a sink is gone afterwards."""
    import socket

    from lab.bpf.attach.xdp import programs_at
    from lab.kernel import ethtool

    frame = frames.udp(net, "client", "server", dst_port=9)
    server = net.interface("server/eth0")
    with net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        before = ethtool.offload(control, "eth0", "gro")
        net.flood("client/eth0", frame, count=100)
        net.flood("client/eth0", frame, count=100, sink="server/eth0")
        assert ethtool.offload(control, "eth0", "gro") == before
    assert programs_at(server) == {}


@live
def test_the_generator_is_no_program_of_the_scenario(net: Network) -> None:
    """The report shows the flood, and not the lab's own programs."""
    frame = frames.udp(net, "client", "server", dst_port=9)
    with journal() as kept:
        net.flood("client/eth0", frame, flows=1000, count=100, sink="server/eth0")
    assert [each.kind for each in kept.notes] == ["delivery"]
    assert kept.of("delivery")[0]["stream"] == "flood from client/eth0, 1,000 flows"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either count= or seconds="),
        ({"count": 1, "seconds": 1}, "either count= or seconds="),
        ({"count": 0}, "count=0"),
        ({"seconds": -1}, "seconds=-1"),
        ({"count": 1, "rate_pps": 0}, "rate_pps=0"),
        ({"count": 601, "rate_pps": 10}, "longer than 60 s"),
        ({"seconds": 61}, "longer than 60 s"),
        ({"count": 1, "flows": 0}, "0 flows"),
        ({"count": 1, "flows": 100_000, "via": "packet"}, "1 to 65,536"),
        ({"count": 1, "via": "pigeon"}, "'pigeon'"),
        ({"count": 1, "sink": "server/eth9"}, "no interface 'server/eth9'"),
    ],
)
def test_an_impossible_flood_is_refused(net: Network, options: dict[str, object], words: str) -> None:
    """One sentence names what is wrong."""
    frame = frames.udp(net, "client", "server", dst_port=9)
    with pytest.raises(Exception, match=words):
        net.flood("client/eth0", frame, **options)


@live
def test_a_frame_that_is_too_long_says_what_to_do(net: Network) -> None:
    """Live frames fit a page: the kernel's refusal comes with the other way to send."""
    frame = frames.udp(net, "client", "server", dst_port=9, payload=bytes(5000))
    with pytest.raises(TrafficError, match=r'via="packet"'):
        net.flood("client/eth0", frame, count=1)
