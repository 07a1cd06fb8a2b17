"""`lab replay` does again what a scenario did, and claims nothing where it could not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.cli import run as lab
from lab.kernel import capabilities

MARKED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

SEC("tc/ingress")
int marked(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&runs, &zero);

	if (count)
		*count += 1;
	return skb->mark == 7 ? 2 : 0;
}
"""
SCENARIO = """
from lab import Topology
from lab.traffic.frames import udp

TOPOLOGY = Topology.pair("a", "b")

def test_it(net, bpf):
    program = bpf.load("marked.bpf.c")
    assert program.run(bytes(64), context={"mark": 7}, repeat=3).number == 2
    DO
    assert program.maps["runs"][0] == 99
"""


def failed(folder: Path, line: str, text: str = SCENARIO, program: str = MARKED) -> list[str]:
    """The arguments of `lab replay` for a scenario with this line in it."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "marked.bpf.c").write_text(program)
    (folder / "test_it.py").write_text(text.replace("DO", line))
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert "== 99" in done.stdout, done.stdout + done.stderr
    (folder / "said").write_text(done.stdout)
    return ["replay", "last", "--runs", str(folder / "reports" / "runs")]


def test_a_run_has_its_context_and_its_rounds_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mark decides the verdict, and three rounds are counted."""
    assert lab(failed(tmp_path, "pass")) == 1
    assert "It happens again" in capsys.readouterr().out


@pytest.mark.parametrize("networks", [1, 2])
def test_a_network_of_its_own_comes_up_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], networks: int) -> None:
    """What went through the one network that a scenario brought up goes through it again; of two it says so."""
    lines = """
    from lab import Network, Stream
    net = None
    for _ in range(NETWORKS):
        with Network(TOPOLOGY) as own:
            assert own.send(Stream.udp("a", "b", dst_port=9, count=5)).received == 5
    """
    text = SCENARIO.replace("(net, bpf)", "(bpf)").replace("DO", lines.replace("NETWORKS", str(networks)))
    assert lab(failed(tmp_path, "", text)) == 1
    said = capsys.readouterr().out
    assert ("5 of 5 arrived" in said) == (networks == 1)
    assert said.count("remark      step") == (0 if networks == 1 else 2)


def test_a_map_is_compared_with_that_of_its_own_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was loaded later, and closed, has a map of the same name."""
    later = 'with __import__("lab.bpf").bpf.load("marked.bpf.c") as other: other.run(bytes(64), repeat=5)'
    assert lab(failed(tmp_path, later)) == 1
    assert "as before   what 1 map held" in capsys.readouterr().out


CLOCKED = """
from lab import Topology
TOPOLOGY = Topology.pair("a", "b")

def test_it(bpf):
    program = bpf.load("marked.bpf.c")
    for number in range(60):
        program.maps["seen"][number * 7919] = 1
    program.run(bytes(64))
    assert program.maps["seen"][0] == 99
"""
CLOCK = """
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100);
	__type(key, __u32);
	__type(value, struct { __u64 ns; __u64 random; __u64 step; });
} seen SEC(".maps");

SEC("tc/ingress")
int marked(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct { __u64 ns; __u64 random; __u64 step; } now = { bpf_ktime_get_ns(), bpf_get_prandom_u32(), STEP };

	bpf_map_update_elem(&seen, &zero, &now, BPF_ANY);
	return 0;
}
"""


def test_times_and_the_order_of_a_hash_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A map with a clock in it happens again; what is mended in it is seen beside the clock."""
    head = MARKED.partition("struct {")[0]
    text = CLOCKED.replace('["seen"][number * 7919] = 1', '["seen"][number * 7919] = (1, 2, 3)')
    text = text.replace('["seen"][0] == 99', '["seen"][0].step == 99')
    words = failed(tmp_path, "", text, head + CLOCK.replace("STEP", "4"))
    assert lab(words) == 1
    assert "It happens again" in capsys.readouterr().out
    (tmp_path / "marked.bpf.c").write_text(head + CLOCK.replace("STEP", "5"))
    assert lab([*words, "--now"]) == 0
    assert "step: 5" in capsys.readouterr().out


def test_what_comes_by_chance_is_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict that is another one at each replay says neither that it is mended nor that it is not."""
    text = """
def test_it(bpf):
    assert bpf.load("marked.bpf.c").run(bytes(64)).number + 99 == 99
