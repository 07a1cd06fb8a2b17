"""monitor_traffic shows one row a flow, with what XDP, tc and the sockets know, and counts no packet twice."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from operator import truediv
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from lab import Direction, Mode, Stream, Topology, instruments
from lab.bpf.companion import companion
from lab.host.place import HostInterface
from lab.kernel.cgroup import Cgroup
from lab.traffic import frames
from lab.wait import wait_until

monitor = companion("monitor_traffic")
rows, samples, screen = (monitor.part(name) for name in ("rows", "sample", "screen"))
alerts, histories = (monitor.part(name) for name in ("alerts", "history"))

TOPOLOGY = Topology.chain("client", "router", "server")
PORT = 8080
WITHIN_S = 3

families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup with this process inside."""
    with Cgroup() as made, made.entered():
        yield made


def address(net: Any, name: str, ip: int) -> str:
    interface = net.interface(f"{name}/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6)


@contextmanager
def watching(net: Any, bpf: Any, group: Any, *places: str) -> Iterator[Any]:
    """The program with all its layers on these interfaces."""
    program = bpf.load("monitor_traffic")
    with ExitStack() as undo:
        for each in monitor.attach_to(program, [net.interface(place) for place in places], group):
            undo.callback(each.detach)
        yield program


@contextmanager
def connected(net: Any, ip: int) -> Iterator[SimpleNamespace]:
    with ExitStack() as stack:
        listener = stack.enter_context(net["server"].socket(socket.AF_INET6))
        listener.bind(("::", PORT))
        listener.listen()
        client = stack.enter_context(net["client"].socket(socket.AF_INET if ip == 4 else socket.AF_INET6))
        client.settimeout(WITHIN_S)
        client.connect((address(net, "server", ip), PORT))
        served = stack.enter_context(listener.accept()[0])
        served.settimeout(WITHIN_S)
        yield SimpleNamespace(client=client, served=served)


def talk(made: Any) -> None:
    """10 questions of 100 bytes, and answers of 1,000."""
    for _ in range(10):
        made.client.sendall(bytes(100))
        received(made.served, 100)
        made.served.sendall(bytes(1000))
        received(made.client, 1000)


def received(end: socket.socket, count: int) -> None:
    """So many bytes, however they come: a socket with a time-out does not wait for all."""
    while count:
        count -= len(end.recv(count))


def the_flow(program: Any, protocol: str = "tcp") -> Any:
    """The only row of the protocol."""
    (flow,) = [each for each in monitor.flows(program.maps) if each.protocol == protocol]
    return flow


# ---- One row a flow ----


@families
def test_layers_meet_in_one_row(net, bpf, group, ip):
    """XDP's packets, tc's packets and both sockets' RTT and state stand in the one row of the connection."""
    with watching(net, bpf, group, "server/eth0") as program, connected(net, ip) as made:
        talk(made)
        flow = the_flow(program)
        host, port = made.client.getsockname()[:2]
        assert (flow.opener.address, flow.opener.port) == (host, port)
        assert (flow.answerer.address, flow.answerer.port) == (address(net, "server", ip), PORT)
        assert (flow.opener.state, flow.answerer.state) == ("ESTABLISHED", "ESTABLISHED")
        assert flow.opener.srtt_us > 0 and flow.answerer.srtt_us > 0
        headers = (34 if ip == 4 else 54) + 32  # Ethernet, IP, TCP with timestamps
        assert flow.opener.packets >= 12 and flow.answerer.packets >= 11
        syn, syn_ack = headers + 8, headers + 8  # 40 bytes of TCP header
        assert flow.opener.bytes == syn + (flow.opener.packets - 1) * headers + 1_000
        assert flow.answerer.bytes == syn_ack + (flow.answerer.packets - 1) * headers + 10_000
        assert rows.letters(flow.opener.flags) == "SPA" and rows.letters(flow.answerer.flags) == "SPA"
        made.client.close()
        assert made.served.recv(1) == b""
        made.served.close()
        flow = the_flow(program)
        assert flow.state == "CLOSE" and rows.letters(flow.opener.flags) == "FSPA"


@families
def test_connection_events(net, bpf, group, ip):
    """A connection's two sockets send four events, and the ends of each are its own."""
    with watching(net, bpf, group, "server/eth0") as program, connected(net, ip) as made:
        ends = tuple(rows.event_of(each) for each in program.maps["events"].events(count=3, within_s=WITHIN_S))
        assert {each.kind for each in ends} == {"CONNECTING", "CONNECTED", "ACCEPTED"}
        by_kind = {each.kind: each for each in ends}
        assert by_kind["CONNECTED"].local == by_kind["ACCEPTED"].remote
        assert by_kind["ACCEPTED"].local.endswith(f":{PORT}")
        made.client.close()
        made.served.close()
        closed = [rows.event_of(each) for each in program.maps["events"].events(count=2, within_s=WITHIN_S)]
        assert {each.kind for each in closed} == {"CLOSED"}


@families
def test_a_forwarded_packet_counts_once(net, bpf, group, ip):
    """On both interfaces of the router 100 datagrams are 100 in their flow, and 100 at each layer that they pass."""
    with watching(net, bpf, group, "router/eth0", "router/eth1") as program:
        sent = net.send(Stream.udp("client", "server", dst_port=9000, count=100, ip=ip))
        assert sent.received == 100
        flow = the_flow(program, "udp")
        first, second = (net.interface(f"router/eth{number}").ifindex for number in (0, 1))
        layers = monitor.layers(program.maps)
        seen = {place: count.packets for place, count in layers.items()}
        (port,) = (each.port for each in samples.Sampler(program.maps).take().ports.top(10))
    assert (flow.opener.packets, flow.answerer.packets, flow.state) == (100, 0, "")
    assert (flow.opener.bytes, flow.ifindex) == (layers[first, "XDP"].bytes, first)
    assert seen == {(first, "XDP"): 100, (first, "TC_INGRESS"): 100, (second, "TC_EGRESS"): 100}
    assert (port.protocol, port.number, port.packets_in, port.packets_out) == ("udp", 9000, 100, 0)


def test_one_interface_of_a_router(net, bpf, group):
    """Where only the way out is watched, tc egress counts what was forwarded."""
    with watching(net, bpf, group, "router/eth1") as program:
        net.send(Stream.udp("client", "server", dst_port=9000, count=20))
        assert the_flow(program, "udp").opener.packets == 20


def test_without_xdp_tc_ingress_counts(net, bpf, group):
    """On an interface without XDP the packets that come in are in their flow all the same, once."""
    program = bpf.load("monitor_traffic")
    with program.programs["monitor_ingress"].attach(net.interface("server/eth0")):
        net.send(Stream.udp("client", "server", dst_port=9000, count=20))
        assert the_flow(program, "udp").opener.packets == 20


def test_a_bulk_counts_as_on_the_wire(net, bpf, group):
    """Segments that the kernel cuts only behind tc count one by one: the interface has sent as many."""
    with watching(net, bpf, group, "server/eth0") as program, connected(net, 4) as made:
        before = net.interface("server/eth0").counters()
        earlier = the_flow(program).answerer
        made.served.sendall(bytes(60_000))
        received(made.client, 60_000)
        flow = the_flow(program).answerer
        sent = net.interface("server/eth0").counters() - before
    assert flow.packets - earlier.packets == sent.tx_packets >= 42  # 60,000 / 1,448
    assert flow.bytes - earlier.bytes == 60_000 + (flow.packets - earlier.packets) * 66


def test_joined_packets_have_all_their_headers(net, bpf, group):
    """At tc ingress alone, where segments come in joined, bytes and packets are those that XDP would have counted."""
    program = bpf.load("monitor_traffic")
    with program.programs["monitor_ingress"].attach(net.interface("server/eth0")), connected(net, 4) as made:
        earlier = the_flow(program).opener
        made.client.sendall(bytes(60_000))
        received(made.served, 60_000)
        flow = the_flow(program).opener
        assert at_each_layer(program) == {counted(flow)}
    assert flow.packets - earlier.packets >= 42
    assert flow.bytes - earlier.bytes == 60_000 + (flow.packets - earlier.packets) * 66


def test_loopback(net, bpf, group):
    """On lo each packet is in its flow once, though it goes out and comes in; and both sockets are in its row."""
    program = bpf.load("monitor_traffic")
    with net["server"].enter(), ExitStack() as stack:
        lo = HostInterface("lo", 1, net["server"].netns_fd)
        for each in monitor.attach_to(program, [lo], group, mode=Mode.GENERIC):
            stack.callback(each.detach)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", PORT)))
        client = stack.enter_context(socket.create_connection(("127.0.0.1", PORT)))
        served = stack.enter_context(listener.accept()[0])
        talk(SimpleNamespace(client=client, served=served))
        # The last acknowledgement may come between two of these readings.
        wait_until(lambda: at_each_layer(program) == {counted(the_flow(program))}, within_s=WITHIN_S, what="one number")
        flow = the_flow(program)
    assert (flow.opener.state, flow.answerer.state) == ("ESTABLISHED", "ESTABLISHED")
    assert flow.opener.process == flow.answerer.process == os.getpid()
    assert flow.packets >= 22 and flow.bytes > 11_000


def counted(either: Any) -> tuple[int, int]:
    """Packets and bytes, of a flow or of a layer."""
    return either.packets, either.bytes


def at_each_layer(program: Any) -> set[tuple[int, int]]:
    return {counted(each) for each in monitor.layers(program.maps).values()}


def test_tagged_frames(net, bpf, group):
    """A datagram with no, one and two tags is one flow at XDP and at tc; the tags count as bytes at both."""
    frame = partial(frames.udp, net, "client", "router", dst_port=9000, payload=bytes(100))
    sent = [frame(), frame(vlans=(100,)), frame(vlans=(100, 7))]
    sizes = [len(bytes(each)) for each in sent]
    with watching(net, bpf, group, "router/eth0") as program:
        net.exchange(sent, "client/eth0")
        flow, seen = the_flow(program, "udp"), monitor.layers(program.maps)
    assert (flow.opener.packets, flow.opener.bytes) == (3, sum(sizes))
    came_in = {layer: (count.packets, count.bytes) for (_, layer), count in seen.items() if layer != "TC_EGRESS"}
    assert came_in == {"XDP": (3, sum(sizes)), "TC_INGRESS": (3, sum(sizes))}


def test_several_interfaces(net, bpf, group):
    """Flows of two interfaces stand side by side, each with its own; the same ports are one service."""
    with watching(net, bpf, group, "router/eth0", "router/eth1") as program:
        net.exchange([frames.udp(net, "client", "router", dst_port=53)] * 3, "client/eth0")
        net.exchange([frames.udp(net, "server", "router/eth1", dst_port=53)] * 4, "server/eth0")
        found = {flow.ifindex: flow.packets for flow in monitor.flows(program.maps) if flow.protocol == "udp"}
        (port,) = samples.Sampler(program.maps).take().ports.top(10)
    assert found == {net.interface("router/eth0").ifindex: 3, net.interface("router/eth1").ifindex: 4}
    assert (port.port.number, port.port.packets_in, port.port.packets_out) == (53, 7, 0)


def test_a_full_table(net, bpf, group):
    """2,048 flows through a table of 256: it stays full, and services and interfaces have counted every packet."""
    program = bpf.load("monitor_traffic", max_entries={"flows": 256})
    with program.attach(net.interface("router/eth0"), mode=Mode.NATIVE):
        frame = frames.udp(net, "client", "router", dst_port=9000, payload=bytes(22))
        assert net.flood("client/eth0", frame, flows=2048, count=2048).received == 2048
        sample = samples.Sampler(program.maps).take()
    assert 128 <= len(sample.flows) <= 256
    assert sample.evicted == 2048 - len(sample.flows)
    assert sample.ports.row(0).port.packets_in == 2048
    assert [each.packets for each in sample.interfaces] == [2048]
    assert sample.untracked["NO_ROOM"] == 0


IN_NO_FLOW = (
    ("ARP", "NOT_IP", Ether(type=0x0806) / Raw(bytes(46))),
    ("three tags", "NOT_IP", Ether() / Dot1Q() / Dot1Q() / Dot1Q() / IP() / UDP()),
    ("a later fragment", "FRAGMENT", Ether() / IP(frag=9) / Raw(bytes(40))),
    ("a later fragment, IPv6", "FRAGMENT", Ether() / IPv6() / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(bytes(40))),
    ("half a TCP header", "MALFORMED", Ether() / IP(proto=6) / Raw(bytes(12))),
    ("longer than its frame", "MALFORMED", Ether() / IP(len=400, proto=17) / Raw(bytes(20))),
    ("a header of 16 bytes", "MALFORMED", Ether() / IP(ihl=4, proto=17) / Raw(bytes(30))),
    ("7 extension headers", "TOO_DEEP", Ether() / IPv6() / reduce(truediv, [IPv6ExtHdrDestOpt()] * 7) / UDP()),
)


def test_what_is_in_no_flow(bpf):
    """It passes at both hooks, is counted at its interface and by its reason, and opens no flow."""
    program = bpf.load("monitor_traffic")
    for times, (name, outcome, frame) in enumerate(IN_NO_FLOW, 1):
        before = monitor.untracked(program.maps)
        assert program.run(frame).action.name == "XDP_PASS", name
        assert program.programs["monitor_ingress"].run(frame).number == -1, name
        assert monitor.untracked(program.maps) == {**before, outcome: before[outcome] + 1}, name
        assert sum(count.packets for count in monitor.layers(program.maps).values()) == 2 * times, name
    assert len(program.maps["flows"]) == 0


def test_interfaces_that_want_one_place(bpf):
    """Numbers that are alike modulo 1,024 have places side by side; where all are taken, that is counted."""
    program = bpf.load("monitor_traffic")
    frame = Ether() / IP() / UDP()
    places = program.maps["places"]
    places[1] = {"ifindex": 1025}
    for _ in range(2):
        program.run(frame)  # as if it came from lo, which is number 1
    assert {key: count.packets for key, count in monitor.layers(program.maps).items()} == {(1, "XDP"): 2}
    assert places[2].ifindex == 1
    for number in range(1, 9):
        places[number] = {"ifindex": 1024 * number + 1}
    program.run(frame)
    assert monitor.untracked(program.maps)["INTERFACE_LEFT_OUT"] == 1


# ---- Connections ----


def test_a_refused_connection_has_failed(net, bpf, group):
    """Where nobody listens the event is FAILED, not CLOSED, and the row says RESET or CLOSE."""
    with watching(net, bpf, group, "server/eth0") as program, net["client"].socket(socket.AF_INET) as client:
        assert client.connect_ex((address(net, "server", 4), PORT)) == errno.ECONNREFUSED
        events = [rows.event_of(each) for each in program.maps["events"].events(count=2, within_s=WITHIN_S)]
        sample = samples.Sampler(program.maps).take()
    assert [each.kind for each in events] == ["CONNECTING", "FAILED"]
    assert (sample.connections["FAILED"], sample.connections["CLOSED"]) == (1, 0)
    assert sample.flows.row(0).flow.state == "CLOSE"


def test_lost_segments_are_sent_again(net, bpf, group):
    """The line loses 3 segments: the sender's side has the retransmits, and so have the counter and the ratio."""
    lose = bpf.load(instruments.path("lose"))
    with watching(net, bpf, group, "client/eth0") as program, connected(net, 4) as made, ExitStack() as stack:
        stack.enter_context(lose.attach(net.interface("server/eth0"), direction=Direction.INGRESS))
        sampler = samples.Sampler(program.maps)
        sampler.begin()
        lose.globals["payload"], lose.globals["left"] = 1000, 3
        made.client.sendall(bytes(100_000))
        received(made.served, 100_000)
        sample = sampler.take()
        flow = the_flow(program)
        raised = alerts.Alerts([alerts.rule_of("retransmits above 1%", "lossy")])
        (alert,) = raised.check(sample)
    assert flow.opener.retransmits >= 3 and flow.answerer.retransmits == 0
    assert sample.grown["SEGMENT_RETRANSMITTED"] == flow.opener.retransmits
    assert alert.subject == flow.name
    assert f"{flow.opener.retransmits} of " in alert.evidence and "packets sent again" in alert.evidence


@pytest.mark.needs("late_callbacks")
def test_sockets_that_were_there(net, bpf, group):
    """A connection older than the monitor has its state and its RTT at once, and later its end as an event."""
    with connected(net, 4) as made, watching(net, bpf, group, "server/eth0") as program:
        for name in ("client", "server"):
            net[name].run(monitor.look, program, group)
        flow = the_flow(program)
        assert (flow.opener.state, flow.answerer.state) == ("ESTABLISHED", "ESTABLISHED")
        assert flow.answerer.port == PORT and flow.srtt_us > 0
        made.client.close()
        assert made.served.recv(1) == b""
        made.served.close()
        kinds = [each.kind.name for each in program.maps["events"].events(count=2, within_s=WITHIN_S)]
    assert kinds == ["CLOSED", "CLOSED"]


def test_handshake_of_a_forwarded_connection(net, bpf, group):
    """A router that has no socket of it knows the RTT by SYN, SYN-ACK and ACK."""
    program = bpf.load("monitor_traffic")
    with ExitStack() as stack:
        for place in ("router/eth0", "router/eth1"):
            stack.enter_context(program.attach(net.interface(place), mode=Mode.NATIVE))
        stack.enter_context(connected(net, 4))
        flow = the_flow(program)
    assert flow.srtt_us == 0
    assert 0 < flow.answerer.handshake_us < 1_000_000 and 0 < flow.opener.handshake_us < 1_000_000
    assert flow.rtt_us == flow.handshake_us == flow.answerer.handshake_us + flow.opener.handshake_us
    assert flow.state == "ESTABLISHED"


def test_ports_that_are_used_again(bpf):
    """A SYN behind a reset is a new flow, and one behind nothing of the kind is not."""
    program = bpf.load("monitor_traffic")

    def meets(*every: str) -> Any:
        for flags in every:
            program.run(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=4000, dport=80, flags=flags))
        return the_flow(program)

    before = meets("S", "S", "A", "RA")
    after, sample = meets("S"), samples.Sampler(program.maps).take()
    assert (before.opener.packets, rows.letters(before.opener.flags)) == (4, "SRA")
    assert (after.opener.packets, rows.letters(after.opener.flags)) == (1, "S")
    assert after.first_ns > before.first_ns
    assert (sample.happened["FLOW_OPENED"], sample.happened["FLOW_REPLACED"], sample.evicted) == (2, 1, 0)


