"""monitor_traffic shows one row a flow, with what XDP, tc and the sockets know, and counts no packet twice."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

from lab import Stream, Topology
from lab.bpf.companion import companion
from lab.kernel.cgroup import Cgroup

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
        assert made.served.recv(100, socket.MSG_WAITALL)
        made.served.sendall(bytes(1000))
        assert made.client.recv(1000, socket.MSG_WAITALL)


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
    """Segments that the kernel cuts only behind tc count one by one: the router's interface has seen as many."""
    with watching(net, bpf, group, "server/eth0") as program, connected(net, 4) as made:
        before = net.interface("router/eth1").counters()
        earlier = the_flow(program).answerer
        made.served.sendall(bytes(60_000))
        assert len(made.client.recv(60_000, socket.MSG_WAITALL)) == 60_000
        flow = the_flow(program).answerer
        wire = net.interface("router/eth1").counters() - before
    assert flow.packets - earlier.packets >= 42  # 60,000 / 1,448
    assert flow.bytes - earlier.bytes == 60_000 + (flow.packets - earlier.packets) * 66
    assert wire.rx_bytes >= 60_000


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
