"""Gets a kernel as a Debian package and unpacks it into the cache: nothing is installed, this machine boots as ever."""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.matrix.kernel import Kernel, find, kernel_folder

TIMEOUT_S = 600
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MEND = "sudo apt-get update; or unpack a kernel's package by hand (dpkg -x) and name the folder with --kernel"


def fetch(series: str) -> Kernel:
    """The newest kernel of a series ("6.1", "6.12") that apt knows, unpacked; LabError when it knows none.

    About 70 to 110 MB to load, 100 to 400 MB on the disk.
    """
    package = newest_package(series)
    release = package.removeprefix("linux-image-")
    final = kernel_folder() / release
    if not final.is_dir():
        kernel_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kernel_folder(), prefix=".fetch-") as scratch:
            _run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=scratch)
            (archive,) = Path(scratch).glob("*.deb")
            _run(["dpkg", "-x", str(archive), "unpacked"], cwd=scratch)
            Path(scratch, "unpacked").replace(final)
    return find([str(final)])[0]


def newest_package(series: str) -> str:
    """The name of the package, as in "linux-image-6.1.0-56-amd64": for any machine, signed, not for real time.

    LabError when apt knows no kernel of the series.
    """
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    known = _run(["apt-cache", "pkgnames", f"linux-image-{series}"]).split()
    form = re.compile(rf"linux-image-{re.escape(series)}\.[0-9.]+(?:[-+][a-z0-9]+)*-{architecture}")
    fit = [name for name in known if form.fullmatch(name) and not re.search(r"-(cloud|rt|unsigned|dbg)\b", name)]
    if not fit:
        raise LabError(f"fetch kernel {series}: apt knows no linux-image-{series}…-{architecture}", mend=MEND)
    return max(fit, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _run(command: Sequence[str], cwd: str | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}: it failed", kernel=error.stderr.strip(), mend=MEND) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(command)}: it could not be done", kernel=str(error), mend=MEND) from error
    return done.stdout
