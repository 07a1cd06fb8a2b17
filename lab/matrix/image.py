"""A read-only disk with what Python reads at its start: over 9p the same imports take several times as long.

The disk is laid over the host's files at the same paths. Its folders of Python are whole, and marked so ("opaque"),
so that no look for a module ever reaches the host.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lab.bpf.build import cache_folder
from lab.errors import LabError

OPAQUE = "trusted.overlay.opaque"
CHECKERS = ("mypy", "mypyc", "pip", "ruff", "uv", "setuptools", "hatchling")
OTHERS = ("tests", "test", "idlelib", "ensurepip", "site-packages", "dist-packages")
LEFT_OUT = frozenset((*CHECKERS, *OTHERS))
"""What no scenario imports, and is large; of the packages only those of this environment."""
TOOLS = ("sh", "setpriv", "ip", "tc", "iperf3", "ss", "ethtool")
LIBRARIES = ("libbpf.so.1", "libelf.so.1", "libz.so.1", "libcap.so.2")
"""Loaded by name (ctypes), so no program lists them."""
KEPT = 3
"""Images of this many states of the environment."""


def image() -> Path:
    """The file, from the cache or made anew (some seconds) when a package or a library has changed."""
    whole, single = whole_folders(), single_files()
    folder = cache_folder() / "images"
    final = folder / f"{_identity([*whole, *single])}.ext4"
    if final.is_file():
        os.utime(final)
        return final
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        tree, made = Path(scratch) / "tree", Path(scratch) / "made.ext4"
        _stage(tree, whole, single)
        _make(made, tree)
        made.replace(final)
    for old in sorted(folder.glob("*.ext4"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink()
    return final


def whole_folders() -> list[Path]:
    """The standard library, the packages of this environment, and the folders that its packages are links to.

    By their real paths: a folder of the disk must not lie where the host has a link.
    """
    library, packages = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib"))
    links = [path.resolve() for path in packages.iterdir() if path.is_symlink() and path.is_dir()]
    return list(dict.fromkeys([library, packages, *links]))


def single_files() -> list[Path]:
    """Python, the tools of the lab, and every library that they or Python's own modules load."""
    search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    tools = [found for tool in TOOLS if (found := shutil.which(tool, path=search))]
    modules = Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so")
    loaded = [path for name in LIBRARIES if (path := _library(name))]
    users = [os.path.realpath(sys.executable), *tools, *map(str, modules), *map(str, loaded)]
    return list(dict.fromkeys(map(Path, [*users[: len(tools) + 1], *loaded, *_libraries_of(users)])))


def _library(name: str) -> str | None:
    """Where the loader finds it: ldconfig's own list."""
    done = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=10)
    found = re.search(rf"^\s*{re.escape(name)} \(.*x86-64.*=> (\S+)", done.stdout, re.MULTILINE)
    return found.group(1) if found else None


def _libraries_of(files: Iterable[str]) -> list[str]:
    done = subprocess.run(["ldd", *files], capture_output=True, text=True, timeout=30)
    return re.findall(r"(?:=> |^\t)(/\S+) \(0x", done.stdout, re.MULTILINE)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below, the folders before what is in them, without what is left out."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in LEFT_OUT or "__mypyc." in entry.name:
            continue
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))


def _identity(paths: Iterable[Path]) -> str:
    """Names, sizes and times of all the files: about 0.1 s."""
    known = hashlib.sha256()
    for path in paths:
        entries = _files(path) if path.is_dir() else ()
        told = [(str(path), path.stat()), *((each.path, each.stat(follow_symlinks=False)) for each in entries)]
        for name, about in told:
            if not stat.S_ISDIR(about.st_mode):  # a folder's time changes with any byte-code
                known.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return known.hexdigest()[:32]


def _stage(tree: Path, whole: Iterable[Path], single: Iterable[Path]) -> None:
    for folder in whole:
        target = _folder(tree, folder)
        for entry in _files(folder):
            copy = target / os.path.relpath(entry.path, folder)
            if entry.is_dir(follow_symlinks=False):
                copy.mkdir(exist_ok=True)
            elif not os.path.lexists(copy):  # packages may lie within the standard library's folder
                _copy(Path(entry.path), copy)
        os.setxattr(target, OPAQUE, b"y")
    for path in single:
        _place(tree, path)


def _place(tree: Path, path: Path) -> None:
    """The file and the links that lead to it, each in the real folder of its name."""
    for _ in range(8):
        real = path.parent.resolve() / path.name
        target = _folder(tree, real.parent) / real.name
        if not os.path.lexists(target):
            _copy(real, target)
        if not real.is_symlink():
            return
        path = real.parent / real.readlink()


def _folder(tree: Path, folder: Path) -> Path:
    """The folder at its place in the tree, and those above it, with the host's modes."""
    target = tree
    tree.mkdir(exist_ok=True)
    for part in folder.parts[1:]:
        target = target / part
        if not target.is_dir():
            target.mkdir()
            shutil.copystat(Path("/", *target.relative_to(tree).parts), target)
    return target


def _copy(source: Path, target: Path) -> None:
    with suppress(OSError):
        if not source.is_symlink():
            os.link(source, target)
            return
    shutil.copy2(source, target, follow_symlinks=False)


def _make(made: Path, tree: Path) -> None:
    """ext4 with a quarter more room than the files need; it is never written."""
    bytes_needed = sum(each.lstat().st_blocks * 512 for each in tree.rglob("*") if not each.is_dir())
    command = ["mkfs.ext4", "-q", "-d", str(tree), "-b", "4096", "-m", "0", "-O", "^has_journal,^metadata_csum"]
    command += ["-E", "nodiscard,lazy_itable_init=1", "-I", "256", "-i", "8192", str(made)]
    search = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    try:
        subprocess.run(
            [*command, f"{int(bytes_needed * 1.25) // 1024 + 32768}k"],
            env=search,
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
        )
    except subprocess.CalledProcessError as error:
        raise LabError(f"make the disk {made.name}", kernel=error.stderr.strip()) from error
    except OSError as error:
        raise LabError(
            "make a disk: mkfs.ext4 could not", kernel=str(error), mend="apt-get install e2fsprogs"
        ) from error
