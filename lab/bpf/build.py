"""From C to object: clang, run only when the source, a header, the flags or the compiler changed.

Objects are kept in $XDG_CACHE_HOME/bpflab (or ~/.cache/bpflab), named by the hash of all that went into them; beside
the source nothing is ever written. A manifest lists the files that clang read, so that a look at their times is enough
to know that an object is still right: about 0.3 ms.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from lab.errors import BuildError, FeatureMissing
from lab.kernel import whole_file
from lab.kernel.process import dying_with_the_lab
from lab.project import shipped_bpf

FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wno-unused-function", "-fno-stack-protector")
"""-mcpu=v3 (32-bit registers and jumps, Linux 5.1): shorter programs; v4 needs clang 18 and Linux 6.6."""
TIMEOUT_S = 120
KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
KERNEL_TYPES_FOLDER = "vmlinux-"
ATTEMPTS = 5
CLOCK_STEP_NS = 20_000_000
"""The time of a file is up to one tick of the kernel's clock behind the time of day."""
KEPT_S = 90 * 24 * 3600
SWEPT_EVERY_S = 24 * 3600
MEND_COMPILER = "apt-get install clang llvm libbpf-dev linux-libc-dev, or `make setup`"
TARGETS = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390", "ppc64le": "powerpc"}


def build(source: Path, *, flags: Sequence[str] = ()) -> Path:
    """The object of a `.bpf.c`, from the cache or fresh; BuildError with clang's own words when it refuses."""
    source = source.resolve()
    if not source.is_file():
        raise BuildError(f"compile {source}: no such file", mend="look at the path; `lab list` shows what there is")
    command = [*_compiler_command(), *flags, *_include_flags(source)]
    folder = cache_folder()
    manifest = folder / f"{_hash([str(source), *command, _compiler_identity()])}.json"
    cached = _cached(manifest)
    return cached if cached else _compile(source, command, manifest)


def cache_folder() -> Path:
    """The cache, readable and writable by its owner only, since what it holds is loaded with root's rights.

    Where another user made it (sudo that keeps HOME), a folder beside it is taken. BuildError when others could write.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "bpflab"
    try:
        if folder.is_dir() and folder.stat().st_uid != os.geteuid():
            folder = base / f"bpflab-{os.geteuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
    except OSError as error:
        raise BuildError(
            f"use the cache {folder}: {error.strerror}", mend="set XDG_CACHE_HOME to a folder of yours"
        ) from error
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
        raise BuildError(
            f"use the cache {folder}: others could write there",
            mend=f"chown and chmod 700 {folder}, or set XDG_CACHE_HOME to a folder of yours",
        )
    return folder


def _compiler_command() -> list[str]:
    compiler = shutil.which(os.environ.get("CLANG", "clang"))
    if not compiler:
        raise FeatureMissing("compile a BPF program: clang is not installed", mend=MEND_COMPILER)
    return [compiler, *FLAGS, f"-D__TARGET_ARCH_{TARGETS.get(platform.machine(), 'x86')}"]


def _include_flags(source: Path) -> list[str]:
    """The source's own include folder, the lab's headers, and the system's for this machine (asm/types.h)."""
    folders = [
        source.parent / "include",
        shipped_bpf() / "include",
        Path(f"/usr/include/{platform.machine()}-linux-gnu"),
    ]
    return [f"-I{folder}" for folder in dict.fromkeys(folders) if folder.is_dir()]


@cache
def _compiler_identity() -> str:
    """Tells one clang from another without running it: a new version is a new file."""
    binary = Path(_compiler_command()[0]).resolve()
    about = binary.stat()
    return f"{binary} {about.st_size} {about.st_mtime_ns}"


