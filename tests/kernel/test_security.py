"""The lab runs with root's rights: it uses nothing that another user could have put in its way."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.report.html import write
from tests.kernel.door import LAB

OTHER = 65534

COMPANION = """
from pathlib import Path
Path("ran").touch()
HOOKS = ("xdp",)
def view(program):
    return []
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder with a program and a companion that another user wrote."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user: sudo")
    bpf = tmp_path / "bpf"
    bpf.mkdir()
    shutil.copy("bpf/xdp_filter.bpf.c", bpf / "xdp_mine.bpf.c")
    (bpf / "xdp_mine.py").write_text(COMPANION)
    (bpf / "alone.py").write_text(COMPANION)
    return tmp_path


def lab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SUDO_UID"}
    return subprocess.run([*LAB, *words], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("words", [("xdp_mine", "--help"), ("alone", "--help"), ("attach", "xdp_mine", "--help")])
def test_what_is_mine_runs(planted: Path, words: tuple[str, ...]) -> None:
    """Without this the next test would say nothing."""
    assert lab(planted, *words).returncode == 0


@pytest.mark.parametrize("words", [("xdp_mine", "--help"), ("alone", "--help"), ("attach", "xdp_mine", "--once")])
@pytest.mark.parametrize("theirs", ["bpf", "bpf/xdp_mine.py", "bpf/alone.py", "bpf/xdp_mine.bpf.c"])
def test_what_another_user_put_there_does_not(planted: Path, words: tuple[str, ...], theirs: str) -> None:
    """One sentence, status 2, and nothing of it ran; a file that is not asked for does no harm."""
    os.chown(planted / theirs, OTHER, OTHER)
    done = lab(planted, *words)
    asked_for = theirs == "bpf" or ("alone" in theirs) == ("alone" in words[0])
    if asked_for and not (theirs.endswith(".c") and words[0] == "alone"):
        assert done.returncode == 2
        assert f"belongs to user {OTHER}, and it would run with your rights" in done.stderr
        assert not (planted / "ran").exists()
    assert "Traceback" not in done.stderr


def test_scenarios_that_another_user_put_there_are_not_run(planted: Path) -> None:
    """`lab blind` looks for them by itself."""
    (planted / "scenarios").mkdir()
    (planted / "scenarios" / "conftest.py").write_text(COMPANION)
    os.chown(planted / "scenarios", OTHER, OTHER)
    done = lab(planted, "blind")
    assert done.returncode == 2
    assert f"belongs to user {OTHER}, and it would run with your rights" in done.stderr
    assert not (planted / "ran").exists()


def test_a_folder_that_everybody_writes_to_is_refused(planted: Path) -> None:
    """Whoever owns the files in it now."""
    (planted / "bpf").chmod(0o777)
    done = lab(planted, "xdp_mine", "--help")
    assert done.returncode == 2
    assert "can be written by everybody" in done.stderr
    assert not (planted / "ran").exists()


def test_the_owner_who_called_sudo_is_trusted(planted: Path) -> None:
    """`sudo lab` in one's own checkout."""
    for each in (planted / "bpf", *(planted / "bpf").iterdir()):
        os.chown(each, OTHER, OTHER)
    environment = {**os.environ, "SUDO_UID": str(OTHER)}
    words = [*LAB, "xdp_mine", "--help"]
    assert subprocess.run(words, cwd=planted, capture_output=True, env=environment).returncode == 0


def test_the_report_is_not_written_through_a_link(tmp_path: Path) -> None:
    """Neither through one that has the page's name, nor through one that has that of its unfinished file."""
    runs, victim = tmp_path / "runs", tmp_path / "victim"
    runs.mkdir()
    victim.write_text("as before")
    page = tmp_path / "index.html"
    page.symlink_to(victim)
    write(runs, page)
    assert victim.read_text() == "as before"
    assert not page.is_symlink()