@contextmanager
def named(name: bytes) -> Iterator[None]:
    """This process, under another name."""
    own = Path("/proc/self/comm")
    before = own.read_bytes().rstrip()
    own.write_bytes(name)
    try:
        yield
    finally:
        own.write_bytes(before)


def test_a_hostile_name(net, bpf, group):
    """A process whose name would clear the screen is shown with question marks, in rows, events, JSON and metrics."""
    hostile = b'\x1b[2J"\n\xff\xe2\x80\xae'
    with named(hostile), watching(net, bpf, group, "server/eth0") as program, connected(net, 4) as made:
        talk(made)
        sample = samples.Sampler(program.maps).take()
        told = screen.Screen(screen.Seen(sample, recent=sample.events)).lines(200, 50)
        text = "".join(line for line, _ in told)
    (row,) = sample.flows.top(10)
    assert row.process.startswith('?[2J"?') and row.process.isprintable()
    assert text.isprintable() and row.process in text
    assert {event.name for event in sample.events} == {row.process}
    shown = json.loads(json.dumps(monitor.part("exporter").snapshot_json(sample, top=10, by="rate")))
    assert shown["top_flows"][0]["process_name"] == row.process


def test_events_that_find_no_room_are_counted(net, bpf, group):
    """Of 40 connections a ring buffer of 4 KB has not all events; the counters have, and say how many were lost."""
    program = bpf.load("monitor_traffic", max_entries={"events": 4096})
    with program.programs["monitor_socket"].attach(group):
        for _ in range(40):
            with net["client"].socket(socket.AF_INET) as client:
                client.connect_ex((address(net, "client", 4), PORT))
        sample = samples.Sampler(program.maps).take()
    assert (sample.connections["CONNECTING"], sample.connections["FAILED"]) == (40, 40)
    assert sample.untracked["EVENT_LOST"] == 80 - len(sample.events) > 0


