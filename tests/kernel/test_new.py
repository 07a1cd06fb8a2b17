"""`lab new` writes programs that pass at once, into a stranger's project too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.cli import run
from lab.commands.new import HOOKS

ROOT = Path(__file__).parents[2]
LONG = "a_stem_as_long_as_can_be_which_is_32"


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that is not this checkout, and the working directory."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_hooks_pass_at_once(stranger: Path) -> None:
    """Scenarios and benchmarks of a new program of every hook, in one pytest of the stranger's."""
    for hook in HOOKS:
        assert run(["new", f"my_{hook}", "--hook", hook]) == 0
    words = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-lab-run", "scenarios", "benchmarks"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert " skipped" not in done.stdout


def test_what_is_written_is_lint_clean(stranger: Path) -> None:
    """Short stems and long ones: clang-format, ruff and its formatter have nothing to say."""
    for hook in HOOKS:
        for stem in (f"m_{hook}", f"{hook}_{LONG}"[:32]):
            assert run(["new", stem, "--hook", hook]) == 0
    shutil.copy(ROOT / ".clang-format", stranger)
    ruff, settings = Path(sys.executable).with_name("ruff"), ("--config", ROOT / "pyproject.toml")
    sources = sorted(map(str, stranger.glob("bpf/*.c")))

    subprocess.run(["clang-format", "--dry-run", "-Werror", *sources], check=True)
    subprocess.run([ruff, "check", "--no-cache", *settings, "."], check=True)
    subprocess.run([ruff, "format", "--no-cache", "--check", *settings, "."], check=True)
    assert len(sources) == 2 * len(HOOKS)


def test_nothing_is_overwritten(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of the three is there: it stays, the others are not written, status 2 and the file's name."""
    (stranger / "scenarios").mkdir()
    (stranger / "scenarios" / "test_mine.py").write_text("mine")

    assert run(["new", "mine", "--hook", "xdp"]) == 2
    assert "test_mine.py is there already" in capsys.readouterr().err
    assert (stranger / "scenarios" / "test_mine.py").read_text() == "mine"
    assert not (stranger / "bpf").exists()


@pytest.mark.parametrize("stem", ["x", "Mine", "9lives", "int", "a-b", "../up", "list", "new_program", "x" * 33, ""])
def test_a_stem_must_be_a_name(stranger: Path, capsys: pytest.CaptureFixture[str], stem: str) -> None:
    """Of files, of a C function and of a command: else a sentence, status 2 and nothing is written."""
    assert run(["new", stem, "--hook", "xdp"]) == 2
    assert repr(stem) in capsys.readouterr().err
    assert [each.name for each in stranger.iterdir()] == ["pyproject.toml"]


def test_into_another_folder(stranger: Path) -> None:
    """--project: from wherever one stands."""
    assert run(["new", "mine", "--hook", "tc", "--project", "elsewhere"]) == 0
    assert (stranger / "elsewhere" / "bpf" / "mine.bpf.c").is_file()
