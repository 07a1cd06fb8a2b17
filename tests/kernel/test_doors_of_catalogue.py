"""`lab attach <stem>` of every other program: attached as a person would, traffic, Ctrl-C, and what it says it saw."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import Stream, Topology
from lab.kernel.cgroup import Cgroup
from tests.kernel.door import door

ROOT = Path(__file__).parents[2]
TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})
DATAGRAMS, PORT = 5, 8080
HERE = ("-i", "eth0")
OURS = ("--cgroup", "CGROUP")
POLICY = "rules: [{name: all, action: allow, protocol: [tcp, udp, icmp, icmpv6]}]\n"
bcc = pytest.mark.needs("bcc")
ROWS = [
    ("xdp_count_packet", HERE, r"7 packets, \d+ bytes from 1 sources"),
    pytest.param("xdp_count_packet", (*HERE, "--flavour", "bcc"), r"7 packets, \d+ bytes from 1 sources", marks=bcc),
    ("tc_inspect_header", (*HERE, "--knob", "want_protocol=17"), "8 frames, 5 shown, 3 filtered out"),
    ("tc_shape_traffic", (*HERE, *OURS, "--rate", "100mbit"), "1 packets passed, 0 dropped"),
    ("tc_segment", (*HERE, "--policy", "POLICY"), "8 packets passed, 0 dropped"),
    ("sockops_track_connection", OURS, "2 connections, 0 ended"),
    ("monitor_traffic", (*HERE, *OURS), "2 flows"),
    ("cgroup_redirect_connect", (*OURS, "--to", "tcp/192.0.2.1:80"), r"0 redirected, [1-9]\d* direct, 0 refused"),
    ("analyze_tcp", (), r"[1-9]\d* changes of state"),
    ("reuseport_balance", ("--socket", f"tcp/{PORT}"), "1 given to 1 servers, 0 moved"),
    pytest.param("trace_syscall", ("--pid", "PID", "--own"), r"[1-9]\d* calls of 1 processes", marks=bcc),
    pytest.param("log_tcp_connect", ("--pid", "PID"), "1 connected; none lost", marks=bcc),
]


@pytest.fixture
def place(net: Any, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What words of a row stand for; this process is in the cgroup."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    with Cgroup() as group, group.entered():
        yield {"CGROUP": str(group.path), "POLICY": str(tmp_path / "policy.yaml"), "PID": str(os.getpid())}


@pytest.mark.parametrize(("stem", "words", "saw"), ROWS, ids=lambda each: each if str(each).isidentifier() else "")
def test_a_person_attaches_it(net: Any, place: dict[str, str], stem: str, words: tuple[str, ...], saw: str) -> None:
    """It says where it sits; at Ctrl-C it is taken back, says what it saw, and ends with status 0.

    That is a handshake from the client and a few datagrams: eight frames, of which the server sends one.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(net["server"].socket(socket.AF_INET))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((str(net.topology.address("server", 4)), PORT))
        listener.listen()
        words = tuple(place.get(word, word) for word in words)
        lab = stack.enter_context(door(net["server"], ROOT, "attach", stem, *words))
        assert lab.attached().startswith("attached ")
        assert lab.line().startswith("Ctrl-C detaches")
        client = stack.enter_context(net["client"].socket(socket.AF_INET))
        client.connect((str(net.topology.address("server", 4)), PORT))
        stack.enter_context(listener.accept()[0])
        net.send(Stream.udp("client", "server", dst_port=9000, count=DATAGRAMS))
        status, told = lab.end()
    assert status == 0, told
    assert re.search(rf"detached .*{saw}", told, re.DOTALL), told
