"""Kernels that can be booted: a vmlinuz, its release, and the folder with its modules."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.bpf.build import cache_folder
from lab.errors import LabError

IMAGES = ("arch/x86/boot/bzImage", "arch/arm64/boot/Image")
"""Where a kernel's own build leaves what can be booted."""
SUFFIXES = re.compile(r"-(?:cloud-)?(?:amd64|arm64|generic)$")


@dataclass(frozen=True)
class Kernel:
    """`modules` is a folder with `modules.builtin`: lib/modules/<release>, or the root of a build."""

    release: str
    vmlinuz: Path
    modules: Path

    @property
    def name(self) -> str:
        """Short, for tables: "6.1.0-56" of "6.1.0-56-amd64"."""
        return SUFFIXES.sub("", self.release)

    @property
    def series(self) -> str:
        """The first two numbers: "6.12"."""
        return ".".join(self.release.split(".")[:2])


def kernel_folder() -> Path:
    """Where fetched kernels are kept: outside the project, since a kernel is no part of one."""
    return cache_folder() / "kernels"


def find(wanted: Iterable[str] = ()) -> list[Kernel]:
    """For each word the newest kernel that it means; for no word the newest of each series that is at hand.

    A word is a release or its beginning ("6.1", "6.12.117"), or a path: a vmlinuz, a folder into which a package was
    unpacked (boot/ and lib/modules/), a folder in which a kernel was built. LabError for a word that means none.
    """
    wanted = list(wanted)
    if wanted:
        return list(dict.fromkeys(_named(word) for word in wanted))
    newest = {kernel.series: kernel for kernel in sorted(at_hand(), key=_age)}
    return sorted(newest.values(), key=_age, reverse=True)


def at_hand() -> list[Kernel]:
    """Every kernel in /boot and among the fetched ones, of which there are modules."""
    roots = [Path("/"), *sorted(kernel_folder().glob("*/"))]
    return [kernel for root in roots for kernel in _unpacked(root)]


def _named(word: str) -> Kernel:
    if "/" in word:
        return _at(Path(word).absolute())
    found = [kernel for kernel in at_hand() if re.match(re.escape(word) + r"(?![0-9])", kernel.release)]
    if not found:
        known = ", ".join(kernel.release for kernel in at_hand()) or "none"
        raise LabError(f"there is no kernel {word} here; at hand: {known}", mend=f"lab matrix --fetch {word}")
    return max(found, key=_age)


def _at(path: Path) -> Kernel:
    if path.is_file() and path.name.startswith("vmlinuz-"):
        found = [kernel for kernel in _unpacked(path.parents[1]) if kernel.vmlinuz == path]
    else:
        found = _unpacked(path) or _built(path)
    if not found:
        raise LabError(
            f"boot {path}: no kernel with its modules there",
            mend="boot/vmlinuz-<release> beside lib/modules/<release>, or the folder of a kernel build",
        )
    return max(found, key=_age)


def _unpacked(root: Path) -> list[Kernel]:
    """As packages lay it out; in a system whose /lib is a link to /usr/lib both are the same."""
    found = []
    for vmlinuz in root.glob("boot/vmlinuz-*"):
        release = vmlinuz.name.removeprefix("vmlinuz-")
        modules = [root / lib / "modules" / release for lib in ("lib", "usr/lib")]
        found += [Kernel(release, vmlinuz, each) for each in modules if (each / "modules.builtin").is_file()][:1]
    return found


def _built(folder: Path) -> list[Kernel]:
    release = folder / "include/config/kernel.release"
    if not release.is_file():
        return []
    images = [folder / image for image in IMAGES if (folder / image).is_file()]
    return [Kernel(release.read_text().strip(), image, folder) for image in images]


def _age(kernel: Kernel) -> tuple[list[int], bool]:
    """Newer is greater; among equals one that was fetched, which `apt-get upgrade` does not touch."""
    return [int(number) for number in re.findall(r"\d+", kernel.release)], not os.fspath(kernel.vmlinuz).startswith(
        "/boot"
    )
