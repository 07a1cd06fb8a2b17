"""The Python module that stands beside a program's C file and knows how to fill its maps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from lab.errors import LoadError
from lab.project import shipped_bpf, trusted


def companion(stem: str) -> ModuleType:
    """The module bpf/<stem>.py of the project at or above the working directory, or else of those that ship.

    It is loaded by its path, once a process, so that bpf/ need not be a package.

    >>> companion("xdp_balance").wheel([2, 1])
    [0, 1, 0]
    """
    return load_module(_found(stem))


def load_module(path: Path) -> ModuleType:
    """The module of a file, whichever folder it is in; loaded once a process."""
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
    except BaseException:
        del sys.modules[name]
        raise