# ---- Rates, alerts, history ----


def test_rates_alerts_and_history(net, bpf, group, tmp_path):
    """A flow above its threshold fires once, with evidence, and is over when it falls silent; history has it all."""
    raised = alerts.Alerts([alerts.rule_of("flow-rate above 80kbit/s of udp/9000", "heavy")])
    with watching(net, bpf, group, "server/eth0") as program, ExitStack() as stack:
        history = stack.enter_context(histories.History(tmp_path / "h.db", age_s=60, size_bytes=1_000_000))
        sampler, changes = samples.Sampler(program.maps), []
        for count in (100, 200, 0):
            if count:
                net.send(Stream.udp("client", "server", src_port=4000, dst_port=9000, count=count, frame_bytes=1000))
            sample = sampler.take()
            changes.append(raised.check(sample))
            history.keep(sample, changes[-1])
            for row in sample.flows.top(1):
                assert (row.packets_out, row.bytes_out) == (count, count * 1000)
        asked = {"since": 0, "until": 1 << 40, "limit": 100}
        flows = history.ask("flows", **asked, port=9000)
        kept = history.ask("alerts", **asked)
        assert (history.kept, history.lost, history.trouble) == (3, 0, "")
    assert [len(each) for each in changes] == [1, 0, 1]
    alert = changes[0][0]
    assert alert is changes[2][0] and alert.ended and "200,000 bytes in" in alert.evidence
    assert alert.subject.startswith("udp 10.") and raised.fired == {"heavy": 1} and not raised.active
    assert [(each["packets_out"], each["bytes_out"]) for each in flows] == [(200, 200_000), (100, 100_000)]
    assert [each["over"] for each in kept] == [1, 0]


