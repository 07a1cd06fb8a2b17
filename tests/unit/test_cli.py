"""The command `lab` answers quickly, in sentences, with an exit status that scripts can use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.cli import COMMANDS, run

LAB = (sys.executable, "-m", "lab.cli")

DROP_DNS = """\
// SPDX-License-Identifier: GPL-2.0-only
/* drop_dns: drops what goes to port 53. Everything else
 * passes.
 */
char license[] SEC("license") = "GPL";
struct { } ports SEC(".maps");
SEC("xdp")
int drop(struct xdp_md *ctx)
SEC("tc/ingress")
int also(struct __sk_buff *skb)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "drop_dns.bpf.c").write_text(DROP_DNS)
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    return tmp_path


def test_help_names_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    """`lab --help` costs what click costs: no command, no rich, no pytest, no netlink is imported for it."""
    script = "import sys; from lab.cli import run; run(['--help']); print(*sys.modules, sep='\\n')"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    modules = set(printed.splitlines())
    assert not modules & {"rich", "pytest", "pyroute2", "scapy", "jinja2", *(f"lab.commands.{c}" for c in COMMANDS)}
    assert all(f"  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of the help page exists and has a help page of its own."""
    assert run([name, "--help"]) == 0
    assert f"Usage: lab {name}" in capsys.readouterr().out


def test_unknown_command_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A word that is no command is named, with status 2."""
    assert run(["lsit"]) == 2
    assert "lsit" in capsys.readouterr().err


def test_list_finds_the_programs_of_the_project_around(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From any folder below: stem, the hooks of its programs only, the first sentence without the stem."""
    assert run(["list", "--json"]) == 0

    found = {program["stem"]: program for program in json.loads(capsys.readouterr().out)}
    assert found["drop_dns"]["sections"] == ["xdp", "tc/ingress"]
    assert found["drop_dns"]["summary"] == "drops what goes to port 53"
    assert found["drop_dns"]["path"] == str(project / "bpf" / "drop_dns.bpf.c")


def test_list_in_a_pipe_is_plain_columns(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in a terminal there is one line a program: no colour, no box, no wrapping."""
    assert run(["list"]) == 0

    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["program", "hook", "what", "it", "does"]
    [line] = [line for line in lines if line.startswith("drop_dns")]
    assert line.split("  ")[-1].strip() == "drops what goes to port 53"
    assert "\x1b" not in line


def test_list_groups_by_hook_and_keeps_examples_apart(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program of two hooks is among those of several; an example is under its own heading, the last."""
    (project / "examples").mkdir()
    (project / "examples" / "01_drop.bpf.c").write_text(DROP_DNS.replace("drop_dns", "01_drop"))
    run(["list", "--json"])

    groups = {program["stem"]: program["group"] for program in json.loads(capsys.readouterr().out)}
    assert (groups["drop_dns"], groups["xdp_filter"], groups["tc_redirect_port"]) == ("several hooks", "xdp", "tc")
    assert list(groups.items())[-1] == ("01_drop", "examples")


def test_help_lists_programs_with_a_view(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A companion's text says so; it is not imported, so this one's error is not met."""
    (project / "bpf" / "drop_dns.py").write_text("raise SystemExit\n\ndef view(program):\n    pass\n")

    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert "drops what goes to port 53" in said
    assert "attached and shown live" in said


def test_a_word_that_looks_like_a_program_is_met_with_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of commands and programs, the nearest."""
    assert run(["drop_dsn", "--once"]) == 2
    assert "Did you mean drop_dns?" in capsys.readouterr().err


def test_a_file_of_the_project_goes_before_a_shipped_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stem that the lab ships, too, is listed once: the project's."""
    (project / "bpf" / "xdp_filter.bpf.c").write_text(DROP_DNS)

    run(["list", "--json"])

    paths = [p["path"] for p in json.loads(capsys.readouterr().out) if p["stem"] == "xdp_filter"]
    assert paths == [str(project / "bpf" / "xdp_filter.bpf.c")]


def test_report_without_runs_says_how_to_get_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No stored run: one sentence with the mend, status 2, and no page."""
    assert run(["report"]) == 2

    said = capsys.readouterr().err
    assert "no stored run in ../reports/runs" in said
    assert "make bench" in said
    assert not (project / "reports" / "index.html").exists()


def test_interrupt_is_one_line_and_130(tmp_path: Path) -> None:
    """Ctrl-C in the midst of reading a run: status 130 and no traceback."""
    os.mkfifo(tmp_path / "slow.json")
    command = [*LAB, "report", "--runs", str(tmp_path), "--out", str(tmp_path / "page.html")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # open() returns when the command has opened the other end: it reads now.
    with process, (tmp_path / "slow.json").open("w"):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)

    assert (process.returncode, said) == (130, "\nlab: interrupted\n")


def test_a_reader_that_went_away_is_no_error(project: Path) -> None:
    """`lab list | head -0` ends with status 1 and nothing on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as gone:
        done = subprocess.run([*LAB, "list"], stdout=gone, stderr=subprocess.PIPE, text=True)

    assert (done.returncode, done.stderr) == (1, "")


def test_a_file_that_cannot_be_written_is_one_sentence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The system's words and the file's name, status 2."""
    runs = project / "reports" / "runs"
    runs.mkdir(parents=True)
    (runs / "broken.json").write_text("{")
    (project / "file").touch()

    assert run(["report", "--out", "../file/page.html"]) == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_knows_its_options(name: str) -> None:
    """`--help` has a sentence; an option that there is not is named, with status 2."""
    told = subprocess.run([sys.executable, "-m", "lab.cli", name, "--help"], capture_output=True, text=True)
    assert told.returncode == 0
    assert f"Usage: lab {name}" in told.stdout
    wrong = subprocess.run([sys.executable, "-m", "lab.cli", name, "--nonsense"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_a_locale_without_lines_is_no_error() -> None:
    """What it cannot show becomes a question mark."""
    script = "import sys; from lab import cli; cli.run = lambda _: print('\\u2500x'); cli.main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert subprocess.check_output([sys.executable, "-c", script], env=environment, text=True) == "?x\n"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_standard_descriptor_is_nobody_elses(tmp_path: Path, number: int) -> None:
    """What the lab opens next does not get its number, and there is no traceback."""
    script = "import os; from lab import cli; cli.run = lambda _: os.open('/', os.O_RDONLY); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=lambda: os.close(number), capture_output=True, text=True
    )
    assert done.returncode > 2
    assert "Traceback" not in done.stderr
