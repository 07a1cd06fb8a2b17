"""Commands that tell figures, in a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lab.commands import calibrate, compare, history
from lab.commands.folded import folded
from lab.commands.told import Progress
from lab.model.calibration import Bar
from tests.unit import sample_numbers as numbers
from tests.unit import sample_run as sample
from tests.unit.test_trend import runs_with_a_step


class Terminal(io.StringIO):
    """Takes what is printed, and says that a person reads it."""

    def isatty(self) -> bool:
        """True, as of a terminal."""
        return True


def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard output from now on, 80 columns wide: no fixture, since pytest puts its own in place after those."""
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "40")
    return shown


def plain(shown: Terminal) -> list[str]:
    """The lines without colours."""
    return click.unstyle(shown.getvalue()).splitlines()


def test_text_is_folded_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines fit the terminal, those after the first are indented, and no word is lost."""
    in_terminal(monkeypatch)
    text = " ".join(f"word-{number}" for number in range(60))
    lines = folded(text, first="  ", indent="    ").splitlines()

    assert max(map(len, lines)) <= 79
    assert lines[0].startswith("  word") and all(line.startswith("    word") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == text


def test_a_pipe_gets_whole_lines() -> None:
    """What is not a terminal has one line for each thing, for grep."""
    text = "word " * 60
    assert folded(text, first="  ", indent="    ") == "  " + text


def test_a_comparison_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subject, verdict and small print stand below each other, none wider than the terminal."""
    terminal = in_terminal(monkeypatch)
    found = numbers.comparison(subject="IPv4, allowed by one of 1,000 prefixes, 1 flow", to_be_sure_s=12.0)
    with Progress(quiet=False) as progress:
        progress.done(found)

    assert max(map(len, plain(terminal))) <= 79
    assert plain(terminal)[:2] == [found.subject, f"  {found.sentence}"]
    assert "about 12 s more to be sure" in " ".join(line.strip() for line in plain(terminal))


def test_a_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was reached and what had to be are folded behind the word that says whether it held."""
    terminal = in_terminal(monkeypatch)
    calibrate._print(Bar("a cause " * 8, "all found " * 12, "so many " * 20, False, 2.0))
    lines = plain(terminal)

    assert max(map(len, lines)) <= 79
    assert lines[0].startswith("  MISSED  a cause")
    assert all(line.startswith(calibrate.INDENT) for line in lines[1:])


def test_a_history_stands_below_its_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Figures are indented below the name of their program, within the terminal; nothing empty has a column."""
    terminal = in_terminal(monkeypatch)
    for run in runs_with_a_step():
        sample.store(run, tmp_path)
    history.command.main(["xdp_filter", "--metric", "cost", "--runs", str(tmp_path)], standalone_mode=False)
    lines = plain(terminal)

    assert max(map(len, lines)) <= 80
    assert lines[1].strip() == "xdp_filter" and lines[2].startswith("  Cost, 1 flow")
    assert "last change" in lines[0]


def test_help_of_compare_fits_the_terminal() -> None:
    """No line of its examples is broken within a word at 80 columns."""
    shown = CliRunner().invoke(compare.command, ["--help"], terminal_width=80).output
    assert max(map(len, shown.splitlines())) <= 80
    assert "at a commit, with the headers and benchmark of then" in shown
