"""The files of a commit, in a folder of the cache that is named by it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePath

from lab.bench.environment import GIT_OPTIONS
from lab.bpf.build import cache_folder
from lab.errors import LabError

TIMEOUT_S = 60
KERNEL = re.compile(r"(linux|kernel)?-?v?\d+\.\d+(\.\d+)*(-\S+)?")
""" "6.12", "kernel-6.1", "6.18.44-generic": where git knows no such commit, a kernel was meant."""


def checkout(project: Path, commit: str) -> Path:
    """A folder with the files of `commit` (anything git understands); made once, whole or not at all.

    The project itself is only read. LabError, in git's own words, when there is no such commit.
    """
    name = _git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if not name and KERNEL.fullmatch(commit):
        raise LabError(
            f"compare with {commit!r}: two kernels cannot take turns in one run, so that no verdict would be sure",
            mend="run the benchmark on each, then: lab compare --across-environments A.json B.json",
        )
    if not name:
        raise LabError(f"compare with {commit!r}: git knows no such commit in {project}", mend="git log --oneline")
    folder = cache_folder() / "commits" / name.decode().strip()
    if not folder.is_dir():
        _unpack(_git(project, "archive", "--format=tar", name.decode().strip()), folder)
    return folder


def _unpack(archive: bytes, folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as made:
        whole = Path(made) / "tree"
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            _extract(tar, whole)
        try:
            whole.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """What would land outside of the folder, or lead there, is left out."""
    if hasattr(tarfile, "data_filter"):
        tar.extraction_filter = _inside
        tar.extractall(folder)
    else:  # Debian 12's Python 3.11.2: without any link
        plain = (each for each in tar if each.isfile() or each.isdir())
        tar.extractall(folder, [each for each in plain if not {"..", "/"} & {*PurePath(each.name).parts}])


def _inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    try:
        return tarfile.data_filter(member, folder)
    except tarfile.FilterError:
        return None


def _git(project: Path, *arguments: str) -> bytes:
    """What git prints; b"" where it fails quietly. LabError where there is no git, or it is no repository."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *GIT_OPTIONS, "-C", str(project), *arguments],
            capture_output=True,
            timeout=TIMEOUT_S,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"ask git about {project}: {error}", mend="apt-get install git") from error
    said = done.stderr.decode(errors="replace").strip()
    if said:
        raise LabError(f"ask git about {project}", kernel=said, mend="compare needs a commit of this repository")
    return done.stdout
