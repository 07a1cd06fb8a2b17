"""A program as a person names it: its source, and its companion, which says how to attach and how to show it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lab.bpf.companion import load_module
from lab.bpf.find import find
from lab.bpf.loader import Loader
from lab.errors import LoadError
from lab.host import companion_options as options_of
from lab.host.knobs import knob_values
from lab.project import trusted

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.bpf.program import Program
    from lab.host.place import Place

Options = Mapping[str, Any]
CALLED = ("load", "attach", "view", "watch", "snapshot", "summary")
"""What a companion may define; docs/design.md says what each is for."""


@dataclass(frozen=True)
class Subject:
    """A program that can be loaded, not loaded yet. `source` is None where the companion alone makes it (BCC)."""

    stem: str
    source: Path | None
    companion_path: Path | None

    @cached_property
    def companion(self) -> ModuleType | None:
        """The module beside the source; imported when first asked for."""
        return load_module(self.companion_path) if self.companion_path else None

    def function(self, name: str) -> Callable[..., Any] | None:
        """One of CALLED, if the companion has it."""
        found = getattr(self.companion, name, None)
        return found if callable(found) else None

    def call(self, name: str, *arguments: Any, options: Options, **more: Any) -> Any:
        """Calls what the companion defines, with those of the options that it takes."""
        function = self.function(name)
        assert function is not None
        return function(*arguments, **options_of.chosen(function, options), **more)

    def load(self, bpf: Loader, knobs: Mapping[str, str], options: Options) -> Program:
        """By the companion's `load`, or by its source; `knobs` are texts."""
        values = knob_values(self.stem, self.source, knobs)
        function = self.function("load")
        if function is not None:
            if values and not options_of.takes_any(function):
                raise LoadError(
                    f"load {self.stem}: it has no knobs", mend=f"`lab {self.stem} --help` shows its options"
                )
            try:
                program: Program = self.call("load", bpf, options=options, **values)
            except ValueError as error:  # a rule or an address that is none
                raise LoadError(f"load {self.stem}: {error}") from error
            return program
        if self.source is None:
            raise LoadError(
                f"load {self.stem}: {self.companion_path} has no load(bpf, **knobs), and there is no .bpf.c"
            )
        return bpf.load(self.source, **values)

    def attach(
        self, program: Program, place: Place, options: Options, only: Sequence[str] = ()
    ) -> Iterable[Attachment]:
        """By the companion's `attach`, or each program where its section says; `only` names some of the object's."""
        if self.function("attach") and not only:
            return self.call("attach", program, place, options=options)  # type: ignore[no-any-return]
        entries = named_programs(program, only) if only else entry_programs(program)
        place.check(entries)
        return (attachment for each in entries for attachment in place.attach(each))


def entry_programs(program: Program) -> list[Program]:
    """The one that was chosen or is named as the file; where no function is, all of them."""
    every = program.programs
    if len(every) == 1:
        return list(every.values())
    return [every[program.stem]] if program.stem in every else list(every.values())


def named_programs(program: Program, names: Sequence[str]) -> list[Program]:
    """Those of the object's programs; LoadError, with the names that there are, for one that it does not have."""
    for name in names:
        if name not in program.programs:
            there = ", ".join(program.programs)
            raise LoadError(f"attach {program.stem}: there is no program {name!r}", mend=f"there are {there}")
    return [program.programs[name] for name in names]


def find_subject(named: str | os.PathLike[str]) -> Subject:
    """The program of a stem or a path; LoadError, with stems that look alike, when there is none."""
    text = os.fspath(named)
    alone = _companion_alone(text)
    if alone is not None:
        return Subject(text, None, alone)
    source = find(text)
    stem = source.name.partition(".")[0]
    beside = source.with_name(f"{stem}.py")
    return Subject(stem, source, trusted(beside) if beside.is_file() else None)


def _companion_alone(stem: str) -> Path | None:
    """bpf/<stem>.py, where it is a program by itself: it says HOOKS and has no .bpf.c beside it."""
    from lab.program_list import program_folders, read_companion

    if os.sep in stem or "." in stem:
        return None
    for folder in program_folders(Path.cwd()):
        path = folder / f"{stem}.py"
        if any((folder / f"{stem}{ending}").is_file() for ending in (".bpf.c", ".bpf.o")):
            return None
        if path.is_file() and "HOOKS" in read_companion(path).names:
            return trusted(path)
    return None


@contextmanager
def attached(
    named: str | os.PathLike[str],
    place: Place,
    *,
    knobs: Mapping[str, str] | None = None,
    options: Options | None = None,
    only: Sequence[str] = (),
    told: Callable[[Attachment], None] = lambda attachment: None,
) -> Iterator[Program]:
    """Loads a program and attaches it to the place; all is taken back at the end of the block, the newest first.

    `only` names programs of the object, where not all are meant. `told` hears of each attachment as it is made.
    """
    subject = find_subject(named)
    with Loader() as bpf, ExitStack() as undo:
        program = subject.load(bpf, knobs or {}, options or {})
        for attachment in subject.attach(program, place, options or {}, only):
            undo.callback(attachment.detach)
            told(attachment)
        yield program
