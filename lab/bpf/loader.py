"""Finds, builds and loads programs; what it loaded, it closes."""

from __future__ import annotations

import ctypes
import difflib
import errno
import os
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.bpf import sections, verifier
from lab.bpf.build import build
from lab.bpf.layout import Layout, layout_of
from lab.bpf.map import Map
from lab.bpf.map_kinds import open_map
from lab.bpf.names import program_type
from lab.bpf.object_file import MapTypes, ObjectFile
from lab.bpf.program import Facts, Globals, Loaded, Program
from lab.errors import BuildError, FeatureMissing, LoadError, MapError, NeedsRoot
from lab.kernel import bpf, libbpf
from lab.model.journal import note
from lab.project import shipped_bpf

ENDINGS = (".bpf.c", ".bpf.o", ".c", ".o")
STATISTICS = 4
"""Log level of the verifier: the figures in its last lines and nothing else."""
WHOLE_LOG = 1 | STATISTICS
LOG_BYTES = {STATISTICS: 1 << 16, WHOLE_LOG: 1 << 24}


class Loader:
    """Loads programs, and closes all of them in reverse when it ends; the fixture `bpf` is one.

    `near` is where the search for a stem begins: `bpf/<stem>.bpf.c`, `<stem>.bpf.c` and the same with .bpf.o, there and
    in the folders above; then from the working directory; then among the programs that come with the lab.
    """

    def __init__(self, near: Path | None = None) -> None:
        self._near = near
        self._stack = ExitStack()

    def load(
        self,
        source: str | os.PathLike[str],
        /,
        *,
        program: str | None = None,
        max_entries: Mapping[str, int] | None = None,
        **knobs: Any,
    ) -> Program:
        """Loads a program by its stem, or a .bpf.c or .bpf.o by its path.

        `knobs` set its `const volatile` globals, `max_entries` the sizes of its maps by name. Of an object with several
        programs `program` chooses one, and the others are not loaded; without it all are. BuildError, LoadError or
        VerifierError when it cannot be.
        """
        path = find(source, self._near)
        loaded = load_object(path, program, knobs, max_entries or {})
        self._stack.callback(loaded.close)
        return loaded

    def close(self) -> None:
        """Closes everything, the newest first."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ---------------------------------------------------------------- finding


def find(source: str | os.PathLike[str], near: Path | None = None) -> Path:
    """The file that a stem or a path means; BuildError, with stems that look alike, when there is none."""
    text = os.fspath(source)
    if text.endswith(ENDINGS) or os.sep in text:
        path = Path(text)
        if not path.exists() and near is not None and (near / path).exists():
            path = near / path
        if not path.is_file():
            raise BuildError(f"load {text}: no such file", mend="a path is taken from the working directory")
        return path
    folders = list(_folders(near))
    for folder in folders:
        for ending in (".bpf.c", ".bpf.o"):
            if (folder / f"{text}{ending}").is_file():
                return folder / f"{text}{ending}"
    there = sorted({each.name.partition(".")[0] for folder in folders for each in folder.glob("*.bpf.[co]")})
    close = difflib.get_close_matches(text, there) or there
    raise BuildError(
        f"load {text}: there is no bpf/{text}.bpf.c here or above, nor among the lab's own programs",
        mend=f"there are {', '.join(close[:12])}" if close else "give a path to a .bpf.c or .bpf.o",
    )


def _folders(near: Path | None) -> Iterator[Path]:
    seen: set[Path] = set()
    for start in (near, Path.cwd()):
        for folder in (start, *start.parents) if start is not None else ():
            for place in (folder / "bpf", folder):
                if place not in seen:
                    seen.add(place)
                    yield place
    yield shipped_bpf()


# ---------------------------------------------------------------- loading


def load_object(path: Path, wanted: str | None, knobs: Mapping[str, Any], sizes: Mapping[str, int]) -> Program:
    """Builds where needed, loads, and gives the entry program."""
    file = ObjectFile(path if path.name.endswith(".o") else build(path))
    stem = path.name.partition(".")[0]
    try:
        loading = _Loading(file, stem, wanted, knobs, sizes, STATISTICS)
        return loading.run()
    except _Rejected:
        return _Loading(file, stem, wanted, knobs, sizes, WHOLE_LOG).run()


class _Rejected(Exception):
    """The kernel refused a program while only statistics were logged."""


class _Loading:
    """One attempt to load one object."""

    def __init__(
        self,
        file: ObjectFile,
        stem: str,
        wanted: str | None,
        knobs: Mapping[str, Any],
        sizes: Mapping[str, int],
        log_level: int,
    ) -> None:
        self.file, self.stem, self.wanted, self.log_level = file, stem, wanted, log_level
        self.knobs, self.sizes = knobs, sizes
        self.library = libbpf.library()
        self.said = libbpf.listen()
        self.handle = self._open()
        self.logs: dict[str, ctypes.Array[ctypes.c_char]] = {}

    def run(self) -> Program:
        """The loaded entry program; on any failure the object is closed again."""
        try:
            chosen = self._choose()
            self._set_knobs()
            self._set_sizes()
            load_ms = self._load(chosen)
            return self._assemble(chosen, load_ms)
        except BaseException:
            self.library.bpf_object__close(self.handle)
            raise

    def _open(self) -> int:
        options = libbpf.ObjectOpenOptions(sz=ctypes.sizeof(libbpf.ObjectOpenOptions))
        options.object_name = self.stem.encode()
        handle = self.library.bpf_object__open_mem(self.file.raw, len(self.file.raw), ctypes.byref(options))
        if not handle:
            raise LoadError(f"open {self.file.path}", kernel=self._words(), mend="is it a BPF object, built with -g?")
        return int(handle)

    # Before the load.

    def _choose(self) -> dict[str, int]:
        """The handles of the programs that are to be loaded, by name."""
        every = {self._text("bpf_program__name", each): each for each in self._each("program")}
        if not every:
            raise LoadError(f"load {self.stem}: the object has no programs", mend='SEC("xdp") before a function')
        if self.wanted is not None and self.wanted not in every:
            raise LoadError(f"load {self.stem}: no program {self.wanted!r}", mend=f"there are {', '.join(every)}")
        chosen = {name: each for name, each in every.items() if self.wanted in (None, name)}
        for name, each in every.items():
            self.library.bpf_program__set_autoload(each, name in chosen)
        for name, each in chosen.items():
            self._prepare(name, each)
        return chosen

    def _prepare(self, name: str, handle: int) -> None:
        known = sections.meaning(self._text("bpf_program__section_name", handle))
        if known:
            self.library.bpf_program__set_type(handle, known[0])
            self.library.bpf_program__set_expected_attach_type(handle, known[1])
        elif not self.library.bpf_program__type(handle):
            section = self._text("bpf_program__section_name", handle)
            raise LoadError(
                f"load {name}: section {section!r} names no hook that is known", mend='e.g. SEC("xdp"), SEC("tc")'
            )
        self.logs[name] = ctypes.create_string_buffer(LOG_BYTES[self.log_level])
        self.library.bpf_program__set_log_buf(handle, self.logs[name], len(self.logs[name]))
        self.library.bpf_program__set_log_level(handle, self.log_level)

    def _set_knobs(self) -> None:
        """`const volatile` globals live in .rodata, which is frozen by the load."""
        if not self.knobs:
            return
        types = self.file.btf
        variables = self.file.variables(".rodata")
        for name, value in self.knobs.items():
            if types is None or name not in variables:
                close = difflib.get_close_matches(name, variables) or list(variables)
                raise LoadError(
                    f"load {self.stem}: it has no knob {name!r}",
                    mend=f"its knobs are {', '.join(close)}" if close else "a knob is a `const volatile` global",
                )
            variable = variables[name]
            try:
                raw = layout_of(types, variable.type_id).encode(value)
            except MapError as error:
                raise LoadError(f"load {self.stem}: knob {name}={value!r}: {error.what}", mend=error.mend) from None
            address, size = self._read_only_data()
            if variable.offset + len(raw) > size:
                raise LoadError(f"load {self.stem}: knob {name} lies outside of .rodata", mend="compile it again")
            ctypes.memmove(address + variable.offset, raw, len(raw))

    def _set_sizes(self) -> None:
        maps = {self._text("bpf_map__name", each): each for each in self._each("map")}
        for name, size in self.sizes.items():
            if name not in maps:
                raise LoadError(f"load {self.stem}: it has no map {name!r}", mend=f"its maps are {', '.join(maps)}")
            if size < 1 or self.library.bpf_map__set_max_entries(maps[name], size):
                raise LoadError(f"load {self.stem}: {size} entries for its map {name}", mend="1 to 2^32 - 1")

    def _read_only_data(self) -> tuple[int, int]:
        for each in self._each("map"):
            if self._text("bpf_map__name", each).endswith(".rodata"):
                size = ctypes.c_size_t()
                address = self.library.bpf_map__initial_value(each, ctypes.byref(size))
                if address:
                    return int(address), size.value
        raise LoadError(f"load {self.stem}: the object has no .rodata", mend="a knob is a `const volatile` global")

    # The load, and after it.

    def _load(self, chosen: Mapping[str, int]) -> float:
        start = time.perf_counter()
        result = self.library.bpf_object__load(self.handle)
        if result == 0:
            return (time.perf_counter() - start) * 1000
        number = libbpf.error_of(result)
        if number == errno.EPERM and os.geteuid():
            raise NeedsRoot(
                f"load {self.stem}: loading BPF programs needs root", mend="sudo, or CAP_BPF with CAP_NET_ADMIN"
            )
        if number == errno.ENOSYS:
            raise FeatureMissing(
                f"load {self.stem}: this kernel has no BPF",
                kernel=self._words(),
                mend="a kernel with CONFIG_BPF_SYSCALL=y",
            )
        refused = next((name for name in chosen if self._failed(name)), "")
        if refused and self.log_level == STATISTICS:
            raise _Rejected
        log = self.logs[refused].value.decode(errors="replace").strip() if refused else ""
        if log:
            raise verifier.rejection(refused, log, words=self._words())
        raise LoadError(
            f"load {self.stem}{f' ({refused})' if refused else ''}: the kernel refused it",
            kernel=f"{libbpf.sentence(number)}; {self._words()}",
            mend="`lab doctor` says what this kernel lacks",
        )

    def _failed(self, name: str) -> bool:
        """libbpf names the program in its words: "prog 'f': BPF program load failed"."""
        return any(f"prog '{name}'" in line and "failed" in line for line in self.said)

    def _assemble(self, chosen: Mapping[str, int], load_ms: float) -> Program:
        maps = dict(self._maps())
        loaded = Loaded(
            str(self.file.path),
            self.stem,
            maps,
            Globals(self._variables()),
            lambda: self.library.bpf_object__close(self.handle),
        )
        for name, each in chosen.items():
            facts = self._facts(name, each, load_ms, tuple(maps))
            attach_type = self.library.bpf_program__expected_attach_type(each)
            loaded.programs[name] = Program(loaded, self.library.bpf_program__fd(each), facts, attach_type)
            note("program", {**facts.as_dict(), "stem": self.stem})
        if len(chosen) == 1:
            return next(iter(loaded.programs.values()))
        return Program(loaded, -1, None)

    def _facts(self, name: str, handle: int, load_ms: float, maps: tuple[str, ...]) -> Facts:
        info = bpf.object_info(self.library.bpf_program__fd(handle))
        jited, xlated = struct.unpack_from("=II", info, 16)
        logged = verifier.facts(self.logs[name].value.decode(errors="replace"))
        verified = struct.unpack_from("=I", info, 216)[0] if len(info) >= 220 else 0
        return Facts(
            name=name,
            section=self._text("bpf_program__section_name", handle),
            type=program_type(self.library.bpf_program__type(handle)),
            instructions=self.library.bpf_program__insn_cnt(handle),
            verified_instructions=verified or logged.get("verified_instructions", 0),
            xlated_bytes=xlated,
            jited_bytes=jited,
            stack_bytes=logged.get("stack_bytes", 0),
            load_ms=round(load_ms, 2),
            maps=maps,
        )

    def _maps(self) -> Iterator[tuple[str, Map]]:
        for each in self._each("map"):
            name = self._text("bpf_map__name", each)
            if "." not in name:  # with one it is a data section
                declared = self.file.maps.get(name, MapTypes())
                yield name, open_map(self.library.bpf_map__fd(each), name, self.file.btf, declared)

    def _variables(self) -> dict[str, tuple[int, int, Layout]]:
        """The writable globals: name to (descriptor of the section's map, offset, layout)."""
        types = self.file.btf
        found: dict[str, tuple[int, int, Layout]] = {}
        for each in self._each("map") if types else ():
            name = self._text("bpf_map__name", each)
            for section in (".data", ".bss"):
                if types and name.endswith(section):
                    fd = self.library.bpf_map__fd(each)
                    for variable in self.file.variables(section).values():
                        found[variable.name] = (fd, variable.offset, layout_of(types, variable.type_id))
        return found

    # libbpf.

    def _each(self, what: str) -> Iterator[int]:
        following = getattr(self.library, f"bpf_object__next_{what}")
        handle = following(self.handle, None)
        while handle:
            yield handle
            handle = following(self.handle, handle)

    def _text(self, function: str, handle: int) -> str:
        text: bytes = getattr(self.library, function)(handle)
        return text.decode()

    def _words(self) -> str:
        """What libbpf said, without its advice and without the dump of a program's log."""
        lines = [each for each in self.said if "BEGIN PROG LOAD LOG" not in each and "ulimit -l" not in each]
        return "; ".join(line.splitlines()[0] for line in lines[-4:] if line)
