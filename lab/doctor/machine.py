"""The machine around the kernel: privileges, tools, headers, libraries and settings."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import __version__
from lab.doctor.check import Check
from lab.errors import LabError
from lab.kernel import capabilities


@dataclass(frozen=True)
class Tool:
    """A program on the PATH: its Debian package, and what the lab uses it for."""

    command: str
    package: str
    gives: str
    required: bool = False
    version_argument: str = "--version"


TOOLS = (
    Tool("clang", "clang", "compiles bpf/*.bpf.c", required=True),
    Tool("bpftool", "bpftool", "a look at what is loaded", version_argument="version"),
    Tool("iperf3", "iperf3", "net.iperf3: TCP and UDP throughput"),
    Tool("ip", "iproute2", "a look inside a network", version_argument="-V"),
    Tool("ethtool", "ethtool", "a look at offloads"),
    Tool("tcpdump", "tcpdump", "a look at captured frames"),
    Tool("clang-format", "clang-format", "make lint"),
    Tool("git", "git", "the commit of a stored run"),
)

HEADERS = (
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("/usr/include/linux/bpf.h", "linux-libc-dev"),
)


def describe() -> dict[str, object]:
    """The machine in a few words, for the heading."""
    return {
        "bpflab": __version__,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
    }


def look() -> Iterator[Check]:
    """Every check of the machine."""
    yield _privileges()
    yield from (_tool(tool) for tool in TOOLS)
    yield from (_header(Path(path), package) for path, package in HEADERS)
    yield _libbpf()
    yield _cpus()


def install(package: str) -> str:
    """The command that installs a Debian package."""
    return f"sudo apt-get install {package}"


def _privileges() -> Check:
    lacking = capabilities.lacking()
    gives = "namespaces, interfaces, BPF programs"
    if not lacking:
        return Check("root", "yes", True, gives, detail=f"uid {os.geteuid()}")
    mend = f"sudo {Path(sys.prefix) / 'bin' / 'lab'} doctor"
    if os.geteuid() == 0:
        mend = "start the container with --privileged"
    return Check("root", "no", True, gives, f"uid {os.geteuid()} without {', '.join(lacking)}", mend)


def _tool(tool: Tool) -> Check:
    path = shutil.which(tool.command)
    if path is None:
        return Check(tool.command, "no", tool.required, tool.gives, "not on the PATH", install(tool.package))
    return Check(tool.command, "yes", tool.required, tool.gives, _version(path, tool.version_argument))


def _version(path: str, argument: str) -> str:
    """The first thing that looks like a version in what the tool prints; its path when there is none."""
    try:
        done = subprocess.run([path, argument], capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} does not start: {error}"
    found = re.search(r"\d+\.[\w.]+", done.stdout + done.stderr)
    return found.group() if found else path


def _header(path: Path, package: str) -> Check:
    name = "/".join(path.parts[-2:])
    gives = f"#include <{name}>"
    if path.is_file():
        return Check(name, "yes", True, gives, str(path))
    return Check(name, "no", True, gives, f"{path} is missing", install(package))


def _libbpf() -> Check:
    from lab.kernel import libbpf

    gives = "reads, relocates and loads programs"
    try:
        version = libbpf.library().libbpf_version_string().decode()
    except LabError as error:
        return Check("libbpf", "no", True, gives, error.kernel, install("libbpf-dev"))
    return Check("libbpf", "yes", True, gives, version)


def _cpus() -> Check:
    number = len(os.sched_getaffinity(0))
    gives = "sender and receiver side by side"
    if number >= 2:
        return Check("two CPUs", "yes", False, gives, str(number))
    return Check("two CPUs", "no", False, gives, f"{number} only", "give the machine or this process a second CPU")
