"""From an object file to a loaded program: what is decided before the load, and what is read after it."""

from __future__ import annotations

import difflib
import errno
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.bpf import blind, sections, verifier
from lab.bpf.build import build
from lab.bpf.globals import Globals, Place
from lab.bpf.layout_of import layout_of
from lab.bpf.map import Map
from lab.bpf.map_kinds import open_map
from lab.bpf.names import program_type
from lab.bpf.object_file import MapTypes, ObjectFile
from lab.bpf.program import Facts, Loaded, Maps, Program
from lab.errors import FeatureMissing, LoadError, MapError, NeedsRoot
from lab.kernel import bpf, capabilities, libbpf, netns
from lab.kernel.libbpf_object import BpfObject, ObjectProgram, Refused, log_room, log_text, survives_opening
from lab.model.journal import note, step

STATISTICS = 4
"""Log level of the verifier: the figures in its last lines, and the sentence of a rejection."""
WHOLE_LOG = 1 | STATISTICS
LOG_BYTES = {STATISTICS: 1 << 16, WHOLE_LOG: 1 << 25}
ADVICE = re.compile(r"BEGIN PROG LOAD LOG|ulimit -l")
SUMMARY = re.compile(r"^failed to load object|: failed to load: -\d+$")
"""What libbpf says after it has said why."""
KNOBS, VARIABLES = ".rodata", (".data", ".bss")
OWN_PROGRAMS = Path(__file__).parents[1] / "instruments"
"""The lab's instruments are no subject of a report."""


@dataclass(frozen=True)
class Wishes:
    """What the caller of `load` asks for."""

    program: str | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)
    max_entries: Mapping[str, int] = field(default_factory=dict)
    share: Mapping[str, Map] = field(default_factory=dict)
    cflags: Sequence[str] = ()


def load_file(path: Path, wishes: Wishes) -> Program:
    """Builds a source, loads the object and gives its entry program.

    BuildError, LoadError or VerifierError when that fails; nothing stays open then.
    """
    file = _checked(ObjectFile(path)) if path.name.endswith(".o") else ObjectFile(build(path, flags=wishes.cflags))
    try:
        program = _Loading(file, path, wishes, STATISTICS).run()
    except _Rejected:
        program = _Loading(file, path, wishes, WHOLE_LOG).run()
    if path.resolve().parent != OWN_PROGRAMS:
        step("load", program=program, source=path, wishes=wishes)
        for each in program.programs.values():
            note("program", {**each.facts.as_dict(), "stem": program.stem})
    return program


def _checked(file: ObjectFile) -> ObjectFile:
    """An object that somebody else built may be damaged so that libbpf falls over it."""
    if not survives_opening(file.raw, file.path.name.partition(".")[0]):
        raise LoadError(f"open {file.path}: libbpf crashes on it", mend="it is damaged: compile it again")
    return file


class _Rejected(Exception):
    """The kernel refused a program while only statistics were logged: the load is done again for the whole log."""


