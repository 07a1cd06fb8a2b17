"""`lab monitor_traffic` as a person runs it: in a terminal, as JSON, with its API, twice at once, and with mistakes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from lab import Topology
from lab.bpf.attach.xdp import programs_at
from lab.kernel import bpf as kernel_bpf
from lab.kernel.cgroup import Cgroup
from lab.wait import wait_until
from tests.kernel.door import LAB, Door, door

ROOT = Path(__file__).parents[2]
TOPOLOGY = Topology.pair("client", "server")
PORT, SERVED = 8080, 9400
WITHIN_S = 15
LAYERS = 4
"""Attachments on one interface and a cgroup: XDP, tc twice, sock_ops."""
COLOURS, MOVES = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\x1b\[[0-9;?]*[lhKAG]|\r")
"""What rich sends on its own account."""


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup with this process inside: only its sockets are watched."""
    with Cgroup() as made, made.entered():
        yield made


@contextmanager
def talking(net: Any) -> Iterator[Callable[[], None]]:
    """A connection from the client to the server; each call sends 1,000 bytes and gets them back."""
    with net["server"].socket(socket.AF_INET) as listener, net["client"].socket(socket.AF_INET) as client:
        listener.bind((str(net.interface("server/eth0").ipv4), PORT))
        listener.listen()
        client.connect(listener.getsockname())
        with listener.accept()[0] as served:

            def talk() -> None:
                client.sendall(bytes(1000))
                served.sendall(served.recv(1000))
                client.recv(1000)

            yield talk


def words(group: Cgroup, *more: str) -> list[str]:
    return ["monitor_traffic", "-i", "eth0", "--cgroup", str(group.path), "--flows", "4096", *more]


def begun(lab: Door, layers: int = LAYERS) -> list[int]:
    """The ids of the programs that it says are attached."""
    said = [lab.attached() for _ in range(layers)]
    return [int(re.search(r"program (\d+)", line)[1]) for line in said]  # type: ignore[index]


def lives(program: int) -> bool:
    try:
        os.close(kernel_bpf.fd_of_program(program))
    except OSError:
        return False
    return True


def gone(net: Any, programs: list[int]) -> None:
    """Nothing of it is attached any more, nor loaded."""
    assert not programs_at(net.interface("server/eth0"))
    wait_until(lambda: not any(map(lives, programs)), within_s=5, what="its programs unloaded")


def until(lab: Door, holds: Callable[[Any], bool], talk: Callable[[], None]) -> Any:
    """The first line of JSON of which it holds."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        talk()
        if holds(seen := json.loads(lab.line())):
            return seen
    raise AssertionError(f"not within {WITHIN_S} s; at last {seen}")


def asked(target: str) -> Any:
    with urlopen(f"http://127.0.0.1:{SERVED}{target}", timeout=3) as answer:
        return answer.read().decode()


def test_json(net: Any, group: Cgroup) -> None:
    """A line each period: the flow with its rate, RTT and process, its service, and the interface's layers."""
    with talking(net) as talk, door(net["server"], ROOT, *words(group, "--json", "--every", "50ms")) as lab:
        programs = begun(lab)
        assert json.loads(lab.line())["period_s"] >= 0.045, "the first period is as long as the others"
        seen = until(
            lab, lambda seen: bool(seen["top_flows"]) and seen["top_flows"][0]["period"]["bytes_in"] > 1000, talk
        )
        (flow,) = seen["top_flows"]
        assert (flow["protocol"], flow["state"], flow["answerer"]["port"]) == ("tcp", "ESTABLISHED", PORT)
        assert flow["period"]["bytes_per_s"] > 0 and flow["answerer"]["srtt_us"] > 0
        assert [(port["protocol"], port["number"]) for port in seen["top_ports"]] == [("tcp", PORT)]
        assert {(each["name"], each["layer"]) for each in seen["interfaces"]} == {
            ("eth0", "XDP"),
            ("eth0", "TC_INGRESS"),
            ("eth0", "TC_EGRESS"),
        }
        status, said = lab.end()
    assert (status, "Traceback" in said) == (0, False), said
    gone(net, programs)


