"""companion() finds the Python module beside a program's C file."""

from __future__ import annotations

import pytest

from lab.bpf.companion import companion
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
    with pytest.raises(RuntimeError, match="broken"):
        companion("xdp_mine")
    (tmp_path / "bpf" / "xdp_mine.py").write_text("ANSWER = 'mended now'\n")
    assert companion("xdp_mine").ANSWER == "mended now"
