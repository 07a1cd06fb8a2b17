"""Files that are whole or not there; /dev/shm is a tmpfs, the other folder a disk."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.kernel import whole_file

KILLED_WRITER = """
import sys
from pathlib import Path
from lab.kernel import whole_file
print(flush=True)
number = 0
while True:
    number += 1
    whole_file.write(Path(sys.argv[1], f"{number % 5}.json"), b"%09d" % number * 20_000)
"""


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path: Path) -> None:
    """Also into a folder that was not there, and over a file that was."""
    target = tmp_path / "new" / "run.json"
    whole_file.write(target, b"first")
    whole_file.write(target, b"second, longer")
    assert target.read_bytes() == b"second, longer"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_system_without_nameless_files_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden name is used then, and is gone afterwards."""
    opened = os.open

    def refusing(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)
    for content in (b"first", b"second"):
        whole_file.write(tmp_path / "run.json", content)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("run.json", b"second")]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    """A file may not grow beyond 1 KiB here, as on a disk that is full."""
    target = tmp_path / "run.json"
    whole_file.write(target, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            whole_file.write(target, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("run.json", b"old")]


def test_a_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    """SIGKILL at ten moments: every file has its 180,000 bytes of one number."""
    for moment in range(10):
        writer = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(timeout=0.005 * moment)
        writer.kill()
        writer.communicate()
        for each in tmp_path.glob("*.json"):
            content = each.read_bytes()
            assert content == content[:9] * 20_000
