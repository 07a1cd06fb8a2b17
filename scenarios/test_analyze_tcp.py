"""analyze_tcp tells of each connection how long it was in which state, what went wrong, and who did it."""

from __future__ import annotations

import errno
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from lab import Direction, Topology, instruments
from lab.bpf.companion import companion
from lab.model.journal import note
from lab.wait import wait_until

analyze = companion("analyze_tcp")

TOPOLOGY = Topology.pair("client", "server")
PORT = 8080
WITHIN_S = 3
EVERY = 0xFFFFFFFF

families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))


def address(net: Any, name: str, ip: int = 4) -> str:
    interface = net.interface(f"{name}/eth0")
    return str(interface.ipv4 if ip == 4 else interface.ipv6)


@contextmanager
def watching(net: Any, bpf: Any, *names: str, limits: Any = None, **options: Any) -> Iterator[Any]:
    """An Analysis of these namespaces (of both), attached; what it saw goes into the report."""
    inodes = tuple(analyze.inode_of(net[name]) for name in names or ("client", "server"))
    program = analyze.load(bpf, namespaces=inodes, **options)
    with analyze.attached(program):
        analysis = analyze.Analysis(program, limits or analyze.Limits())
        yield analysis
        analysis.collect()
        note("evidence", analyze.evidence(analysis))


@contextmanager
def losing(net: Any, bpf: Any, *places: str) -> Iterator[Any]:
    """A line that loses what its globals say, of what comes in at these interfaces."""
    program = bpf.load(instruments.path("lose"))
    with ExitStack() as stack:
        for place in places or ("server/eth0",):
            stack.enter_context(program.attach(net.interface(place), direction=Direction.INGRESS))
        yield program


def listening(stack: ExitStack, net: Any, **options: int) -> socket.socket:
    """For both families."""
    listener = stack.enter_context(net["server"].socket(socket.AF_INET6))
    for name, value in options.items():
        listener.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    listener.bind(("::", PORT))
    listener.listen(64)
    return listener


def new_client(stack: ExitStack, net: Any, ip: int = 4) -> socket.socket:
    client = stack.enter_context(net["client"].socket(socket.AF_INET if ip == 4 else socket.AF_INET6))
    client.settimeout(WITHIN_S)
    return client


@contextmanager
def connected(net: Any, ip: int = 4, **options: int) -> Iterator[SimpleNamespace]:
    with ExitStack() as stack:
        listener = listening(stack, net, **options)
        client = new_client(stack, net, ip)
        client.connect((address(net, "server", ip), PORT))
        served = stack.enter_context(listener.accept()[0])
        served.settimeout(WITHIN_S)
        yield SimpleNamespace(client=client, served=served)


