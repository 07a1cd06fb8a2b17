"""`lab blind` itself: what stays green is listed, a reason is heard, and a needless one is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab import Action
from lab.bpf import load
from tests.kernel.door import LAB

SCENARIOS = '''
import pytest
from lab import Action, Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")

def attached(net, bpf):
    program = bpf.load("xdp_filter")
    program.maps["deny_ports"][9000] = 1
    return program.attach(net.interface("server/eth0"), mode=Mode.NATIVE)

def test_sharp(net, bpf):
    with attached(net, bpf):
        assert net.send(Stream.udp("client", "server", dst_port=9000)).received == 0
        assert net.send(Stream.udp("client", "server", dst_port=9001)).received == 100

def test_half(net, bpf):
    """It has no neighbour: a program that drops everything pleases it."""
    with attached(net, bpf):
        assert net.send(Stream.udp("client", "server", dst_port=9000)).received == 0

def test_hollow(bpf):
    bpf.load("xdp_filter")

@pytest.mark.blind("the verifier is asked, not the program")
def test_hollow_for_a_reason(bpf):
    bpf.load("xdp_filter")

@pytest.mark.blind("it thinks it cannot notice")
def test_sharp_with_a_needless_mark(bpf):
    program = bpf.load("xdp_filter")
    program.run(bytes(64))
    assert program.maps["verdicts"].total("XDP_PASS").packets == 1

@pytest.mark.parametrize("port", [9000, 9001])
def test_rows(net, bpf, port):
    """One row is enough."""
    with attached(net, bpf):
        assert net.send(Stream.udp("client", "server", dst_port=port)).received == (0 if port == 9000 else 100)

def test_of_no_program():
    assert True
'''


def test_what_stays_green_is_listed(tmp_path: Path) -> None:
    """Scenarios that would please a program which does nothing, and a mark that says so without need."""
    place = tmp_path / "test_them.py"
    place.write_text(SCENARIOS)
    words = [*LAB, "blind", str(place)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stdout.splitlines() if "::" in line or line.startswith("{")]
    told = {line.partition(": ")[0].rpartition("::")[2]: line.partition(": ")[2] for line in lines if "::" in line}
    assert told == {
        "test_half": "stays green when its program would drop everything",
        "test_hollow": "stays green when its program would pass and when it would drop everything",
        "test_sharp_with_a_needless_mark": "turns red both times: it needs no @pytest.mark.blind",
    }, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["scenarios"], counts["with_a_program"], counts["said_why"], counts["wrong"]) == (7, 6, 1, 3)
    assert done.returncode == 1


def test_workers_that_a_project_asks_for_are_not_used(tmp_path: Path) -> None:
    """With `-n 2` in its settings its scenarios are judged as without."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -n 2\n")
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "test_it.py").write_text('def test_hollow(bpf):\n    bpf.load("xdp_filter")\n')
    done = subprocess.run([*LAB, "blind"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, counts["scenarios"], counts["wrong"]) == (1, 1, 1)


@pytest.mark.parametrize(("verdict", "action"), [("pass", Action.XDP_PASS), ("drop", Action.XDP_DROP)])
def test_a_blind_program_has_one_verdict_and_its_maps(
    monkeypatch: pytest.MonkeyPatch, verdict: str, action: Action
) -> None:
    """Whatever comes; the maps are there, can be written, and stay as they were."""
    monkeypatch.setenv("LAB_BLIND", verdict)
    with load("xdp_filter") as program:
        program.maps["deny_ports"][9000] = 1
        assert {each.action for each in program.run_many([bytes(14), bytes(64), b"\xff" * 200])} == {action}
        assert program.maps["verdicts"].total("XDP_DROP").packets == 0
        assert program.maps["deny_ports"][9000] == 1


@pytest.mark.parametrize(
    "stem", sorted(each.name[: -len(".bpf.c")] for each in (Path(__file__).parents[2] / "bpf").glob("*.bpf.c"))
)
def test_every_program_can_be_replaced(monkeypatch: pytest.MonkeyPatch, stem: str) -> None:
    """Of whatever type: XDP, tc, cgroup, sock_ops, sk_reuseport, tracepoints."""
    for verdict in ("pass", "drop"):
        monkeypatch.setenv("LAB_BLIND", verdict)
        with load(stem) as program:
            assert program.programs