def test_api_history_and_alerts(net: Any, group: Cgroup, tmp_path: Path) -> None:
    """A client on loopback is answered, one in another namespace is not; Ctrl-C detaches all and the file is whole."""
    kept = tmp_path / "h.db"
    more = ("--listen", str(SERVED), "--history", str(kept), "--alert", "flow-rate above 1kbit/s until 1bit/s")
    with talking(net) as talk, door(net["server"], ROOT, *words(group, *more, "--every", "50ms", "--json")) as lab:
        programs = begun(lab)
        assert lab.attached() == f"serving http://127.0.0.1:{SERVED}/metrics and http://127.0.0.1:{SERVED}/api/status\n"
        until(lab, lambda seen: bool(seen["active_alerts"]), talk)
        with net["server"].enter():
            talk()
            (flow,) = [each for each in json.loads(asked("/api/flows")) if each["answerer"]["port"] == PORT]
            text = asked("/metrics")
            fired = json.loads(asked("/api/history/alerts"))
            assert json.loads(asked("/api/status"))["history"]["trouble"] == ""
        assert flow["state"] == "ESTABLISHED"
        assert 'monitor_alerts_fired_total{rule="flow-rate above 1kbit/s until 1bit/s"}' in text
        assert any(f":{PORT}" in each["subject"] and "bytes in" in each["evidence"] for each in fired)
        with net["client"].enter(), pytest.raises(URLError, match="refused"):
            urlopen(f"http://{net.interface('server/eth0').ipv4}:{SERVED}/metrics", timeout=3)
        status, said = lab.end()
    assert (status, "Traceback" in said) == (0, False), said
    gone(net, programs)
    with sqlite3.connect(kept) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM flows WHERE answerer_port = ?", (PORT,)).fetchone()[0] > 0


@contextmanager
def terminal(columns: int, lines: int) -> Iterator[tuple[int, int]]:
    """Our end of a pseudo-terminal of that size, and the other's: who closes that early may lose what comes last."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def read_until(descriptor: int, telling: str, shown: list[str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while telling not in "".join(shown) and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            shown.append(os.read(descriptor, 65536).decode(errors="replace"))
    assert telling in "".join(shown), "".join(shown)[-2000:]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_a_terminal(net: Any, group: Cgroup, columns: int, lines: int) -> None:
    """The live view fits, shows the flow and a hostile process's name as text, and Ctrl-C leaves the terminal whole."""
    own, shown = Path("/proc/self/comm"), []
    before = own.read_bytes().rstrip()
    with terminal(columns, lines) as (ours, theirs):
        command = [*LAB, *words(group, "--every", "50ms")]
        told = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE, "text": True}
        environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        process = net["server"].popen(command, cwd=ROOT, env=environ, **told)
        try:
            lab = Door(process)
            programs = begun(lab)
            own.write_bytes(b"\x1b[2J\x07evil")
            with talking(net) as talk:
                talk()
                read_until(ours, f":{PORT}", shown)
                if columns >= 200:
                    read_until(ours, "?[2J?evil", shown)
            process.send_signal(signal.SIGINT)
            read_until(ours, "\x1b[?25h", shown)  # the cursor is back
            said = process.communicate(timeout=20)[1]
        finally:
            own.write_bytes(before)
            process.kill()
            process.wait()
    text = MOVES.sub("\n", COLOURS.sub("", "".join(shown)))
    assert "\x1b" not in text and "\x07" not in text
    assert not [line for line in text.split("\n") if len(line) > columns]
    assert "monitor_traffic " in text and "ESTAB" in text
    assert process.returncode == 0 and "Traceback" not in said and "flows, " in said
    gone(net, programs)


def test_two_at_once(net: Any, group: Cgroup) -> None:
    """The second finds XDP taken and says that tc counts instead; both see the flow, and each detaches its own."""
    live = words(group, "--json", "--every", "50ms")
    with talking(net) as talk, door(net["server"], ROOT, *live) as one:
        first = begun(one)
        with door(net["server"], ROOT, *live) as other:
            taken = other.attached()
            assert taken == "eth0 has an XDP program already, and keeps it: tc ingress counts what that lets in\n"
            second = begun(other, LAYERS - 1)
            for lab in (one, other):
                seen = until(
                    lab, lambda seen: bool(seen["top_flows"]) and seen["top_flows"][0]["period"]["bytes_in"] > 0, talk
                )
                assert len(seen["top_flows"]) == 1
            assert other.end()[0] == 0
        wait_until(lambda: not any(map(lives, second)), within_s=5, what="the second's programs unloaded")
        assert all(map(lives, first))
        assert one.end()[0] == 0
    gone(net, first)