def transfer(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    """So many bytes, read while they are sent: neither side's buffer need hold them."""
    left, missing = memoryview(bytes(count)), count
    while missing:
        readable, writable, _ = select.select([receiver], [sender] if left else [], [], WITHIN_S)
        assert readable or writable, f"{missing} of {count} bytes do not come"
        if writable:
            left = left[sender.send(left) :]
        if readable:
            missing -= len(receiver.recv(65536))


def close_both(made: Any) -> None:
    made.client.close()
    assert made.served.recv(1) == b""
    made.served.close()


def lives(analysis: Any) -> dict[str, Any]:
    """The connection's two ends, by role: there are no others."""
    analysis.collect()
    found = {each.role: each for each in analysis.lives}
    assert len(found) == len(analysis.lives), [each.timeline() for each in analysis.lives]
    return found


def happened(life: Any) -> list[str]:
    """What happened to it, in words."""
    return [each.words for each in life.moments]


# ---- A connection's life ----


@families
def test_the_states_of_both_ends(net, bpf, ip):
    """Each end's states in order, each for as long as it lasted, and handshakes that took no longer than connect()."""
    with watching(net, bpf) as analysis, ExitStack() as stack:
        listener, client = listening(stack, net), new_client(stack, net, ip)
        start_ns = time.monotonic_ns()
        client.connect((address(net, "server", ip), PORT))
        connected_ns = time.monotonic_ns()
        served = stack.enter_context(listener.accept()[0])
        transfer(client, served, 10_000)
        client.shutdown(socket.SHUT_WR)
        half_closed_ns = time.monotonic_ns()
        assert served.recv(1) == b""
        wait_until(lambda: time.monotonic_ns() > half_closed_ns + 20_000_000, within_s=1, what="20 ms")
        end_ns = time.monotonic_ns()
        served.close()
        client.recv(1)
        both = lives(analysis)
    active, passive = both["ACTIVE"], both["PASSIVE"]
    assert happened(active) == [
        "CLOSE -> SYN_SENT",
        "SYN_SENT -> ESTABLISHED",
        "ESTABLISHED -> FIN_WAIT1",
        "FIN_WAIT1 -> FIN_WAIT2",
        "FIN_WAIT2 -> CLOSE",
    ]
    assert happened(passive) == [
        "SYN_RECV -> ESTABLISHED",
        "ESTABLISHED -> CLOSE_WAIT",
        "CLOSE_WAIT -> LAST_ACK",
        "LAST_ACK -> CLOSE",
    ]
    for life in (active, passive):
        assert sum(life.spent_ms.values()) == pytest.approx((life.closed_ns - life.opened_ns) / 1e6)
        assert (life.reset_by, life.retransmits, life.state) == ("", 0, "CLOSE")
    assert 0 < active.handshake_ms <= (connected_ns - start_ns) / 1e6
    assert active.spent_ms["SYN_SENT"] == active.handshake_ms
    assert 0 < passive.handshake_ms <= (connected_ns - start_ns) / 1e6
    assert 20 <= (end_ns - half_closed_ns) / 1e6 <= active.spent_ms["FIN_WAIT1"] + active.spent_ms["FIN_WAIT2"]
    assert (active.local, active.remote) == (passive.remote, passive.local)


def test_a_lost_syn_is_a_long_handshake(net, bpf):
    """The first SYN is lost: a retransmit in SYN_SENT, and a handshake that takes the second that the kernel waits."""
    with losing(net, bpf) as lose, watching(net, bpf) as analysis:
        lose.globals["flags"] = 0x02
        lose.globals["left"] = 1
        with connected(net):
            assert lose.globals["lost"] == 1, "the line lost the SYN"
            active = lives(analysis)["ACTIVE"]
            words = happened(active)
            assert analysis.anomalies() == []
    assert words == [
        "CLOSE -> SYN_SENT",
        "retransmit in SYN_SENT, 1 within a second",
        "SYN_SENT -> ESTABLISHED",
    ]
    assert 900 < active.handshake_ms < 2_500


def test_what_was_there_before(net, bpf):
    """A connection of before has a record, of unknown role, from its next segment on."""
    with connected(net) as made, watching(net, bpf, "server") as analysis:
        transfer(made.client, made.served, 1_000)
        analysis.collect()
        (life,) = analysis.lives
        assert (life.role, life.state, life.local.endswith(f":{PORT}")) == ("UNKNOWN", "ESTABLISHED", True)
        close_both(made)
        assert lives(analysis)["UNKNOWN"].state == "CLOSE"


@pytest.mark.needs("stray_reset")
def test_namespaces_do_not_see_each_other(net, bpf):
    """Two programs at once, one for each end: each has its own end of a connection, and its own side of a refusal."""
    with watching(net, bpf, "client") as here, watching(net, bpf, "server") as there, ExitStack() as stack:
        with connected(net) as made:
            close_both(made)
        with pytest.raises(ConnectionRefusedError):
            new_client(stack, net).connect((address(net, "server"), 81))
        for analysis in (here, there):
            analysis.collect()
        assert [each.role for each in here.lives] == ["ACTIVE", "ACTIVE"]
        assert [each.role for each in there.lives] == ["PASSIVE"]
        assert (len(here.refusals), len(there.refusals)) == (0, 1)


# ---- Retransmits ----


@families
def test_retransmits_are_the_kernels(net, bpf, ip):
    """The line loses 5 data segments: as many retransmits as TCP_INFO counts, and an event for each."""
    with losing(net, bpf) as lose, watching(net, bpf) as analysis, connected(net, ip) as made:
        lose.globals["payload"] = 1000
        for _ in range(5):
            lose.globals["left"] = 1
            transfer(made.client, made.served, 200_000)
        info = made.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        both = lives(analysis)
    times = [each for each in both["ACTIVE"].moments if each.what == "RETRANSMIT"]
    assert both["ACTIVE"].retransmits == len(times) > 0
    assert both["PASSIVE"].retransmits == 0
    assert struct.unpack_from("=I", info, 100)[0] >= len(times)


def test_a_retransmit_storm(net, bpf):
    """Many retransmits within a second are an anomaly that says how many; one connection beside it has none."""
    limits = analyze.Limits(storm=8)
    with losing(net, bpf) as lose, watching(net, bpf, limits=limits) as analysis, connected(net) as made:
        assert analysis.anomalies() == []
        lose.globals["payload"] = 1
        for _ in range(40):
            lose.globals["left"] = 1
            transfer(made.client, made.served, 200_000)
            if lives(analysis)["ACTIVE"].worst_second >= 8:
                break
        (storm,) = analysis.anomalies([net["server"]])
        note("evidence", analyze.evidence(analysis, [storm]))
        assert (storm.kind, storm.where) == ("RETRANSMIT_STORM", lives(analysis)["ACTIVE"].name)
        assert storm.evidence[0] == f"{lives(analysis)['ACTIVE'].worst_second} retransmits within a second"


# ---- Resets ----


def linger(made: Any) -> None:
    made.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.client.close()


def unread(made: Any) -> None:
    made.served.sendall(b"unread")
    made.client.close()


@pytest.mark.needs("reset_reason")
@families
@pytest.mark.parametrize(
    ("act", "why"), ((linger, "ABANDONED"), (unread, "UNREAD_DATA")), ids=("linger", "unread data")
)
def test_who_sent_the_reset(net, bpf, act, why, ip):
    """The client's end says "us" and why, the server's "the peer", with its errno."""
    with watching(net, bpf) as analysis, connected(net, ip) as made:
        act(made)
        both = lives(analysis)
    assert (both["ACTIVE"].reset_by, both["ACTIVE"].reset_why) == ("us", why)
    assert (both["PASSIVE"].reset_by, both["PASSIVE"].error) == ("the peer", errno.ECONNRESET)
    assert both["ACTIVE"].state == both["PASSIVE"].state == "CLOSE"


@pytest.mark.needs("stray_reset")
@families
def test_a_refused_connection(net, bpf, ip):
    """Nobody listens: the client was reset in SYN_SENT, the server's kernel sent it for want of a socket."""
    with watching(net, bpf) as analysis, ExitStack() as stack:
        client = new_client(stack, net, ip)
        with pytest.raises(ConnectionRefusedError):
            client.connect((address(net, "server", ip), 81))
        life = lives(analysis)["ACTIVE"]
        (refusal,) = analysis.refusals
    assert (life.reset_by, life.error) == ("the peer", errno.ECONNREFUSED)
    assert "reset received in SYN_SENT" in happened(life)
    assert life.local == refusal.remote
    assert (refusal.local_port, refusal.remote_address) == (81, address(net, "client", ip))


@pytest.mark.needs("stray_reset")
def test_a_port_scan(net, bpf):
    """One address that is refused at 20 ports is an anomaly, at 19 it is not."""
    with watching(net, bpf, "server") as analysis, ExitStack() as stack:
        for port in range(1, 20):
            new_client(stack, net).connect_ex((address(net, "server"), port))
        analysis.collect()
        assert analysis.anomalies() == []
        new_client(stack, net).connect_ex((address(net, "server"), 20))
        analysis.collect()
        (scan,) = analysis.anomalies()
    assert (scan.kind, scan.where) == ("PORT_SCAN", f"by {address(net, 'client')}")
    assert scan.evidence == ("refused at 20 ports: 1, 2, 3, 4, 5, ...",)


# ---- Windows ----


@families
def test_a_reader_that_does_not_read(net, bpf, ip):
    """The server stops reading: its window is zero, told on both sides and by whose; when it reads again it is open."""
    limits = analyze.Limits(zero_ms=1)
    with watching(net, bpf, limits=limits) as analysis, connected(net, ip, SO_RCVBUF=4096) as made:
        made.client.setblocking(False)
        sent = fill(made.client)

        def closed() -> bool:
            both = lives(analysis)
            return both["ACTIVE"].zero_ms[0] > 1 and both["PASSIVE"].zero_ms[1] > 1

        wait_until(closed, within_s=WITHIN_S, what="a window of zero on both sides")
        anomalies = {each.where: each for each in analysis.anomalies()}
        both = lives(analysis)
        assert {each.kind for each in anomalies.values()} == {"ZERO_WINDOW"}
        assert anomalies[both["ACTIVE"].name].evidence[0].startswith("the peer has had no room for ")
        assert anomalies[both["PASSIVE"].name].evidence[0].startswith("this side has had no room for ")
        while sent:
            sent -= len(made.served.recv(65536))
        wait_until(lambda: "WINDOW_OPEN" in whats(lives(analysis)["ACTIVE"]), within_s=WITHIN_S, what="an open window")
        both = lives(analysis)
    assert both["ACTIVE"].zero_ms[0] > 0 and both["ACTIVE"].zero_ms[1] == 0
    assert both["PASSIVE"].zero_ms[1] > 0 and both["PASSIVE"].zero_ms[0] == 0


def fill(client: socket.socket) -> int:
    """Sends until there is no room; how many bytes that were."""
    sent = 0
    while True:
        try:
            sent += client.send(bytes(65536))
        except BlockingIOError:
            return sent


def whats(life: Any) -> list[str]:
    return [each.what for each in life.moments]


# ---- Handshakes that are not done ----


def half_open(net: Any, ip: int, sources: list[str]) -> None:
    """A SYN from each address, which nobody has: the server's SYN+ACK meets no answer."""
    client, server = net.interface("client/eth0"), net.interface("server/eth0")
    ether = Ether(src=client.mac, dst=server.mac)
    with net["client"].socket(socket.AF_PACKET, socket.SOCK_RAW) as line:
        line.bind(("eth0", 0))
        for place, source in enumerate(sources):
            network = IP if ip == 4 else IPv6
            packet = network(src=source, dst=address(net, "server", ip)) / TCP(
                sport=2000 + place, dport=PORT, flags="S"
            )
            line.send(bytes(ether / packet))


def strangers(net: Any, ip: int, count: int) -> list[str]:
    """Addresses beside the client's."""
    base = net.interface("client/eth0").spec
    prefix = (base.ipv4 if ip == 4 else base.ipv6).network
    return [str(prefix[place]) for place in range(10, 10 + count)]


@families
def test_a_syn_flood(net, bpf, ip):
    """100 handshakes from 100 addresses that never end: SYN_FLOOD at this port; 63 are none."""
    with watching(net, bpf) as analysis, ExitStack() as stack:
        listener = listening(stack, net)
        listener.listen(1024)
        half_open(net, ip, strangers(net, ip, 63))
        assert analysis.anomalies([net["server"]]) == []
        half_open(net, ip, strangers(net, ip, 100)[63:])
        (flood,) = analysis.anomalies([net["server"]])
        note("evidence", analyze.evidence(analysis, [flood]))
    assert (flood.kind, flood.where) == ("SYN_FLOOD", f"at port {PORT}")
    assert flood.evidence[0].startswith("100 handshakes not done")
    assert flood.evidence[1].startswith("100 sources, most from ")
    assert "0 of 1024 wait for accept()" in flood.evidence


def test_a_half_open_pile_up(net, bpf):
    """100 handshakes of one address that never end: no flood, but a pile-up."""
    with watching(net, bpf) as analysis, ExitStack() as stack:
        listening(stack, net).listen(1024)
        half_open(net, 4, strangers(net, 4, 1) * 100)
        (pile,) = analysis.anomalies([net["server"]])
    assert pile.kind == "HALF_OPEN_PILE_UP"
    assert pile.evidence[1].startswith("1 sources")


def test_a_flood_beyond_the_backlog(net, bpf):
    """A listener with a backlog of 64 under 300 SYNs: what the kernel did about it is in the evidence."""
    with watching(net, bpf) as analysis, ExitStack() as stack:
        listening(stack, net)
        analysis.survey(net["server"])
        half_open(net, 4, strangers(net, 4, 200))
        (flood,) = analysis.anomalies([net["server"]])
    assert flood.kind == "SYN_FLOOD"
    counted = [each for each in flood.evidence if re.fullmatch(r"(SyncookiesSent|TCPReqQFull\w+) \+[1-9]\d*", each)]
    assert counted, flood.evidence


def test_an_unanswered_handshake_is_repeated(net, bpf):
    """A SYN+ACK that meets no answer is sent again, and counted by its listener."""
    with watching(net, bpf, "server") as analysis, ExitStack() as stack:
        listening(stack, net)
        half_open(net, 4, strangers(net, 4, 1))

        def repeated() -> int:
            analysis.collect()
            return analysis.synack_retransmits[f"{address(net, 'server')}:{PORT}"]

        wait_until(repeated, within_s=WITHIN_S, what="a SYN+ACK sent again")
        (handshake,) = analysis.survey(net["server"]).half_open
    assert handshake.retransmits == 1


def test_a_server_that_does_not_answer(net, bpf):
    """16 connections without an answer are an anomaly of ours; 15 are not."""
    limits = analyze.Limits(pending_ms=0)
    with losing(net, bpf) as lose, watching(net, bpf, limits=limits) as analysis, ExitStack() as stack:
        lose.globals["left"] = EVERY
        clients = [new_client(stack, net) for _ in range(16)]
        for place, client in enumerate(clients):
            client.setblocking(False)
            client.connect_ex((address(net, "server"), PORT))
            analysis.collect()
            assert len(analysis.anomalies()) == (place == 15)
        (found,) = analysis.anomalies()
    assert (found.kind, found.where) == ("NO_ANSWER", f"to {address(net, 'server')}:{PORT}")
    assert found.evidence[0].startswith("16 in SYN_SENT")


# ---- What is counted ----


@families
def test_ordinary_traffic_is_no_anomaly(net, bpf, ip):
    """30 connections that carry data and close: 60 lives, no anomaly, no event lost."""
    with watching(net, bpf) as analysis:
        for _ in range(30):
            with connected(net, ip, SO_REUSEADDR=1) as made:
                transfer(made.client, made.served, 20_000)
                close_both(made)
        analysis.collect()
        assert len(analysis.lives) == 60
        assert {each.state for each in analysis.lives} == {"CLOSE"}
        assert len(analysis.program.maps["connections"]) == 0
        assert (analysis.anomalies([net["client"], net["server"]]), analysis.lost) == ([], 0)


def test_a_full_table(net, bpf):
    """A second connection has no record, is counted, and its events come all the same."""
    with watching(net, bpf, "client", max_entries={"connections": 1}) as analysis, connected(net), ExitStack() as stack:
        second = new_client(stack, net)
        second.connect((address(net, "server"), PORT))
        analysis.collect()
        assert analysis.program.maps["totals"].total("NOT_TRACKED") > 0
        assert [happened(each)[-1] for each in analysis.lives] == ["SYN_SENT -> ESTABLISHED"] * 2


def test_lost_events_are_counted(net, bpf):
    """60 refused connections while nobody reads a ring buffer of one page: totals have all, and how many were lost."""
    with watching(net, bpf, "client", max_entries={"events": 4096}) as analysis, ExitStack() as stack:
        for _ in range(60):
            new_client(stack, net).connect_ex((address(net, "server"), 81))
        totals = analysis.program.maps["totals"]
        assert (totals.total("STATE"), totals.total("RESET_RECEIVED")) == (120, 60)
        analysis.collect()
        came = sum(len(each.moments) for each in analysis.lives)
    assert came + analysis.lost == 180 and analysis.lost > 0


def test_samples(net, bpf):
    """samples=1: RTT and congestion window, at least 1 ms apart."""
    with watching(net, bpf, "client", samples=1) as analysis, connected(net) as made:
        for _ in range(200):
            transfer(made.client, made.served, 100)
            transfer(made.served, made.client, 100)
        samples = [each for each in lives(analysis)["ACTIVE"].moments if each.what == "SAMPLE"]
    assert len(samples) > 1
    assert all(b.at_ns - a.at_ns >= 1_000_000 for a, b in pairwise(samples))
    assert samples[-1].words.startswith("srtt ")


def test_the_picture_is_one_that_the_report_shows(net, bpf):
    """A bar for each state of each connection, a legend, and both names; nothing is taken out of it as unsafe."""
    from lab.report.drawing import safe_svg

    with watching(net, bpf) as analysis:
        with connected(net) as made:
            close_both(made)
        analysis.collect()
        drawn = str(safe_svg(analyze.picture(analysis.lives)))
    assert drawn.count("<rect") == 4 + 3 + len(analyze.LEGEND)
    assert drawn.count("active") == drawn.count("passive") == 1


@pytest.mark.needs("reset_reason")
def test_what_a_person_sees(net, bpf):
    """The view has a row for each end, with the reset and who sent it, and the summary counts what happened."""
    program = analyze.load(bpf, namespaces=tuple(analyze.inode_of(net[name]) for name in ("client", "server")))
    with analyze.attached(program), connected(net) as made:
        shown = analyze.view(program, top=5)
        next(shown)
        linger(made)
        anomalies, connections = next(shown)
    rows = {row["role"]: row for row in connections.records()}
    assert anomalies.rows == []
    assert (rows["active"]["reset"], rows["passive"]["reset"]) == ("by us: abandoned", "by the peer")
    assert rows["active"]["handshake ms"] > 0
    assert ", 1 resets sent, 1 received, " in analyze.summary(program)
