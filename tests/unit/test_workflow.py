"""What CI does is what anybody can do: each step a target of the Makefile, with no rights that it does not need."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOW: dict[Any, Any] = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
TARGETS = re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
COMMAND = re.compile(r"make ([a-z-]+)((?: [A-Z]+=\S+| [A-Z]+='[^']*')*)")
jobs = pytest.mark.parametrize("job", list(WORKFLOW["jobs"].values()), ids=list(WORKFLOW["jobs"]))


@jobs
def test_a_step_is_one_target(job: dict[str, Any]) -> None:
    """Nothing but `make TARGET`, with variables that the Makefile knows."""
    makefile = (REPOSITORY / "Makefile").read_text()
    commands = [COMMAND.fullmatch(step["run"]) for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        assert command and command[1] in TARGETS
        assert all(f"$({name}" in makefile for name in re.findall(r" ([A-Z]+)=", command[2]))


@jobs
def test_a_job_ends(job: dict[str, Any]) -> None:
    """Each has a limit of its own: GitHub's is six hours."""
    assert 0 < job["timeout-minutes"] <= 60


def test_it_may_only_read() -> None:
    """The token of a run can read the repository, and nothing else; no job asks for more."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not [job for job in WORKFLOW["jobs"].values() if "permissions" in job]


def test_a_pull_request_is_compared_with_what_it_is_merged_into() -> None:
    """The merge commit and its first parent are there."""
    checkout, *_ = WORKFLOW["jobs"]["compare"]["steps"]
    assert checkout["with"]["fetch-depth"] == 2
    assert "make compare BASE=HEAD^" in [step.get("run") for step in WORKFLOW["jobs"]["compare"]["steps"]]
