"""Where failures are kept: reports/runs/failures/<id>/, whole or absent, and the newest only."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import StoreError
from lab.project import trusted
from lab.replay.script import Script

NAME, FRAMES = "failure.json", "frames.pcapng"
KEPT = 40
SCHEMA = 2
ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}")
OBJECT = re.compile(r"[0-9]+/[^/]+")
"""Relative to the folder."""


@dataclass(frozen=True)
class Failure:
    """One failure as it is stored: whose it is, what was found, the script, and its folder."""

    id: str
    nodeid: str
    headline: str
    script: Mapping[str, Any]
    maps: Mapping[str, Any]
    """ "0/flows": map flows of the first program that was loaded, to the lines that it held."""
    folder: Path

    def object_file(self, number: int, *, now: bool) -> Path:
        """The object of that number in the script; `now`: its source as it is today.

        LabError where somebody else may have put it there: it is about to be loaded.
        """
        return trusted(Path(self.script["sources"][number]) if now else self.folder / self.script["objects"][number])


def keep(failures: Path, name: str, about: Mapping[str, Any], script: Script, pcapng: bytes) -> Path:
    """Writes the folder of a failure, flushed and renamed into its place, and forgets those beyond the newest 40.

    StoreError when it cannot be written.
    """
    hidden, target = failures / f".{name}.{os.getpid()}.tmp", failures / name
    _sweep(failures)
    try:
        hidden.mkdir(parents=True)
        for place, each in zip(script.names, script.objects, strict=True):
            (hidden / place).parent.mkdir()
            _write(hidden / place, each.read_bytes())
        if pcapng:
            _write(hidden / FRAMES, pcapng)
        text = json.dumps({"schema": SCHEMA, **about, "script": script.as_dict()}, separators=(",", ":"), default=str)
        _write(hidden / NAME, text.encode())
        hidden.rename(target)
    except OSError as error:
        shutil.rmtree(hidden, ignore_errors=True)
        why = error.strerror or str(error)
        raise StoreError(f"keep the failure in {target}", kernel=why, mend="free some space, or --lab-runs") from error
    for old in sorted(_stored(failures))[:-KEPT]:
        shutil.rmtree(failures / old, ignore_errors=True)
    return target


def read_failure(failures: Path, name: str) -> Failure:
    """A failure by its id, or the beginning of it, or "last"; StoreError where there is none or several."""
    there = sorted(_stored(failures))
    fitting = there[-1:] if name == "last" else [each for each in there if name and each.startswith(name)]
    if len(fitting) != 1:
        what = (
            f"replay {name!r}: there are {len(fitting)} such failures in {failures}"
            if fitting
            else f"replay {name!r}: {failures} has no such failure"
        )
        mend = f"there are {', '.join((fitting or there)[-8:])}" if there else "a scenario that fails leaves one"
        raise StoreError(what, mend=mend)
    folder = failures / fitting[0]
    try:
        trusted(folder / NAME)
        data = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']} is not {SCHEMA}")
        _check(data)
        return Failure(fitting[0], data["nodeid"], data["headline"], data["script"], data["maps"], folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"read {folder / NAME}: no stored failure ({error})", mend="delete the folder") from error


def _check(data: Mapping[str, Any]) -> None:
    """Of the shape that a replay goes through; what a step says is looked at when it is done."""
    script = data["script"]
    lists = (script["objects"], script["sources"], script["steps"], script["remarks"], *data["maps"].values())
    if not all(isinstance(each, list) for each in lists) or not all(isinstance(each, dict) for each in script["steps"]):
        raise TypeError("not of its shape")
    if not all(OBJECT.fullmatch(each) for each in script["objects"]):
        raise ValueError("an object that is not in its folder")


def _stored(failures: Path) -> list[str]:
    try:
        return [each.name for each in failures.iterdir() if ID.fullmatch(each.name) and each.is_dir()]
    except OSError:
        return []


def _sweep(failures: Path) -> None:
    """What a process that was killed has left half-written."""
    for each in failures.glob(".*.tmp"):
        pid = each.name.split(".")[-2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(each, ignore_errors=True)


def _write(path: Path, raw: bytes) -> None:
    with path.open("xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
