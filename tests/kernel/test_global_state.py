"""What belongs to the whole machine is, after the lab, as it was: sysctls, module parameters, bpf_stats, cgroups.

Others may change such things at the same time; what the lab changes stays changed, so a difference must last to count.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from lab.errors import WaitTimeout
from lab.kernel import cgroup, sysctl
from lab.kernel.scratch import Scratch
from lab.wait import wait_until

PROJECT = Path(__file__).resolve().parents[2]
LIVELY = ("ns_last_pid", "uuid", "cad_pid")
"""What changes by itself and can be written."""


def settings() -> dict[str, str]:
    """Every sysctl and module parameter that can be read and written, and the cgroups that are no lab's."""
    found = {}
    for pattern in ("/proc/sys/**/*", "/sys/module/*/parameters/*"):
        for each in Path("/").glob(pattern[1:]):
            with suppress(OSError, UnicodeDecodeError):
                about = each.stat()
                if stat.S_ISREG(about.st_mode) and about.st_mode & 0o200 and each.name not in LIVELY:
                    found[str(each)] = each.read_text()
    with suppress(OSError):
        folders = [each for each in cgroup.root().iterdir() if each.is_dir() and not cgroup.NAME.fullmatch(each.name)]
        found["cgroups"] = " ".join(sorted(each.name for each in folders))
    return found


def lasting(before: dict[str, str], within_s: float = 3) -> dict[str, tuple[str | None, str | None]]:
    """What is different now, and stays so for a while."""

    def differences() -> dict[str, tuple[str | None, str | None]]:
        now = settings()
        return {name: (before.get(name), now.get(name)) for name in before | now if before.get(name) != now.get(name)}

    with suppress(WaitTimeout):
        wait_until(lambda: not differences(), within_s=within_s, what="the settings to be as they were")
    return differences()


def pytest_run(*words: str, **options: object) -> subprocess.Popen[str]:
    plain = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-lab-run"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *plain, *words],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_the_looking_sees_a_change() -> None:
    """A sysctl of a namespace of our own, written by the lab and not put back."""
    with Scratch() as scratch, scratch.inside():
        before = settings()
        sysctl.write("net.ipv4.ip_default_ttl", "63")
        assert lasting(before, within_s=0) == {"/proc/sys/net/ipv4/ip_default_ttl": ("64\n", "63\n")}


def test_two_runs_at_once_in_two_folders(tmp_path: Path) -> None:
    """Each with two workers, the same scenarios, one cache: both pass, and the machine is as it was."""
    before = settings()
    running = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        surroundings = {**os.environ, "TMPDIR": str(tmp_path / name)}
        running.append(pytest_run("-n", "2", "examples", env=surroundings))
    for each in running:
        said, _ = each.communicate(timeout=240)
        assert each.returncode == 0, said
    assert lasting(before) == {}


@pytest.mark.parametrize(
    "node",
    [
        "scenarios/test_cgroup_redirect_connect.py::test_the_proxy_is_told_by_the_socket",
        "scenarios/test_trace_syscall.py::test_each_call_is_counted_once",
        "benchmarks/bench_xdp_filter.py::test_cost_without_rules",
    ],
)
def test_the_machine_is_as_it_was(node: str) -> None:
    """After programs at cgroups, at system calls, and a measurement with statistics and a core of its own."""
    before = settings()
    running = pytest_run(node)
    said, _ = running.communicate(timeout=240)
    assert running.returncode == 0, said
    assert lasting(before) == {}