"""
    program = MARKED.replace("skb->mark == 7 ? 2 : 0", "bpf_get_prandom_u32() >> 2 | 1")
    assert lab(failed(tmp_path, "", text, program)) == 1
    said = capsys.readouterr().out
    assert "it is other at each replay, and not compared" in said
    assert "It happens again: 1 of 1" in said, "the map"


def test_a_flood_is_a_remark_and_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That a count differs because no flood came again does not say that the program was mended."""
    flood = 'with program.attach(net.interface("b")): net.flood("a", udp(net, "a", "b", dst_port=9), count=100)'
    assert lab(failed(tmp_path, flood)) == 2
    assert "remark      the flood from a is not sent again" in capsys.readouterr().out
    assert "\n  but the flood from a is not sent again\n" in (tmp_path / "said").read_text()


def test_frames_are_kept_of_what_cannot_be_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scenario with sockets of its own, and nothing else."""
    text = """
from lab import Topology
TOPOLOGY = Topology.pair("a", "b")
def test_it(net):
    import socket
    with net["a"].socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.sendto(b"x", ("10.0.0.2", 4444))
    assert 98 == 99
"""
    words = failed(tmp_path, "", text)
    said = (tmp_path / "said").read_text()
    assert "1 dropped at b/eth0: NO_SOCKET" in said
    assert "No replay: nothing was loaded, run or sent by the lab's own means" in said
    assert (folder_of(words) / "frames.pcapng").stat().st_size > 100
    assert lab(words) == 2


def folder_of(words: list[str]) -> Path:
    """That of the one failure which is kept."""
    (found,) = Path(words[-1], "failures").iterdir()
    return found


SPOILED: dict[str, Any] = {
    "steps": 7,
    "steps of another kind": {"steps": [{"do": "close"}, {"do": "dict"}, {"no": "kind"}]},
    "a frame that is none": {"steps": [{"do": "run", "program": [0, "marked"], "frame": "zz", "context": ""}]},
    "an object elsewhere": {"objects": ["../../../marked.bpf.o"]},
    "an object anywhere": {"objects": ["/etc/passwd"]},
    "a topology": {"topology": {"namespaces": "many"}},
    "no remarks": {"remarks": None},
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    """Whatever was written into it: status 2 and no traceback."""
    words = failed(tmp_path, "pass")
    place = folder_of(words) / "failure.json"
    data = json.loads(place.read_text())
    spoiled = SPOILED[what] if isinstance(SPOILED[what], dict) else {what: SPOILED[what]}
    data["script"].update(spoiled)
    place.write_text(json.dumps(data))
    assert lab(words) == 2
    said = capsys.readouterr()
    assert "remark" in said.out or said.err.startswith("lab: ")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema":1}', b'{"schema":9}'])
def test_a_file_that_is_cut_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes) -> None:
    """It names the file."""
    folder = tmp_path / "failures" / "20260101T000000-abcdef"
    folder.mkdir(parents=True)
    (folder / "failure.json").write_bytes(raw)
    assert lab(["replay", "last", "--runs", str(tmp_path)]) == 2
    assert f"read {folder / 'failure.json'}: no stored failure" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "*", ".", "", "20260101T000000-abcdef/../x", "a\nb"])
def test_an_id_is_no_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """It is compared with what is there, and never opened."""
    (tmp_path / "failures" / "20260101T000000-abcdef").mkdir(parents=True)
    assert lab(["replay", name, "--runs", str(tmp_path)]) == 2
    assert "has no such failure" in capsys.readouterr().err


def test_what_another_user_kept_is_not_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that a search came upon may be a trap."""
    if os.geteuid():
        pytest.skip("only root can give a file away: sudo")
    words = failed(tmp_path, "pass")
    (loaded,) = folder_of(words).glob("0/*.bpf.o")
    os.chown(loaded, 65534, 65534)
    assert lab(words) == 2
    assert "belongs to user 65534, and it would run with your rights" in capsys.readouterr().err


def test_a_missing_capability_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is capabilities that are looked at, not whether the user is root."""
    words = failed(tmp_path, "pass")
    monkeypatch.setattr(capabilities, "lacking", lambda: ["CAP_NET_RAW"])
    assert lab(words) == 2
    assert "need root, or CAP_NET_RAW" in capsys.readouterr().err


def test_a_source_that_does_not_compile_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--now` says what the compiler said, and claims nothing."""
    words = failed(tmp_path, "pass")
    (tmp_path / "marked.bpf.c").write_text("int broken(")
    assert lab([*words, "--now"]) == 2
    assert "int broken(" in capsys.readouterr().err
