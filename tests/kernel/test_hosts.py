"""Scenarios run on other machines, which here are an sshd in a namespace of the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Topology, wait_until
from tests.kernel.door import LAB
from tests.kernel.ssh import needs_ssh, start_sshd

TOPOLOGY = Topology.star("desk", leaves=("alpha", "beta"), ipv6=None)

pytestmark = needs_ssh

SCENARIOS = """
import os
from pathlib import Path
import pytest
from lab import Stream, Topology
TOPOLOGY = Topology.pair("client", "server", ipv6=None)
@pytest.mark.parametrize("number", range(8))
def test_passes(net, number):
    Path("ran").open("a").write(os.environ.get("LAB_HOST", "here") + "\\n")
    assert net.send(Stream.udp("client", "server", dst_port=9000, count=5)).received == 5
def test_fails():
    if Path("fail").exists():
        pytest.fail("on purpose")
"""
DYING = """
import os, signal
from pathlib import Path
import pytest
@pytest.mark.parametrize("number", range(6))
def test_it(number):
    if os.environ["LAB_HOST"] == Path("lost").read_text():
        if Path("sshd").exists():
            os.kill(int(Path("sshd").read_text()), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class Farm:
    """Two hosts that ssh reaches from a desk, and the project that stands on each of them."""

    net: Any
    ssh: str
    project: Path

    def host(self, name: str) -> str:
        return f"root@{self.net[name].interface('eth0').ipv4}"

    def lab(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LAB_SSH": self.ssh}
        process = self.net["desk"].popen(
            [*LAB, "hosts", *words],
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        said, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, said, errors)

    def git(self, *words: str) -> None:
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *author, *words], cwd=self.project, check=True, capture_output=True)


@pytest.fixture
def farm(net: Any, tmp_path: Path) -> Iterator[Farm]:
    """An sshd in each leaf, with keys of its own; both see the same files, as by NFS."""
    ssh = start_sshd(net, ["alpha", "beta"], tmp_path, asking="desk")
    project = tmp_path / "project"
    (project / "scenarios").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[tool.pytest.ini_options]\ncache_dir = '/dev/null/none'\n")
    (project / "scenarios" / "test_it.py").write_text(SCENARIOS)
    made = Farm(net, ssh, project)
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "project: begins")):
        made.git(*words)
    yield made


def test_scenarios_are_dealt_out_and_stored_as_one_run(farm: Farm) -> None:
    """Each test runs once, on one of the two; the run that is stored here has them all."""
    done = farm.lab("--host", farm.host("alpha"), "--host", farm.host("beta"))

    assert done.returncode == 0, done.stdout + done.stderr
    ran = (farm.project / "ran").read_text().split()
    assert (len(ran), set(ran)) == (8, {farm.host("alpha"), farm.host("beta")})
    (stored,) = (farm.project / "reports" / "runs").glob("*.json")
    outcomes = [each["outcome"] for each in json.loads(stored.read_text())["results"]]
    assert outcomes == ["passed"] * 9


def test_a_failure_says_on_which_host(farm: Farm) -> None:
    """And the exit status is pytest's; words behind the options are pytest's too."""
    (farm.project / "fail").touch()
    done = farm.lab("--host", farm.host("beta"), "-k", "fails", "-q")

    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert f"{farm.host('beta')}, Linux" in done.stdout
    assert not (farm.project / "ran").exists()


def test_a_machine_that_is_lost_loses_no_test(farm: Farm) -> None:
    """The kernel is gone in mid-run, as far as ssh can tell: its tests run on the other one, and it is said which."""
    (farm.project / "scenarios" / "test_it.py").write_text(DYING)
    farm.git("commit", "-qam", "project: dies")
    (farm.project / "lost").write_text(farm.host("alpha"))
    (farm.project / "sshd").write_text(str(farm.net["alpha"].processes[0].pid))
    done = farm.lab("--host", farm.host("alpha"), "--host", farm.host("beta"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert done.stdout.count("lost its machine and ran once more") == 1


def test_a_test_that_ends_every_worker_fails(farm: Farm) -> None:
    """It is tried once more, not for ever."""
    (farm.project / "scenarios" / "test_it.py").write_text(DYING)
    farm.git("commit", "-qam", "project: dies")
    (farm.project / "lost").write_text(farm.host("beta"))
    done = farm.lab("--host", farm.host("beta"), "-k", "0 or 1")

    assert done.returncode == 1
    assert "2 failed" in done.stdout


def test_hosts_that_cannot_take_part_are_named_before_anything_runs(farm: Farm) -> None:
    """Not reached, not at the same commit, no such folder: a sentence, the mend, status 2."""
    nowhere = farm.lab("--host", "root@10.99.99.99")
    assert nowhere.returncode == 2
    assert "host root@10.99.99.99: ssh cannot reach it" in nowhere.stderr
    assert farm.lab("--host", "-oProxyCommand=touch${IFS}ran").returncode == 2
    twice = farm.lab("--host", farm.host("alpha"), "--host", farm.host("alpha"))
    assert "one is named twice" in twice.stderr
    assert "say at least one --host" in farm.lab().stderr
    assert not (farm.project / "ran").exists()


def test_an_interrupt_ends_the_workers(farm: Farm) -> None:
    """Ctrl-C here, and there is no Python left there."""
    (farm.project / "scenarios" / "test_it.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "def test_long():\n    Path('begun').write_text(__import__('os').environ['LAB_HOST'])\n    time.sleep(60)\n"
    )
    farm.git("commit", "-qam", "project: sleeps")
    process = farm.net["desk"].popen(
        [*LAB, "hosts", "--host", farm.host("alpha")],
        cwd=farm.project,
        env={**os.environ, "LAB_SSH": farm.ssh},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until((farm.project / "begun").exists, within_s=60, what="the test on the other host")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode in (2, 130)
        wait_until(lambda: not _pythons(farm.project), within_s=20, what="the end of the workers")
    finally:
        process.kill()
        process.communicate()


def _pythons(folder: Path) -> list[str]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if (each / "cwd").readlink() == folder and sys.executable in (each / "cmdline").read_text():
                found.append(each.name)
        except OSError:
            continue
    return found
