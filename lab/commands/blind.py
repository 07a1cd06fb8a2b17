"""`lab blind`: does each scenario notice when its program does nothing?"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import click

from lab.errors import LabError, NeedsRoot
from lab.kernel import capabilities
from lab.project import find_project, trusted


@click.command("blind")
@click.argument("paths", nargs=-1)
def command(paths: tuple[str, ...]) -> NoReturn:
    """Run each scenario with its program replaced by one that passes everything, and by one that drops everything.

    PATHS are files, folders or node ids, the project's scenarios/ by default. Those that stay green are listed: they
    would not notice if the program were broken. One that cannot notice says why with @pytest.mark.blind("reason").
    The last line is one JSON object with the counts. Exit status 1 when a scenario without a reason stays green; what
    is above is pytest's: nothing was judged.
    """
    if lacking := capabilities.lacking():
        raise NeedsRoot(f"blind: it needs root, or {', '.join(lacking)}", mend="sudo lab blind")
    options = ["-p", "no:randomly", "-p", "no:cacheprovider", "-qq", "--no-lab-run", "--lab-blind"]
    if find_spec("xdist"):
        options += ["-n", "0"]  # whatever the project's own settings say: its workers have loops of their own
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *options, *(paths or (_scenarios(),))])


def _scenarios() -> str:
    folder = find_project(Path.cwd()) / "scenarios"
    if not folder.is_dir():
        raise LabError(f"blind: there is no {folder}", mend="lab blind PATH …")
    return str(trusted(folder))
