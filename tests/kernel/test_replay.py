"""`lab replay` does again what a scenario did, and claims nothing where it could not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.cli import run as lab

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


def failed(folder: Path, line: str, text: str = SCENARIO) -> list[str]:
    """The arguments of `lab replay` for a scenario with this line in it."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "marked.bpf.c").write_text(MARKED)
    (folder / "test_it.py").write_text(text.replace("DO", line))
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert "== 99" in done.stdout, done.stdout + done.stderr
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


def test_a_flood_is_a_remark_and_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That a count differs because no flood came again does not say that the program was mended."""
    flood = 'with program.attach(net.interface("b")): net.flood("a", udp(net, "a", "b", dst_port=9), count=100)'
    assert lab(failed(tmp_path, flood)) == 2
    assert "remark      the flood from a is not sent again" in capsys.readouterr().out
