"""The wheel works in a project that has never seen this repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

PROGRAM = """\
// SPDX-License-Identifier: GPL-2.0-only
/* drop_all: drops everything, and counts it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <lab/verdict.h>

__u64 dropped;

SEC("xdp")
int drop_all(struct xdp_md *ctx)
{
	(void)ctx;
	dropped++;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
"""

SCENARIO = '''\
"""A stranger's scenarios."""
from pathlib import Path

import lab
from lab import Mode, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")


def test_the_lab_is_the_installed_one():
    """No path leads back to the repository."""
    assert "installed" in Path(lab.__file__).parts


def test_own_program_drops(net, bpf):
    """The stranger's own program, which includes a header of the lab, drops all of ten datagrams."""
    program = bpf.load("drop_all")
    stream = Stream.udp("client", "server", dst_port=9000, count=10)
    with program.attach(net["server"].interface("eth0"), mode=Mode.NATIVE):
        during = net.send(stream)
    after = net.send(stream)
    assert (during.received, after.received) == (0, 10)


def test_a_shipped_program_loads(bpf):
    """A program that comes with the lab is found by its stem."""
    assert bpf.load("xdp_balance").fd >= 0
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this work tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    [built] = folder.glob("bpflab-*.whl")
    return built


def test_the_wheel_carries_sources_and_nothing_of_the_tests(wheel: Path) -> None:
    """Every header, program and instrument is inside; tests, scenarios and stored runs are not."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    headers_and_programs = {
        f"lab/shipped/{path.relative_to(REPOSITORY / 'bpf')}" for path in (REPOSITORY / "bpf").rglob("*.[ch]")
    }
    instruments = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "lab/instruments").glob("*.[ch]")}

    assert headers_and_programs | instruments | {"lab/py.typed"} <= inside
    assert {name.split("/")[0].split("-")[0] for name in inside} == {"lab", "bpflab"}


def test_a_strangers_scenarios_pass(wheel: Path, tmp_path: Path) -> None:
    """Installed beside the dependencies, in an empty project: plugin, headers and shipped programs are found."""
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    project = tmp_path / "project"
    (project / "bpf").mkdir(parents=True)
    (project / "scenarios").mkdir()
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "bpf" / "drop_all.bpf.c").write_text(PROGRAM)
    (project / "scenarios" / "test_drop_all.py").write_text(SCENARIO)

    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "scenarios"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert len(list((project / "reports" / "runs").glob("*.json"))) == 1
