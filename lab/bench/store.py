"""Runs as JSON files: whole or absent, never half."""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.errors import StoreError
from lab.kernel import whole_file
from lab.model.run import Run


def new_id(started: datetime) -> str:
    """A name that sorts by time and that two runs started at once do not share."""
    return f"{started:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def write_run(run: Run, folder: Path) -> Path:
    """Writes reports/runs/<id>.json, flushed to disk; StoreError when the folder cannot be written.

    Whenever the process dies, the run is there whole or not at all, and nothing else of it.
    """
    target = folder / f"{run.id}.json"
    try:
        write_whole(target, run.as_dict())
    except OSError as error:
        raise StoreError(
            f"store the run in {target}: it could not be written",
            kernel=error.strerror or str(error),
            mend="free some space, or name another folder with --lab-runs",
        ) from error
    return target


def write_whole(target: Path, data: Any) -> None:
    """Writes JSON so that whoever reads `target` sees the old content or the new, whole; OSError when it cannot be."""
    whole_file.write(target, json.dumps(data, separators=(",", ":")).encode())


def read_run(path: Path) -> Run:
    """The run in a file; StoreError names the file when it is not one."""
    try:
        return Run.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"read {path}: not a stored run ({error})", mend="delete the file") from error
