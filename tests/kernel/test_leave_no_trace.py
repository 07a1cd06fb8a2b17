"""A lab killed with SIGKILL, at whatever moment, leaves nothing: the kernel cleans up by itself.

A child process brings networks up, loads and attaches a program with a map, starts processes, and tears down, over and
over, until it is killed. Everything that it makes carries a mark of its own (in names, in the environment, in its
TMPDIR), so that other tests may run meanwhile.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.bpf.build import build
from lab.wait import wait_until
from tests.chaos import remains

MOMENTS = 50
WORD = re.compile(r"[^\W_]+")
LONGEST_S = 0.06  # a round of the child takes about half of this

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} m_MARK SEC(".maps");
SEC("xdp")
int p_MARK(struct xdp_md *context)
{
	__u32 key = 0;
	bpf_map_lookup_elem(&m_MARK, &key);
	return XDP_PASS;
}
char _license[] SEC("license") = "GPL";
"""

LAB = """
import sys
from lab import Mode, bpf
from lab.net.network import Network
from lab.net.topology import Topology
import lab.bpf.attachment, lab.bpf.loader
topologies = [Topology.pair("client", "server"), Topology.chain("client", "dut", "server"),
              Topology.bridge("switch", leaves=("client", "server"))]
print("ready", flush=True)
number = 0
while True:
    number += 1
    with Network(topologies[number % 3]) as net, bpf.load(sys.argv[1]) as program:
        program.maps["m_" + sys.argv[2]][number] = number
        process = net["client"].popen(["sleep", "1000"])
        with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
            net["server"].popen(["true"]).wait()
"""


def test_a_killed_lab_leaves_nothing(tmp_path: Path) -> None:
    """After SIGKILL at 50 random moments nothing remains of it.

    No namespace, veth, program, map, pin, cgroup, process or file.
    """
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    mark = f"{seed:08x}"
    source = tmp_path / "trace.bpf.c"
    source.write_text(SOURCE.replace("MARK", mark))
    lab = Killable(mark, build(source), tmp_path / "temporary")
    seen = [lab.life(dice.uniform(0, LONGEST_S), look_inside=bool(moment % 2)) for moment in range(MOMENTS)]

    # The looking has something to find: in some lives namespaces, processes, programs and maps were there.
    assert max(each["namespaces"] for each in seen) >= 2
    assert {name: any(each[name] for each in seen) for name in ("processes", "programs", "maps")} == {
        "processes": True,
        "programs": True,
        "maps": True,
    }


class Killable:
    """A lab to kill; `life` is from its start to the last trace of it."""

    def __init__(self, mark: str, program: Path, temporary: Path) -> None:
        self._mark = mark
        self._program = program
        self._temporary = temporary
        temporary.mkdir()

    def life(self, until_s: float, *, look_inside: bool) -> dict[str, int]:
        """Runs the lab for `until_s`, kills it and waits until nothing is left; what there was before, counted.

        Every second time the lab is stopped, looked into, and killed then: a veth is laid from each of its namespaces
        to one of ours, for it vanishes with the namespace, whatever might still hold that. The other times nothing
        delays the kill.
        """
        with remains.Witness() as witness:
            lab = subprocess.Popen(
                [sys.executable, "-c", LAB, str(self._program), self._mark],
                stdout=subprocess.PIPE,
                env={**os.environ, "LAB_MARK": self._mark, "TMPDIR": str(self._temporary)},
            )
            assert lab.stdout is not None
            namespaces = 0
            try:
                assert lab.stdout.readline() == b"ready\n"
                pause(until_s)
                if look_inside:
                    lab.send_signal(signal.SIGSTOP)
                    wait_until(lambda: state(lab.pid) == "T", within_s=10, what="the lab to stop")
                    namespaces = witness.watch(lab.pid)
                found = {"namespaces": namespaces, **self._counts(lab.pid)}
            finally:
                lab.kill()
                lab.wait(timeout=10)
                lab.stdout.close()
            wait_until(lambda: not witness.veths(), within_s=10, what="the end of the lab's namespaces")
            wait_until(lambda: not self._remains(lab.pid), within_s=10, what=f"the end of {self._remains(lab.pid)}")
            return found

    def _counts(self, pid: int) -> dict[str, int]:
        return {
            "processes": len([each for each in marked_processes(self._mark) if each != pid]),
            "programs": remains.names("prog").count(f"p_{self._mark}"),
            "maps": remains.names("map").count(f"m_{self._mark}"),
        }

    def _remains(self, pid: int) -> list[str]:
        mounts, ours = remains.mounts(), {self._mark, str(pid)}
        found = [f"process {each}" for each in marked_processes(self._mark)]
        found += [f"program {each}" for each in remains.names("prog") if each == f"p_{self._mark}"]
        found += [f"map {each}" for each in remains.names("map") if each == f"m_{self._mark}"]
        found += [f"file {each}" for each in remains.below(self._temporary)]
        found += [f"mount {line}" for line in mounts if self._mark in line or f"/proc/{pid}/" in line]
        for folder in (*mounted(mounts, "cgroup2"), *mounted(mounts, "bpf"), Path("/run/netns")):
            found += [each for each in remains.below(folder) if ours & {*WORD.findall(Path(each).name)}]
        return found


def pause(seconds: float) -> None:
    """A random moment is a point in time and no condition."""
    time.sleep(seconds)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def marked_processes(mark: str) -> list[int]:
    found = []
    for each in Path("/proc").iterdir():
        with suppress(OSError):
            if each.name.isdigit() and f"LAB_MARK={mark}".encode() in (each / "environ").read_bytes():
                found.append(int(each.name))
    return found


def mounted(mounts: set[str], kind: str) -> Iterator[Path]:
    """Where file systems of a kind are mounted."""
    for line in mounts:
        before, _, after = line.partition(" - ")
        if after.split()[0] == kind:
            yield Path(before.split()[4])


@pytest.mark.parametrize("kind", ["prog", "map"])
def test_the_looking_sees_an_object_that_is_there(kind: str, tmp_path: Path) -> None:
    """While an object is loaded, its program and its map are found by name; afterwards they are not."""
    from lab.bpf import load

    mark = f"{random.SystemRandom().getrandbits(32):08x}"
    source = tmp_path / "seen.bpf.c"
    source.write_text(SOURCE.replace("MARK", mark))
    with load(source):
        assert f"{kind[0]}_{mark}" in remains.names(kind)
    wait_until(lambda: f"{kind[0]}_{mark}" not in remains.names(kind), what=f"the end of the {kind}")