class _Loading:
    """One attempt to load one object."""

    def __init__(self, file: ObjectFile, path: Path, wishes: Wishes, log_level: int) -> None:
        self.file, self.path, self.wishes, self.log_level = file, path, wishes, log_level
        self.stem = path.name.partition(".")[0]
        try:
            self.object = BpfObject(file.raw, self.stem)
        except Refused as error:
            said = _told(error.said) or libbpf.sentence(error.errno or 0)
            raise LoadError(f"open {file.path}", kernel=said, mend="is it a BPF object, built with -g?") from error
        self.logs: dict[str, Any] = {}

    def run(self) -> Program:
        """The loaded entry program; on any failure the object is closed again."""
        try:
            chosen = self._choose()
            self._check_names()
            self._set_knobs()
            self._set_maps()
            load_ms = self._load(chosen)
            return self._assemble(chosen, load_ms)
        except BaseException:
            self.object.close()
            raise

    def again(self, program: str) -> Program:
        """One of the programs, loaded once more with the maps of this load, data sections included."""
        other = _Loading(self.file, self.path, Wishes(program), STATISTICS)
        for there, mine in zip(other.object.maps, self.object.maps, strict=True):
            there.reuse(mine.fd)  # one that was not created here is not needed there either
        return other.run()

    # Before the load.

    def _choose(self) -> dict[str, ObjectProgram]:
        """The programs that are to be loaded: the one that was asked for, or all."""
        every, wanted = self.object.programs, self.wishes.program
        if not every:
            raise LoadError(f"load {self.stem}: the object has no programs", mend='SEC("xdp") before a function')
        if wanted is not None and wanted not in every:
            raise LoadError(f"load {self.stem}: there is no program {wanted!r}", mend=f"there are {', '.join(every)}")
        chosen = {name: each for name, each in every.items() if wanted in (None, name)}
        for name, each in every.items():
            each.set_autoload(name in chosen)
        for name, each in chosen.items():
            self._set_kind(each)
            self.logs[name] = log_room(LOG_BYTES[self.log_level])
            each.log_into(self.logs[name], self.log_level)
        return chosen

    def _set_kind(self, program: ObjectProgram) -> None:
        known = sections.meaning(program.section, unknown_to_libbpf=not program.type)
        if known:
            program.set_kind(*known)
        elif not program.type:
            what = f"load {self.stem}: the section {program.section!r} of {program.name} names no hook that is known"
            raise LoadError(what, mend='for example SEC("xdp"), SEC("tc"), SEC("cgroup/connect4")')

    def _check_names(self) -> None:
        """A wish for a map that the object does not have is a mistake, not a detail."""
        there = [each.name for each in self.object.maps if not each.section]
        for name in (*self.wishes.max_entries, *self.wishes.share):
            if name not in there:
                close = difflib.get_close_matches(name, there) or there
                raise LoadError(f"load {self.stem}: there is no map {name!r}", mend=f"there are {', '.join(close)}")

    def _set_knobs(self) -> None:
        """`const volatile` globals live in .rodata, which the load freezes."""
        variables = self._variables((KNOBS,)) if self.wishes.knobs else {}
        for name, value in self.wishes.knobs.items():
            if name not in variables:
                close = difflib.get_close_matches(name, variables) or list(variables)
                raise LoadError(
                    f"load {self.stem}: there is no knob {name!r}",
                    mend=f"there are {', '.join(close)}" if close else "a knob is a `const volatile` global",
                )
            section, place = variables[name]
            try:
                raw = place.layout.encode(value)
            except MapError as error:
                raise LoadError(f"load {self.stem}: knob {name}={value!r}: {error.what}", mend=error.mend) from None
            if not section.write_initial(place.offset, raw):
                raise LoadError(f"load {self.stem}: knob {name} lies outside of its section", mend="compile it again")

    def _set_maps(self) -> None:
        for each in self.object.maps:
            each.forbid_pinning()
            wanted = self.wishes.max_entries.get(each.name)
            if wanted is not None and not (0 < wanted < 1 << 32 and each.set_max_entries(wanted)):
                raise LoadError(f"load {self.stem}: {wanted} entries for map {each.name}", mend="1 to 4,294,967,295")
            shared = self.wishes.share.get(each.name)
            if shared is not None and not (self._fits(each.name, shared) and each.reuse(shared.fd)):
                raise LoadError(
                    f"load {self.stem}: {shared!r} cannot be shared as {each.name}",
                    mend="its type and the sizes of its key and value must be those of the declaration",
                )

    def _fits(self, name: str, shared: Map) -> bool:
        """libbpf would take any map."""
        declared, facts = self._declared(name), shared.facts
        there = (facts.type, facts.key_bytes, facts.value_bytes)
        return shared.fd >= 0 and there == (declared.type, declared.key_bytes, declared.value_bytes)

    # The load.

    def _load(self, chosen: Mapping[str, ObjectProgram]) -> float:
        """How long it took, in ms."""
        netns.allow_descriptors(len(chosen) + len(self.object.maps) + 8)
        start = time.perf_counter()
        try:
            self.object.load()
        except Refused as error:
            raise self._refusal(chosen, error) from error
        return (time.perf_counter() - start) * 1000

    def _refusal(self, chosen: Mapping[str, ObjectProgram], error: Refused) -> Exception:
        number, told = error.errno or 0, _told(error.said)
        if number == errno.EPERM and capabilities.lacking():
            return NeedsRoot(
                f"load {self.stem}: loading BPF programs needs root", mend="sudo, or CAP_BPF with CAP_NET_ADMIN"
            )
        if number == errno.ENOSYS:
            mend = "a kernel with CONFIG_BPF_SYSCALL=y"
            return FeatureMissing(f"load {self.stem}: this kernel has no BPF", kernel=told, mend=mend)
        refused = next((name for name in chosen if any(f"prog '{name}'" in line for line in error.said)), "")
        if refused and self.log_level == STATISTICS:
            return _Rejected()
        log = log_text(self.logs[refused]).strip() if refused else ""
        if log:
            return verifier.rejection(refused, log, words=told)
        return self._refused_without_log(chosen, refused, number, told)

    def _refused_without_log(
        self, chosen: Mapping[str, ObjectProgram], refused: str, number: int, told: str
    ) -> LoadError:
        """Of a program that is not for this kernel at all, or of a map."""
        mend = "`lab doctor` says what this kernel lacks"
        if refused and number == errno.EPERM and program_type(chosen[refused].type) in ("tracing", "lsm", "ext"):
            mend = "this kernel refuses fentry, fexit, fmod_ret and lsm even to root: tp_btf, raw_tp or a tracepoint"
        if len(chosen) > 1 and refused:
            mend += f'; the others load without it: load("{self.stem}", program="...")'
        place = f"program {refused} ({program_type(chosen[refused].type)})" if refused else "its maps"
        kernel = f"{libbpf.sentence(number)}; {told}" if told else libbpf.sentence(number)
        return LoadError(f"load {self.stem}: the kernel refused {place}", kernel=kernel, mend=mend)

    # After it.

    def _assemble(self, chosen: Mapping[str, ObjectProgram], load_ms: float) -> Program:
        maps = Maps(self._maps())
        places = {name: place for name, (_, place) in self._variables((*VARIABLES, KNOBS)).items()}
        kept = Globals(places)
        loaded = Loaded(str(self.file.path), self.stem, maps, kept, self.object.close, self.again, self._code)
        for name, each in chosen.items():
            facts = self._facts(each, load_ms, tuple(maps))
            loaded.programs[name] = Program(loaded, each.fd, facts, each.expected_attach_type)
            if blind.is_on() and self.path.resolve().parent != OWN_PROGRAMS:
                blind.replace(loaded.programs[name])
        if len(chosen) == 1:
            return next(iter(loaded.programs.values()))
        return loaded.programs.get(self.stem) or Program(loaded, -1, None)

    def _code(self, program: str) -> bytes:
        return self.object.programs[program].code

    def _facts(self, program: ObjectProgram, load_ms: float, maps: tuple[str, ...]) -> Facts:
        info = bpf.object_info(program.fd)
        jited, xlated = struct.unpack_from("=II", info, 16)
        logged = verifier.facts(log_text(self.logs[program.name]))
        verified = struct.unpack_from("=I", info, 216)[0] if len(info) >= 220 else 0
        return Facts(
            name=program.name,
            section=program.section,
            type=program_type(program.type),
            instructions=program.instructions,
            verified_instructions=verified or logged.get("verified_instructions", 0),
            xlated_bytes=xlated,
            jited_bytes=jited,
            stack_bytes=logged.get("stack_bytes", 0),
            load_ms=round(load_ms, 2),
            maps=maps,
        )

    def _maps(self) -> Iterator[tuple[str, Map]]:
        for each in self.object.maps:
            if not each.section and each.fd >= 0:
                yield (
                    each.name,
                    open_map(each.fd, each.name, self.file.btf, self._declared(each.name), self.object.btf_fd),
                )

    def _declared(self, name: str) -> MapTypes:
        return self.file.maps.get(name, MapTypes())

    def _variables(self, wanted: tuple[str, ...]) -> dict[str, tuple[Any, Place]]:
        """Name to (section's map, place) of the variables in sections of these names; ".data.hot" is one of .data."""
        types = self.file.btf
        found: dict[str, tuple[Any, Place]] = {}
        for each in self.object.maps if types is not None else ():
            kind = next((name for name in wanted if each.section == name or each.section.startswith(f"{name}.")), "")
            if kind and types is not None:
                for variable in self.file.variables(each.section).values():
                    if variable.name.endswith("___fmt"):  # of bpf_printk
                        continue
                    layout = layout_of(types, variable.type_id)
                    found[variable.name] = each, Place(each.fd, variable.offset, layout, constant=kind == KNOBS)
        return found


def _told(said: list[str]) -> str:
    """What libbpf said, without its advice and without the dump of a program's log."""
    lines = [each.splitlines()[0] for each in said if each and not ADVICE.search(each)]
    telling = [line for line in lines if not SUMMARY.search(line)]
    return "; ".join((telling or lines)[-4:])