def test_killed(net: Any, group: Cgroup) -> None:
    """SIGKILL: the kernel takes everything back."""
    with door(net["server"], ROOT, *words(group, "--json")) as lab:
        programs = begun(lab)
        assert all(map(lives, programs))
        lab.process.kill()
        lab.process.wait()
    wait_until(lambda: not programs_at(net.interface("server/eth0")), within_s=5, what="an interface without XDP")
    gone(net, programs)


def test_events(net: Any, group: Cgroup) -> None:
    """A line each: who connected to whom, and how it ended."""
    with door(net["server"], ROOT, *words(group, "--events", "--every", "20ms")) as lab:
        begun(lab)
        with talking(net) as talk:
            talk()
        lines = [lab.line() for _ in range(5)]
        status, _ = lab.end()
    name, number = Path("/proc/self/comm").read_text().strip(), os.getpid()
    assert [line.split()[0] for line in lines[:3]] == ["CONNECTING", "CONNECTED", "ACCEPTED"]
    assert lines[1].endswith(f":{PORT} {name}[{number}]\n")
    assert all(line.startswith("CLOSED ") and "srtt " in line for line in lines[3:])
    assert status == 0


def test_once(net: Any, group: Cgroup) -> None:
    """One period, in plain columns, and the end."""
    with talking(net), door(net["server"], ROOT, *words(group, "--once", "--every", "20ms")) as lab:
        said, errors = lab.process.communicate(timeout=20)
    assert lab.process.returncode == 0, errors
    assert said.startswith("1 flows\nproto  from")
    assert "service ports\n" in said and "interfaces, by layer\n" in said
    assert "in no flow: nothing" in errors


@pytest.mark.parametrize(
    ("wrong", "telling"),
    [
        (("--alerts", "RULES"), "line 2: 'weather' cannot be watched"),
        (("--listen", "TAKEN"), "Address already in use"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes(net: Any, group: Cgroup, tmp_path: Path, wrong: tuple[str, ...], telling: str) -> None:
    """Status 2 and a sentence, before anything is attached."""
    (tmp_path / "rules.yaml").write_text("alerts:\n  - weather above 1s\n")
    with net["server"].socket(socket.AF_INET) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = {"RULES": str(tmp_path / "rules.yaml"), "TAKEN": str(taken.getsockname()[1])}
        with door(net["server"], ROOT, *words(group, *(given.get(word, word) for word in wrong))) as lab:
            said, errors = lab.process.communicate(timeout=20)
    assert (lab.process.returncode, said) == (2, ""), errors
    assert telling in errors and "Traceback" not in errors and "attached" not in errors


@pytest.mark.parametrize(
    ("mount", "telling"),
    [
        ("-o ro", "Read-only file system"),
        ("-o size=64k", "database or disk is full"),
    ],
    ids=("read-only", "full"),
)
def test_a_disk_that_takes_nothing(net: Any, group: Cgroup, tmp_path: Path, mount: str, telling: str) -> None:
    """The history says so in one sentence, periods are counted as lost, and the monitor goes on."""
    command = [sys.executable, "-m", "lab.cli", *words(group, "--json", "--every", "50ms")]
    script = f'mount -t tmpfs {mount} none {tmp_path} && exec "$@" --history {tmp_path}/h.db'
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
    process = net["server"].popen(["unshare", "-m", "sh", "-c", script, "sh", *command], cwd=ROOT, **told)
    try:
        lab = Door(process)
        with talking(net) as talk:
            seen = until(lab, lambda seen: seen["history"]["lost"] >= 2 and bool(seen["top_flows"]), talk)
        assert f"history in {tmp_path}/h.db: " in seen["history"]["trouble"] and telling in seen["history"]["trouble"]
        assert "\n" not in seen["history"]["trouble"]
        status, said = lab.end()
    finally:
        process.kill()
        process.wait()
    assert (status, "Traceback" in said) == (0, False), said
