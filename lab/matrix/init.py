"""Process 1 of the machines: init.c beside this file, compiled once for each state of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.bpf.build import cache_folder
from lab.errors import BuildError

SOURCE = Path(__file__).with_name("init.c")
MEND = "apt-get install clang libc6-dev"


def init() -> Path:
    """The program, static: in the first root there is no library."""
    folder = cache_folder() / "init"
    final = folder / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:32]
    if final.is_file():
        return final
    folder.mkdir(exist_ok=True)
    compiler = shutil.which(os.environ.get("CLANG", "clang")) or shutil.which("cc")
    if compiler is None:
        raise BuildError(f"compile {SOURCE}: no C compiler is installed", mend=MEND)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        made = Path(scratch) / "init"
        command = [compiler, "-static", "-O2", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise BuildError(f"compile {SOURCE}", kernel=done.stderr.strip(), mend=MEND)
        made.replace(final)
    return final
