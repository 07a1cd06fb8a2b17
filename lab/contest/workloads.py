"""What a program is compared on: the workloads of its benchmark, or a plain frame.

A benchmark (benchmarks/bench_<stem>.py) offers each function named `workload_...`: given a loader, it loads the
program, fills its maps and returns a `Workload`. The first line of its docstring says which case it is.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from types import ModuleType
from typing import Any

from lab.bench.workload import Contender, Workload
from lab.bpf.find import find
from lab.bpf.loader import Loader
from lab.bpf.map import Map
from lab.bpf.program import Program
from lab.contest.named import Named
from lab.errors import LabError, LoadError, NotComparable
from lab.host.knobs import knob_values

PREFIX = "workload_"
Make = Callable[[Loader], Workload]


class TreeLoader(Loader):
    """Loads what a benchmark asks for from another tree, and sets the contender's knobs on its program."""

    def __init__(self, who: Named, inner: Loader) -> None:
        super().__init__(near=who.root / "benchmarks")
        self._who = who
        self._inner = inner
        self._knobs = knob_values(who.stem, who.source, who.knobs)

    def load(
        self,
        source: str | os.PathLike[str],
        /,
        *,
        program: str | None = None,
        max_entries: Mapping[str, int] | None = None,
        share: Mapping[str, Map] | None = None,
        cflags: Sequence[str] = (),
        **knobs: Any,
    ) -> Program:
        """As `Loader.load`, from the contender's tree; the inner loader closes it."""
        path = find(source, self._near)
        if path.name.partition(".")[0] == self._who.stem:
            path, knobs = self._who.source, {**knobs, **self._knobs}
        return self._inner.load(path, program=program, max_entries=max_entries, share=share, cflags=cflags, **knobs)


def workloads(who: Named) -> dict[str, Make]:
    """The workloads of the contender's benchmark by what they say they are; none where it has no benchmark."""
    module = benchmark_module(who)
    if module is None:
        return {}
    found = {name: each for name, each in vars(module).items() if name.startswith(PREFIX) and callable(each)}
    return {_title(name, each): _inside(who, each) for name, each in found.items()}


def benchmark_module(who: Named) -> ModuleType | None:
    """The contender's benchmark, imported once; None where it has none that offers workloads."""
    path = _benchmark(who)
    if path is None:
        return None
    with chdir(who.root):  # a benchmark asks for companions from where it stands
        return _module(path, who.root)


def plain(who: Named, frame: bytes, program: str | None) -> Make:
    """The program with empty maps, and one frame. Made, NotComparable where it is not said which of several it is."""
    values = knob_values(who.stem, who.source, who.knobs)

    def make(loader: Loader) -> Workload:
        loaded = loader.load(who.source, program=program, **values)
        try:
            loaded.fd  # noqa: B018 - an object with several programs has none by itself
        except LoadError as error:
            raise NotComparable(
                f"compare {who.text}: no benchmark has a workload of it, and it has {len(loaded.programs)} programs",
                mend=f"--program {next(iter(loaded.programs))}, or {PREFIX}…(bpf) in benchmarks/bench_{who.stem}.py",
            ) from error
        return Workload(loaded, frame)

    return make


def contender(who: Named, make: Make) -> Contender:
    """Ready to be compared."""
    return Contender(who.text, make)


def _benchmark(who: Named) -> Path | None:
    """That of its own tree; where that one offers no workloads yet, today's, run on its program."""
    name = Path("benchmarks") / f"bench_{who.stem}.py"
    for path in (who.root / name, Path.cwd() / name):
        if path.is_file() and f"def {PREFIX}" in path.read_text(encoding="utf-8"):
            return path
    return None


def _module(path: Path, root: Path) -> ModuleType:
    name = f"lab_workloads_{abs(hash((path, root))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LabError(f"read the workloads of {path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise LabError(f"read the workloads of {path}: {type(error).__name__}: {error}") from error
    return module


def _title(name: str, function: Callable[..., Any]) -> str:
    document = inspect.getdoc(function) or name.removeprefix(PREFIX).replace("_", " ")
    return document.splitlines()[0].rstrip(".")


def _inside(who: Named, function: Callable[[Any], Workload]) -> Make:
    def make(loader: Loader) -> Workload:
        with chdir(who.root):
            try:
                return function(TreeLoader(who, loader))
            except (LabError, OSError):
                raise
            except Exception as error:  # a benchmark of another commit, written for another version of the lab
                raise LabError(f"set up {who.text} by {function.__name__}: {type(error).__name__}: {error}") from error

    return make
