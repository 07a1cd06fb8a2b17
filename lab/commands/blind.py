"""`lab blind`: does each scenario notice when its program does nothing?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from lab.errors import NeedsRoot
from lab.kernel import capabilities
from lab.project import find_project


@click.command("blind")
@click.argument("paths", nargs=-1)
def command(paths: tuple[str, ...]) -> int:
    """Run each scenario with its program replaced by one that passes everything, and by one that drops everything.

    PATHS are files, folders or node ids, the project's scenarios/ by default. Those that stay green are listed: they
    would not notice if the program were broken. One that cannot notice says why with @pytest.mark.blind("reason").
    The last line is one JSON object with the counts. Exit status 1 when a scenario without a reason stays green.
    """
    if lacking := capabilities.lacking():
        raise NeedsRoot(f"blind: it needs root, or {', '.join(lacking)}", mend="sudo lab blind")
    project = find_project(Path.cwd())
    options = ["-p", "no:randomly", "-p", "no:cacheprovider", "-qq", "--no-lab-run", "--lab-blind"]
    places = paths or (str(project / "scenarios"),)
    return subprocess.run([sys.executable, "-m", "pytest", *options, *places]).returncode
