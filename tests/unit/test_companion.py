"""companion() finds the Python module beside a program's C file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.bpf.companion import companion, load_module
from lab.errors import LoadError


def write(folder, text):
    (folder / "bpf").mkdir()
    (folder / "bpf" / "xdp_mine.py").write_text(text)


def test_the_module_of_the_project_is_found_from_a_folder_below(tmp_path, monkeypatch):
    """Started in scenarios/, the module of ../bpf is loaded."""
    write(tmp_path, "ANSWER = 42\n")
    (tmp_path / "scenarios").mkdir()
    monkeypatch.chdir(tmp_path / "scenarios")
    assert companion("xdp_mine").ANSWER == 42


def test_a_module_is_loaded_once(tmp_path, monkeypatch):
    """Two calls give one module, so that its classes are the same classes."""
    write(tmp_path, "class Mine: pass\n")
    monkeypatch.chdir(tmp_path)
    assert companion("xdp_mine").Mine is companion("xdp_mine").Mine


def test_dataclasses_work_in_a_companion(tmp_path, monkeypatch):
    """They look their own module up by name while it is being loaded."""
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Mine:\n    a: int\n"
    )
    write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    assert companion("xdp_mine").Mine(1).a == 1


def test_shipped_programs_have_theirs_anywhere(tmp_path, monkeypatch):
    """Outside of any project the companions of the programs that come with the lab are there."""
    monkeypatch.chdir(tmp_path)
    assert companion("xdp_balance").wheel([2, 1]) == [0, 1, 0]


def test_a_missing_companion_says_where_it_should_stand(tmp_path, monkeypatch):
    """A stem without a module is a LoadError with the mend."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match="beside the"):
        companion("xdp_nothing")


def test_a_module_that_fails_is_not_kept_half_loaded(tmp_path, monkeypatch):
    """After its error is mended the next call loads it."""
    write(tmp_path, "raise RuntimeError('broken')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match="broken"):
        companion("xdp_mine")
    (tmp_path / "bpf" / "xdp_mine.py").write_text("ANSWER = 'mended now'\n")
    assert companion("xdp_mine").ANSWER == "mended now"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A = (", "line 1: SyntaxError: '(' was never closed"),
        ("\n\nB = C", "line 3: NameError: name 'C' is not defined"),
        ("raise SystemExit(3)", "line 1: SystemExit: 3"),
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("D = '\\udcff'\nE = D.encode()", "line 2: UnicodeEncodeError: "),
    ],
)
def test_a_file_that_cannot_be_run_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    """It names the file, its line and what Python said."""
    place = tmp_path / "wrong.py"
    place.write_text(text)
    with pytest.raises(LoadError) as caught:
        load_module(place)
    assert caught.value.what.startswith(f"run {place}: {words}")