def _cached(manifest: Path) -> Path | None:
    try:
        kept = json.loads(manifest.read_text())
        fresh = all(_unchanged(path, *about) for path, about in kept["read"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = manifest.parent / kept["object"]
    return found if fresh and found.is_file() else None


def _unchanged(path: str, size: int, time_ns: int, content: str) -> bool:
    """Its size and time are as they were, or else its content is; the vmlinux.h of another kernel is another file."""
    if f"/{KERNEL_TYPES_FOLDER}" in path and _kernel_types_name() not in path:
        return False
    about = os.stat(path)  # noqa: PTH116 - thirty of them; a Path costs more than the call
    return about.st_size == size and (about.st_mtime_ns == time_ns or _hash_of(Path(path)) == content)


def _compile(source: Path, command: list[str], manifest: Path) -> Path:
    """Until no file was changed while clang read it: the manifest must tell of what is in the object."""
    sweep(manifest.parent)
    for _ in range(ATTEMPTS):
        start_ns = time.time_ns()
        final, newest_ns = _compile_once(source, command, manifest)
        if newest_ns < start_ns - CLOCK_STEP_NS:
            break
    return final


def _compile_once(source: Path, command: list[str], manifest: Path) -> tuple[Path, int]:
    """The object, and when the newest of the files that clang read was written (in ns, vmlinux.h left out)."""
    made, listed, said = _run(command, source)
    if said and "'vmlinux.h' file not found" in said:
        made, listed, said = _run([*command, f"-I{_kernel_types_folder()}"], source)
    if said:
        raise BuildError(f"compile {source}: clang refused", kernel=_first_lines(said), mend=_mend(said))
    read = {str(path): _about(path) for path in _dependencies(listed)}
    final = manifest.with_name(f"{_hash([manifest.stem, *(each[2] for each in read.values())])}.bpf.o")
    _keep(final, made)
    _keep(manifest, json.dumps({"object": final.name, "source": str(source), "read": read}).encode())
    return final, max(about[1] for path, about in read.items() if f"/{KERNEL_TYPES_FOLDER}" not in path)


def sweep(folder: Path) -> None:
    """Once a day, for there may be thousands of files: what was made long ago goes from the cache in `folder`."""
    now, swept = time.time(), folder / "swept"
    with suppress(FileNotFoundError):
        if 0 <= now - swept.stat().st_mtime < SWEPT_EVERY_S:
            return
    try:
        swept.touch()
    except OSError:
        return  # whoever writes an object next says why
    for each in folder.iterdir():
        with suppress(OSError):
            if each.suffix in (".o", ".json") and now - each.stat().st_mtime > KEPT_S:
                each.unlink()


def _keep(file: Path, content: bytes) -> None:
    try:
        whole_file.write(file, content)
    except OSError as error:
        mend = "free some space, or set XDG_CACHE_HOME to another folder"
        raise BuildError(f"keep {file}: {error.strerror}", mend=mend) from error


def _run(command: list[str], source: Path) -> tuple[bytes, str, str]:
    """The object, the make rule of what clang read, and what it said when it failed, "" when it did not.

    Nothing of it is a file: whenever the lab dies, nothing stays.
    """
    listed = os.memfd_create("dependencies")
    try:
        output = ["-MD", "-MF", f"/proc/self/fd/{listed}", "-c", str(source), "-o", "-"]
        done = subprocess.run(
            [*command, *output],
            capture_output=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            pass_fds=(listed,),
            preexec_fn=dying_with_the_lab(),
        )
        rule = os.pread(listed, os.fstat(listed).st_size, 0).decode(errors="surrogateescape")
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"compile {source}: clang took more than {TIMEOUT_S} s") from error
    finally:
        os.close(listed)
    said = done.stderr.decode(errors="replace") or "clang said nothing"
    return done.stdout, rule, said if done.returncode else ""


def _kernel_types_name() -> str:
    return KERNEL_TYPES_FOLDER + _hash([platform.release(), platform.version()])


def _kernel_types_folder() -> Path:
    """A folder with the vmlinux.h of the running kernel, made once per kernel by bpftool."""
    if not KERNEL_TYPES.exists():
        raise FeatureMissing(f"make vmlinux.h: {KERNEL_TYPES} is not there", mend="a kernel with CONFIG_DEBUG_INFO_BTF")
    folder = cache_folder() / _kernel_types_name()
    header = folder / "vmlinux.h"
    if not header.exists():
        bpftool = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin:/usr/local/sbin")
        if not bpftool:
            raise FeatureMissing("make vmlinux.h: bpftool is not installed", mend="apt-get install bpftool")
        dump = [bpftool, "btf", "dump", "file", str(KERNEL_TYPES), "format", "c"]
        done = subprocess.run(dump, capture_output=True, timeout=TIMEOUT_S, preexec_fn=dying_with_the_lab())
        if done.returncode:
            raise BuildError("make vmlinux.h: bpftool refused", kernel=done.stderr.decode(errors="replace").strip())
        _keep(header, done.stdout)
    return folder


def _dependencies(listed: str) -> list[Path]:
    """The files of a make rule as clang's -MD writes it."""
    words = listed.replace("\\\n", " ").partition(":")[2].replace("\\ ", "\0").split()
    return [Path(word.replace("\0", " ").replace("\\#", "#").replace("$$", "$")) for word in words]


def _about(path: Path) -> tuple[int, int, str]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns, _hash_of(path)


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(words: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _first_lines(said: str, most: int = 12) -> str:
    """From the first error on, and how it was included; warnings before it tell nothing."""
    lines = said.rstrip().splitlines()
    start = next((place for place, line in enumerate(lines) if "error: " in line), 0)
    while start and lines[start - 1].startswith(("In file included from", "                 from")):
        start -= 1
    lines = lines[start:]
    return "\n".join(lines[:most] + (["..."] if len(lines) > most else []))


def _mend(said: str) -> str:
    if "file not found" in said:
        return f"install the header, or put it into include/ beside the source ({MEND_COMPILER})"
    return "correct the source at the line that clang names"
