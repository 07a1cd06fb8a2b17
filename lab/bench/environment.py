"""The machine, kernel, settings and commit of a run, read and never changed."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lab.model.run import Environment

SETTINGS = (
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/bpf_jit_kallsyms",
    "net/core/bpf_jit_limit",
    "net/core/default_qdisc",
    "net/core/dev_weight",
    "net/core/netdev_budget",
    "net/core/netdev_budget_usecs",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/ipv4/tcp_congestion_control",
    "kernel/bpf_stats_enabled",
    "kernel/sched_rt_period_us",
    "kernel/sched_rt_runtime_us",
    "kernel/unprivileged_bpf_disabled",
)
CPUS = Path("/sys/devices/system/cpu")
PROCESSOR = {
    "cpu.governor": CPUS / "cpu0/cpufreq/scaling_governor",
    "cpu.smt": CPUS / "smt/active",
    "cpu.no_turbo": CPUS / "intel_pstate/no_turbo",
    "cpu.isolated": CPUS / "isolated",
    "cpu.nohz_full": CPUS / "nohz_full",
    "clocksource": Path("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    "machine": Path("/sys/class/dmi/id/product_name"),
    "transparent_hugepage": Path("/sys/kernel/mm/transparent_hugepage/enabled"),
}
"""Absent on most virtual machines, and then not in the settings."""
GIT_OPTIONS = (
    *("-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"),
    "--no-optional-locks",
)
"""A checkout may be anybody's and git is asked as root: it runs nothing that the checkout names, and writes nothing."""
PACKAGES = ("bpflab", "pytest", "scapy", "pytest-benchmark")


def read_environment(project: Path | None) -> Environment:
    """The environment of this process; `project` is the folder whose commit is meant ("" where git knows none)."""
    return Environment(
        kernel=platform.release(),
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        commit=_git(project, "rev-parse", "HEAD"),
        dirty=bool(_git(project, "status", "--porcelain")),
        bpf_jit={"0": "off", "1": "on", "2": "on, debug"}.get(_sysctl("net/core/bpf_jit_enable"), "unknown"),
        tools={"python": platform.python_version(), **_package_versions()},
        settings={name.replace("/", "."): _sysctl(name) for name in SETTINGS} | _processor_settings() | _mitigations(),
    )


def _cpu_model() -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _processor_settings() -> dict[str, str]:
    """Frequency, turbo, hyper-threading, isolated CPUs, the clock, and what the kernel was built as."""
    found = {name: _text(path) for name, path in PROCESSOR.items()}
    found["cpu.hypervisor"] = "yes" if " hypervisor" in _text(Path("/proc/cpuinfo")) else "no"
    found["kernel.build"] = platform.version()  # "#1 SMP PREEMPT_DYNAMIC" and its date: two builds of one release
    return {name: value for name, value in found.items() if value}


def _mitigations() -> dict[str, str]:
    """What the kernel does against each weakness of the processor: retpolines alone cost a tail call its double."""
    folder = CPUS / "vulnerabilities"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    told = {f"mitigation.{name}": _text(folder / name) for name in names}
    return {name: value for name, value in told.items() if value != "Not affected"}


def _package_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _sysctl(name: str) -> str:
    return _text(Path("/proc/sys") / name)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _git(project: Path | None, *arguments: str) -> str:
    """What git prints, or "" where there is no git or no repository (root may read a user's checkout)."""
    if project is None:
        return ""
    command = ["git", *GIT_OPTIONS, "-C", str(project), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
