"""The lab needs no root: three capabilities are enough, and one that is missing is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from lab.kernel.capabilities import NEEDED, lacking

USER = 64321  # of nobody: it has no name
SCENARIO = """
from lab import Direction, Mode, Stream, Topology
from lab.traffic import frames
TOPOLOGY = Topology.chain("client", "dut", "server")
def test_xdp_and_tc(net, bpf):
    server = net["server"].interface("eth0")
    with bpf.load(OBJECT, program="drop_xdp").attach(server, mode=Mode.NATIVE):
        assert net.send(Stream.udp("client", "server", dst_port=9000, count=10)).received == 0
    with bpf.load(OBJECT, program="drop_tc").attach(server, direction=Direction.INGRESS):
        assert net.send(Stream.udp("client", "server", dst_port=9000, count=10)).received == 0
    assert net.send(Stream.udp("client", "server", dst_port=9000, count=10)).received == 10
def test_flood(net, bpf):
    assert net.flood("client/eth0", frames.udp(net, "client", "server", dst_port=9), count=1000).offered == 1000
def test_maps(bpf):
    program = bpf.load("xdp_filter")
    program.maps["deny_ports"][9000] = 1
    assert program.maps["deny_ports"][9000] == 1
"""
Run = Callable[[Iterable[str]], subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the scenario as another user with these capabilities and no others."""
    if lacking():
        pytest.skip(f"this needs {', '.join(lacking())} to give away: sudo")
    project = tmp_path / "project"
    project.mkdir(mode=0o755)
    drop = Path("tests/bpf/drop.bpf.c").resolve()
    (project / "test_it.py").write_text(SCENARIO.replace("OBJECT", repr(str(drop))))
    for each in (project, *project.iterdir()):
        os.chown(each, USER, USER)

    def with_capabilities(names: Iterable[str]) -> subprocess.CompletedProcess[str]:
        # Reading stays allowed: the checkout may lie where only root looks, in /root.
        wanted = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in (*names, "dac_read_search"))])
        as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        sets = [f"--{kind}={wanted}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
        options = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-lab-run", "--rootdir", ".")
        return subprocess.run(
            [*as_user, *sets, sys.executable, "-m", "pytest", *options, "test_it.py"],
            cwd=project,
            env={"PATH": os.environ["PATH"], "HOME": str(project)},
            capture_output=True,
            text=True,
        )

    return with_capabilities


def test_three_capabilities_are_enough(run: Run) -> None:
    """Networks, native XDP, tc, floods and maps work for a user who is not root."""
    done = run(NEEDED)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_capability_is_named_before_anything_is_done(run: Run, missing: str) -> None:
    """In one sentence, with the exit status of a wrong call."""
    done = run(set(NEEDED) - {missing})
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"namespaces and BPF programs need root, or {missing}" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
