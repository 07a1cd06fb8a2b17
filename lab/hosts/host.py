"""Hosts asked before anything is run there: each is reached, may do what the lab needs, and has the same commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.bench.environment import read_environment
from lab.errors import LabError
from lab.hosts.worker import command
from lab.model.run import Environment
from lab.project import find_project

ANSWER_WITHIN_S = 60.0


@dataclass(frozen=True)
class Host:
    """A machine that answered."""

    name: str
    """As ssh takes it: "root@alpha"."""
    kernel: str
    cpus: int

    def spec(self, workers: int) -> str:
        """For --tx of pytest-xdist."""
        return f"{workers}*popen//python={sys.executable} -m lab.hosts.worker {self.name}"


def ask(names: Sequence[str]) -> list[Host]:
    """All at once; LabError for the first, in their order, that cannot take part, with how to mend it."""
    project = find_project(Path.cwd())
    here = read_environment(project)
    with ThreadPoolExecutor(max_workers=len(names)) as asking:
        answers = list(asking.map(_answer, names))
    for name, answer in zip(names, answers, strict=True):
        check(name, answer, here)
    return [Host(name, answer["kernel"], answer["cpus"]) for name, answer in zip(names, answers, strict=True)]


def check(name: str, answer: Mapping[str, Any], here: Environment) -> None:
    """LabError unless the host that said this of itself (lab.hosts.about) can take part."""
    project = find_project(Path.cwd())
    if lacking := answer["lacking"]:
        raise LabError(f"host {name}: it lacks {', '.join(lacking)}", mend="log in there as root")
    if answer["commit"] != here.commit:
        there = answer["commit"][:12] or "no commit"
        raise LabError(
            f"host {name}: {project} is at {there}, here at {here.commit[:12] or 'no commit'}",
            mend=f"ssh {name} git -C {project} checkout {here.commit[:12]}",
        )
    if answer["dirty"] and not here.dirty:
        raise LabError(f"host {name}: {project} has changes of its own", mend=f"ssh {name} git -C {project} status")


def silent(name: str, status: int, said: str) -> LabError:
    """The error for a host that ended without an answer; `said` is what came on its standard error."""
    return LabError(_reason(name, status), kernel=said.strip(), mend=_mend(name, status))


def _answer(name: str) -> dict[str, Any]:
    if name.startswith("-"):
        raise LabError(f"host {name}: a host's name begins with no dash")
    argv = command(name, ["-m", "lab.hosts.about"])
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_WITHIN_S)
    except FileNotFoundError as error:
        raise LabError(f"host {name}: {argv[0]} is not installed", mend="apt-get install openssh-client") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"host {name}: no answer within {ANSWER_WITHIN_S:g} s") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise silent(name, done.returncode, done.stderr) from None
    return answer


def _reason(name: str, status: int) -> str:
    if status == 255:  # ssh(1): an error of its own
        return f"host {name}: ssh cannot reach it"
    return f"host {name}: {Path.cwd()} with {sys.executable} does not run there"


def _mend(name: str, status: int) -> str:
    if status == 255:
        return f"ssh {name} true, until it asks nothing; LAB_SSH names another command than ssh"
    return f"a checkout at {find_project(Path.cwd())} there too, and make setup in it" + (
        "" if os.geteuid() == 0 else "; log in as root"
    )
