"""A lab killed with SIGKILL, at whatever moment, leaves nothing: the kernel cleans up by itself.

A child process brings networks up, loads and attaches a program with a map, starts processes, and tears down, over and
over, until it is killed. Everything that it makes carries a mark of its own (in names, in the environment, in its
TMPDIR), so that other tests may run meanwhile.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.bpf.build import build
from lab.kernel import bpf, netns
from lab.kernel.netlink import (
    NEW,
    NLM_F_REQUEST,
    RTM_GETLINK,
    RTM_NEWLINK,
    Request,
    RouteSocket,
    attribute,
    nested,
    u32,
)
from lab.kernel.netlink import text as text_attribute
from lab.wait import wait_until

MOMENTS = 50
LONGEST_S = 0.06  # a round of the child takes about half of this
PROG_GET_NEXT_ID, MAP_GET_NEXT_ID = 11, 12
NAME_BYTES = 16

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
        with Witness() as witness:
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
            "programs": objects("program").count(f"p_{self._mark}"),
            "maps": objects("map").count(f"m_{self._mark}"),
        }

    def _remains(self, pid: int) -> list[str]:
        found = [f"process {each}" for each in marked_processes(self._mark)]
        found += [f"program {each}" for each in objects("program") if each == f"p_{self._mark}"]
        found += [f"map {each}" for each in objects("map") if each == f"m_{self._mark}"]
        found += [f"file {each}" for each in self._temporary.rglob("*")]
        found += [f"mount {line}" for line in mounts() if self._mark in line or f"/proc/{pid}/" in line]
        for folder in (*mounted("cgroup2"), *mounted("bpf"), Path("/run/netns")):
            found += [str(each) for each in below(folder) if self._mark in each.name or f"{pid}" in each.name]
        return found


class Witness:
    """A namespace of ours, and veths from it into namespaces of others."""

    def __enter__(self) -> Witness:
        with netns.restored():
            netns.unshare()
            self._socket = RouteSocket()
        self._laid: list[int] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def watch(self, pid: int) -> int:
        """Lays a veth into each namespace that the process holds by a descriptor; how many they are."""
        held = set()
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(each.readlink()).startswith("net:"):
                    held.add((each.stat().st_ino, each))
        own = Path("/proc/self/ns/net").stat().st_ino
        foreign = {inode: each for inode, each in held if inode != own}
        for place, each in enumerate(foreign.values()):
            descriptor = os.open(each, os.O_RDONLY)
            try:
                self._lay(1000 + place, descriptor)
            finally:
                os.close(descriptor)
        return len(foreign)

    def _lay(self, ifindex: int, netns_fd: int) -> None:
        peer = struct.pack("=BxHiII", 0, 0, 100_000, 0, 0) + u32(28, netns_fd)
        info = nested(18, text_attribute(1, "veth"), nested(2, attribute(1, peer)))
        body = struct.pack("=BxHiII", 0, 0, ifindex, 0, 0) + info
        self._socket.batch([Request(RTM_NEWLINK, NEW, body, ("lay a veth",))])
        self._laid.append(ifindex)

    def veths(self) -> list[int]:
        """Those that are still there."""
        asked = [
            Request(RTM_GETLINK, NLM_F_REQUEST, struct.pack("=BxHiII", 0, 0, each, 0, 0), ("look for a veth",))
            for each in self._laid
        ]
        answers = self._socket.ask_each(asked)
        return [each for each, answer in zip(self._laid, answers, strict=True) if answer.kind == RTM_NEWLINK]


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


def objects(kind: str) -> list[str]:
    """The names of all programs or maps in the kernel."""
    following, opened, name_at = {
        "program": (PROG_GET_NEXT_ID, bpf.fd_of_program, 64),
        "map": (MAP_GET_NEXT_ID, bpf.fd_of_map, 24),
    }[kind]
    found, number = [], 0
    while True:
        attributes = bytearray(struct.pack("=III", number, 0, 0))
        try:
            bpf.bpf(following, attributes)
        except OSError as error:
            assert error.errno == errno.ENOENT
            return found
        number = struct.unpack_from("=I", attributes, 4)[0]
        with suppress(FileNotFoundError):
            descriptor = opened(number)
            try:
                name = bpf.object_info(descriptor)[name_at : name_at + NAME_BYTES]
            finally:
                os.close(descriptor)
            found.append(name.rstrip(b"\0").decode())


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def mounted(kind: str) -> Iterator[Path]:
    """Where file systems of a kind are mounted."""
    for line in mounts():
        before, _, after = line.partition(" - ")
        if after.split()[0] == kind:
            yield Path(before.split()[4])


def below(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        yield from (Path(path, name) for name in (*folders, *files))


@pytest.mark.parametrize("kind", ["program", "map"])
def test_the_looking_sees_an_object_that_is_there(kind: str, tmp_path: Path) -> None:
    """While an object is loaded, its program and its map are found by name; afterwards they are not."""
    from lab.bpf import load

    mark = f"{random.SystemRandom().getrandbits(32):08x}"
    source = tmp_path / "seen.bpf.c"
    source.write_text(SOURCE.replace("MARK", mark))
    with load(source):
        assert f"{kind[0]}_{mark}" in objects(kind)
    wait_until(lambda: f"{kind[0]}_{mark}" not in objects(kind), what=f"the end of the {kind}")
