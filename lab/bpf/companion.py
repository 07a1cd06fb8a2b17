"""The Python module that stands beside a program's C file and knows how to fill its maps."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from lab.errors import LabError, LoadError
from lab.project import shipped_bpf, trusted


def companion(stem: str) -> ModuleType:
    """The module bpf/<stem>.py of the project at or above the working directory, or else of those that ship.

    It is loaded by its path, once a process, so that bpf/ need not be a package.

    >>> companion("xdp_balance").wheel([2, 1])
    [0, 1, 0]
    """
    return load_module(_found(stem))


def load_module(path: Path) -> ModuleType:
    """The module of a file, whichever folder it is in; loaded once a process. LoadError when it cannot be run."""
    path = path.resolve()
    name = f"lab_companion_{path.stem}_{abs(hash(path)):x}"
    if name not in sys.modules:
        _load(name, path)
    return sys.modules[name]


def _found(stem: str) -> Path:
    here = Path.cwd()
    folders = [*(folder / "bpf" for folder in (here, *here.parents)), shipped_bpf()]
    for folder in folders:
        if (folder / f"{stem}.py").is_file():
            return trusted((folder / f"{stem}.py").resolve())
    raise LoadError(
        f"companion {stem}: no bpf/{stem}.py in {here} or above, nor among the shipped programs",
        mend="write it beside the .bpf.c file",
    )


def _load(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"companion {path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, LabError | KeyboardInterrupt):
            raise
        raise LoadError(f"run {path}: {_in_words(error, path)}") from error


def _in_words(error: BaseException, path: Path) -> str:
    """ "line 3: NameError: name 'lab' is not defined": the last line of the file itself that ran."""
    steps = traceback.walk_tb(error.__traceback__)
    lines = [number for frame, number in steps if frame.f_code.co_filename == str(path)]
    if isinstance(error, SyntaxError):
        lines, error = [error.lineno or 0], SyntaxError(error.msg)
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