# ---- For a person ----


def test_tables(net, bpf, group):
    """A pipe gets the row of the flow, its port and the layers."""
    with watching(net, bpf, group, "server/eth0") as program, connected(net, 4) as made:
        talk(made)
        shown, ports, layers = screen.tables(screen.Seen(samples.Sampler(program.maps).take()))
        (row,) = shown.records()
        assert (row["state"], row["flags"]) == ("ESTABLISHED", "SPA/SPA")
        assert row["rtt us"] > 0
        assert [(each["proto"], each["port"]) for each in ports.records()] == [("tcp", PORT)]
        assert {each["layer"] for each in layers.records()} == {"XDP", "TC_INGRESS", "TC_EGRESS"}


# ---- For machines ----


@pytest.fixture
def served(net, bpf, group, tmp_path) -> Iterator[Any]:
    """An exporter on loopback that shows one connection, an alert for it, and keeps a history."""
    with watching(net, bpf, group, "server/eth0") as program, connected(net, 4) as made, ExitStack() as stack:
        talk(made)
        sample = samples.Sampler(program.maps).take()
        raised = alerts.Alerts([alerts.rule_of("flow-rate above 1bit/s", "busy")])
        history = stack.enter_context(histories.History(tmp_path / "h.db", age_s=60, size_bytes=1_000_000))
        exporter = stack.enter_context(monitor.part("exporter").Exporter(alerts=raised, history=history))
        history.keep(sample, raised.check(sample))
        exporter.show(sample)
        yield exporter


