"""Kernel modules as files: which ones are needed, in the order in which they can be loaded, uncompressed.

A kernel's package holds modules that are not loaded anywhere, so nothing is asked of a running kernel: what a module
depends on stands in the module itself (.modinfo, "depends=").
"""

from __future__ import annotations

import lzma
import re
import subprocess
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True)
class Module:
    """A module's name, as lsmod shows it, and the plain ELF file."""

    name: str
    content: bytes


class ModuleFolder:
    """lib/modules/<release>: what it has as files, and what the kernel has within itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths = {_name(path): path for path in (folder / "kernel").rglob("*.ko*")}
        self._built_in = {_name(Path(line)) for line in _lines(folder / "modules.builtin")}

    def has(self, name: str) -> bool:
        """As a file, or within the kernel."""
        return name in self._paths or name in self._built_in

    def needed_for(self, names: Iterable[str]) -> list[Module]:
        """These and what they depend on, each after what it needs; LabError for one that is nowhere."""
        found: dict[str, Module] = {}
        for name in names:
            self._add(name, found)
        return list(found.values())

    def _add(self, name: str, found: dict[str, Module]) -> None:
        if name in found or name in self._built_in:
            return
        if name not in self._paths:
            raise LabError(
                f"boot the kernel of {self.folder}: it has no module {name}",
                mend="a kernel for any machine, not for one cloud: linux-image-amd64, not linux-image-cloud-amd64",
            )
        content = _plain(self._paths[name])
        said = DEPENDS.search(content)
        for each in said.group(1).decode().split(",") if said else ():
            if each:
                self._add(each, found)
        found[name] = Module(name, content)


def _name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def _plain(path: Path) -> bytes:
    """The ELF file; Debian compresses with xz, Ubuntu and Arch with zstd (by its command: Python has none)."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".gz":
        return zlib.decompress(path.read_bytes(), wbits=zlib.MAX_WBITS | 16)
    if path.suffix == ".zst":
        return _by_zstd(path)
    return path.read_bytes()


def _by_zstd(path: Path) -> bytes:
    try:
        return subprocess.run(["zstd", "-dc", str(path)], capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LabError(f"read {path}: zstd could not", kernel=str(error), mend="apt-get install zstd") from error
