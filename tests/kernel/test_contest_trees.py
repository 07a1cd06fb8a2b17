"""`lab compare @A @B`: every program of two trees, with one table and one exit status, as CI calls it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab import cli

BUSY = (Path(__file__).parents[1] / "bpf" / "busy.bpf.c").read_text()
QUICK = ("--budget", "3s", "--resolution", "20%", "--frame", "udp4", "--fail-if-slower", "50%")
SOCKET = """\
// SPDX-License-Identifier: GPL-2.0-only
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("sockops")
int watcher(struct bpf_sock_ops *ops)
{
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
"""
SECOND = """
SEC("xdp")
int second(struct xdp_md *ctx)
{
	return XDP_PASS;
}
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A stranger's repository with a commit: two programs that share a header, and one of its own."""
    (tmp_path / "bpf" / "include").mkdir(parents=True)
    write(tmp_path, "include/pace.h", "#define PACE 60\n")
    for stem in ("left", "right"):
        write(tmp_path, f"{stem}.bpf.c", '#include "pace.h"\n' + busy(stem, "PACE"))
    write(tmp_path, "steady.bpf.c", busy("steady", "60"))
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


def busy(stem: str, rounds: str) -> str:
    return BUSY.replace("rounds;", f"rounds = {rounds};", 1).replace("int busy(", f"int {stem}(")


def write(project: Path, name: str, text: str) -> None:
    (project / "bpf" / name).write_text(text)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def commit(project: Path) -> None:
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a change")


def table(out: str) -> dict[str, str]:
    """The rows of the table at the end: what follows the program's name."""
    lines = out[out.index("program  ") :].splitlines()[1:]
    return {stem: rest for stem, _, rest in (line.partition("  ") for line in lines) if rest}


def test_a_program_made_slower_fails(project, monkeypatch, capsys) -> None:
    """Exit status 1; the table and GitHub's page say by how much, and the others are not looked at."""
    write(project, "steady.bpf.c", busy("steady", "600"))
    commit(project)
    page = project.parent / f"{project.name}-summary.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))

    assert cli.run(["compare", "@HEAD^", "@HEAD", *QUICK]) == 1
    said = capsys.readouterr().out
    rows = table(said)
    assert list(rows) == ["steady"] and rows["steady"].endswith("slower")
    assert "1 program differs between @HEAD^ and @HEAD; 1 is slower by more than 50 % for certain" in said
    written = page.read_text()
    assert written.startswith("before\n### lab compare: 1 program differs")
    assert "| steady | as loaded, 1 flow |" in written and "| **slower** |" in written
    (stored,) = (project / "reports" / "runs").glob("*.json")
    run = json.loads(stored.read_text())
    assert [(each["program"], each["notes"]["comparison"][0]["verdict"]) for each in run["results"]] == [
        ("steady", "slower")
    ]


def test_a_change_that_costs_nothing_passes(project, capsys) -> None:
    """A header's comment makes both programs that include it other ones; neither is slower, exit status 0."""
    write(project, "include/pace.h", "/* rounds */\n#define PACE 60\n")
    commit(project)

    assert cli.run(["compare", "@HEAD^", "@HEAD", "--no-store", *QUICK]) == 0
    rows = table(capsys.readouterr().out)
    assert list(rows) == ["left", "right"]
    assert not [row for row in rows.values() if row.endswith(("slower", "faster"))]


def test_the_working_tree_is_the_other_one(project, capsys) -> None:
    """Where only one commit is named: what is not committed yet counts, and --json says which file it was."""
    write(project, "include/pace.h", "#define PACE 900\n")
    status = cli.run(["compare", "@HEAD", "--json", "--no-store", *QUICK])
    found = json.loads(capsys.readouterr().out)
    assert status == 1
    assert [(each["program"], each["files"]) for each in found] == [
        ("left", ["bpf/include/pace.h"]),
        ("right", ["bpf/include/pace.h"]),
    ]
    assert {each["comparisons"][0]["verdict"] for each in found} == {"slower"}


def test_programs_without_a_counterpart_are_named(project, capsys) -> None:
    """New, gone, in BCC's C, on a hook without a driver, or several in one object: a row each, no reason to fail."""
    several = busy("first", "1") + SECOND
    write(project, "twins.bpf.c", several)
    for stem in ("watcher", "reader"):
        write(project, f"{stem}.b{'cc' if stem == 'reader' else 'pf'}.c", SOCKET)
    commit(project)
    write(project, "watcher.bpf.c", SOCKET.replace("return 1", "return 0"))
    write(project, "reader.bcc.c", SOCKET.replace("return 1", "return 0"))
    write(project, "fresh.bpf.c", busy("fresh", "1"))
    write(project, "twins.bpf.c", several + "/* changed */\n")
    git(project, "rm", "-q", "bpf/right.bpf.c")
    commit(project)

    assert cli.run(["compare", "@HEAD^", "@HEAD", *QUICK]) == 0
    rows = {stem: row.strip() for stem, row in table(capsys.readouterr().out).items()}
    assert rows == {
        "fresh": "new: there is nothing to compare it with",
        "reader": "not compared: a BCC program cannot be loaded a hundred times a second, as a comparison does",
        "right": "no longer there",
        "twins": "not compared: no benchmark has a workload of it, and it has 2 programs",
        "watcher": "not compared: there is no driver for section sockops",
    }
    assert not (project / "reports").exists()


def test_a_program_that_does_not_compile_is_an_error(project, capsys) -> None:
    """Exit status 2 with clang's words, after the others were compared."""
    write(project, "left.bpf.c", "int nonsense\n")
    write(project, "steady.bpf.c", busy("steady", "61"))
    commit(project)

    assert cli.run(["compare", "@HEAD^", "@HEAD", "--no-store", *QUICK]) == 2
    said = capsys.readouterr()
    assert "could not be compared: compile" in table(said.out)["left"]
    assert "steady" in table(said.out) and "1 could not be compared" in said.out
    assert "lab: left: compile" in said.err and "error: " in said.err


def test_all_means_programs_that_are_the_same_too(project, capsys) -> None:
    """Two equal trees: nothing to do, or with --all each program against its equal, and no difference."""
    assert cli.run(["compare", "@HEAD", "@HEAD", *QUICK]) == 0
    assert capsys.readouterr().out == "no program differs between @HEAD and @HEAD\n"

    assert cli.run(["compare", "@HEAD", "@HEAD", "--all", "--no-store", *QUICK]) == 0
    said = capsys.readouterr().out
    assert list(table(said)) == ["left", "right", "steady"]
    assert "no programs differ between @HEAD and @HEAD, 3 more were compared; none is slower" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["@HEAD", "left"], "one is a whole tree, the other is not"),
        (["@nosuch"], "git knows no such commit"),
        (["left"], "Missing argument 'B'"),
        (["@HEAD", "--workload", "x"], "--workload is of one program"),
        (["reader", "reader"], "compare reader: a BCC program cannot be loaded a hundred times a second"),
        (["reader@HEAD", "reader"], "`lab history` says where its figures changed"),
    ],
)
def test_what_cannot_be_is_one_sentence(project, arguments, said, capsys) -> None:
    """Exit status 2, and what to do instead."""
    write(project, "reader.bcc.c", SOCKET)
    commit(project)
    assert cli.run(["compare", *arguments]) == 2
    assert said in capsys.readouterr().err