def scraped(exporter: Any) -> str:
    with urlopen(f"{exporter.url}/metrics", timeout=WITHIN_S) as answer:
        return answer.read().decode()


def test_metrics(served):
    """What a Prometheus scrapes has the connection's state, its RTT and its port."""
    text = scraped(served)
    assert 'monitor_flows{protocol="tcp",state="ESTABLISHED"} 1.0' in text
    assert re.search(rf'monitor_port_bytes_total{{direction="in",port="{PORT}",protocol="tcp"}} [1-9]', text)
    assert float(re.search(r'^monitor_rtt_seconds{quantile="0.5"} (\S+)', text, re.MULTILINE)[1]) > 0


def test_flows_as_json(served):
    """/api/flows has the flow, and answers on loopback alone."""
    with urlopen(f"{served.url}/api/flows", timeout=WITHIN_S) as answer:
        (flow,) = json.load(answer)
    assert (flow["state"], flow["answerer"]["port"]) == ("ESTABLISHED", PORT)
    assert served.url.startswith("http://127.0.0.1:")


def test_the_dashboard_asks_for_what_there_is(served):
    """Each metric and each label of the Grafana dashboard is one that the exporter has."""
    dashboard = json.loads(Path(monitor.__file__).with_name("monitor_traffic.grafana.json").read_text())
    text = scraped(served)
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(targets) >= 12
    for target in targets:
        (name,) = re.findall(r"monitor_\w+", target["expr"])
        found = re.search(rf"^{name}({{.*}})? ", text, re.MULTILINE)
        assert found, f"{name} is not exported"
        asked = [*re.findall(r"{{(\w+)}}", target["legendFormat"]), *re.findall(r"by \((.*?)\)", target["expr"])]
        for label in ", ".join(asked).split(", "):
            assert not label or f'{label}="' in found[1], f"{name} has no label {label}"


def test_every_metric_is_on_the_dashboard_or_close(served):
    """What the exporter has and the dashboard does not is named here, so that neither is forgotten."""
    shown = Path(monitor.__file__).with_name("monitor_traffic.grafana.json").read_text()
    exported = set(re.findall(r"^(monitor_\w+?)(?:{| )", scraped(served), re.MULTILINE))
    assert {name for name in exported if name not in shown} == {
        "monitor_tcp_flows_opened_total",
        "monitor_flows_evicted",
        "monitor_port_packets_total",
        "monitor_history_ok",
        "monitor_history_bytes",
        "monitor_history_periods_total",
    }
