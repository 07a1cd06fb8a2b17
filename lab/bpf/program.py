"""A loaded program: its maps, its globals, its facts; run it on a frame, or attach it."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lab.bpf.context import LAYOUTS, decode_context, encode_context
from lab.bpf.layout import Layout
from lab.errors import LoadError, MapError
from lab.kernel import bpf, libbpf, netns
from lab.model.action import Action, Direction, Mode

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.model.target import InterfaceTarget

FAMILIES = {
    "xdp": "xdp",
    "sched_cls": "tc",
    "sched_act": "tc",
    "cgroup_skb": "sk",
    "sk_skb": "sk",
    "sk_msg": "sk",
    "sk_lookup": "sk",
    "sk_reuseport": "sk",
}
"""Whose verdict names the return codes of a program type are."""


@dataclass(frozen=True)
class Facts:
    """What the verifier and the JIT said; none of it carries noise, so it compares within one kernel."""

    name: str
    section: str
    type: str
    instructions: int
    verified_instructions: int
    xlated_bytes: int
    jited_bytes: int
    stack_bytes: int
    load_ms: float
    maps: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return {**asdict(self), "maps": list(self.maps)}


@dataclass(frozen=True)
class RunResult:
    """What a program did with a frame under BPF_PROG_RUN."""

    number: int
    """The return code, as the kernel gave it (signed for tc)."""
    frame: bytes
    """The frame as the program left it."""
    context: Mapping[str, Any] = field(default_factory=dict)
    duration_ns: int = 0
    """Mean of one round in whole ns, PROG_RUN's own 25 ns included."""
    family: str = ""

    @property
    def action(self) -> Action:
        """The verdict by its kernel name; LoadError for a code that this hook gives no meaning."""
        try:
            return Action.of(self.family, self.number)
        except ValueError:
            raise LoadError(
                f"name the verdict {self.number}: a hook of family {self.family or 'none'} gives it no meaning",
                mend="look at result.number",
            ) from None


class Globals:
    """The program's .data and .bss variables, shared with it in memory: reads and writes cost no system call."""

    def __init__(self, variables: Mapping[str, tuple[int, int, Layout]]) -> None:
        self._variables = variables  # name: (map descriptor, offset, layout)
        self._memory: dict[int, mmap.mmap] = {}

    def __getitem__(self, name: str) -> Any:
        memory, at, layout = self._find(name)
        return layout.decode(memory[at : at + layout.size])

    def __setitem__(self, name: str, value: Any) -> None:
        memory, at, layout = self._find(name)
        memory[at : at + layout.size] = layout.encode(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __contains__(self, name: object) -> bool:
        return name in self._variables

    def _find(self, name: str) -> tuple[mmap.mmap, int, Layout]:
        if name not in self._variables:
            raise MapError(f"there is no global {name!r}", mend=f"there are {', '.join(self._variables) or 'none'}")
        fd, at, layout = self._variables[name]
        if fd not in self._memory:
            _, _, _, value_bytes, _ = bpf.map_facts(fd)
            self._memory[fd] = mmap.mmap(fd, (value_bytes + mmap.PAGESIZE - 1) & ~(mmap.PAGESIZE - 1))
        return self._memory[fd], at, layout

    def close(self) -> None:
        """Unmaps the memory; the program calls it."""
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()


@dataclass
class Loaded:
    """What all programs of one object share, and how it is given back."""

    path: str
    stem: str
    maps: Mapping[str, Any]
    globals: Globals
    release: Callable[[], None]
    programs: dict[str, Program] = field(default_factory=dict)
    closed: bool = False

    def close(self) -> None:
        """Closes maps, programs and memory; once."""
        if not self.closed:
            self.closed = True
            self.globals.close()
            for each in self.maps.values():
                each.close()
            self.release()


class Program:
    """A loaded program. Of an object with several it is one that was chosen, or none yet.

    Use it as a context manager, or let the fixture `bpf` close it.
    """

    def __init__(self, loaded: Loaded, fd: int, facts: Facts | None, expected_attach_type: int = 0) -> None:
        self._loaded = loaded
        self._fd = fd
        self._facts = facts
        self.expected_attach_type = expected_attach_type

    @property
    def maps(self) -> Mapping[str, Any]:
        """The object's maps by name, typed by BTF."""
        return self._loaded.maps

    @property
    def globals(self) -> Globals:
        """The object's writable globals: `program.globals["sent"]`."""
        return self._loaded.globals

    @property
    def programs(self) -> Mapping[str, Program]:
        """All programs of the object, by function name."""
        return self._loaded.programs

    @property
    def stem(self) -> str:
        """The source's name without its ending: "xdp_filter"."""
        return self._loaded.stem

    @property
    def facts(self) -> Facts:
        """The verifier's figures; LoadError while no program of several is chosen."""
        if self._facts is None:
            names = ", ".join(self.programs)
            raise LoadError(
                f"use {self.stem}: the object has {len(self.programs)} programs: {names}",
                mend=f'bpf.load("{self.stem}", program="{next(iter(self.programs))}"), or .programs["..."]',
            )
        return self._facts

    @property
    def fd(self) -> int:
        """Its descriptor."""
        _ = self.facts
        if self._loaded.closed:
            raise LoadError(f"use {self.stem}: it is closed", mend="load it again, or use it before the block ends")
        return self._fd

    @property
    def name(self) -> str:
        """The function's name."""
        return self.facts.name

    @property
    def section(self) -> str:
        """The ELF section: "xdp", "tc", "cgroup/connect4"."""
        return self.facts.section

    @property
    def type(self) -> str:
        """bpftool's name of its type: "xdp", "sched_cls", ..."""
        return self.facts.type

    def run(
        self,
        frame: Any,
        *,
        repeat: int = 1,
        context: Mapping[str, Any] | None = None,
        ingress: InterfaceTarget | None = None,
    ) -> RunResult:
        """BPF_PROG_RUN: the verdict, and the frame as the program left it.

        `frame` is bytes or a scapy packet. With `repeat` each round sees the original frame: the kernel does not reset
        it, so a program that changes it is run by as many calls, 3 µs each. `ingress` makes the frame come from an
        interface. LoadError, in the kernel's words, for types of programs that cannot be run so.
        """
        raw = bytes(frame)
        given = dict(context or {})
        if ingress is not None:
            given["ingress_ifindex"] = ingress.ifindex
        with netns.inside(ingress.netns_fd) if ingress is not None else nullcontext():
            first = self._run_raw(raw, 1, given)
            if repeat == 1:
                return self._result(first, first.duration_ns)
            return self._result(first, self._mean_of_rounds(raw, repeat, given, first))

    def run_many(self, frames: Iterable[Any]) -> list[RunResult]:
        """One run for each frame, 4 µs a call."""
        fd, family = self.fd, FAMILIES.get(self.type, "")
        signed = family == "tc"
        found = []
        for frame in frames:
            given = self._attempt(lambda raw=bytes(frame): bpf.prog_test_run(fd, raw))
            found.append(
                RunResult(_signed(given.retval) if signed else given.retval, given.data, {}, given.duration_ns, family)
            )
        return found

    def attach(
        self, target: Any = None, *, mode: Mode | None = None, direction: Direction | None = None, **options: Any
    ) -> Attachment:
        """Attaches it where its section says: to an interface, a namespace, a cgroup, a socket, or to nothing.

        The Attachment is a context manager; AttachError, in the kernel's words, when the kernel refuses.
        """
        from lab.bpf.attachment import attach

        return attach(self, target, mode=mode, direction=direction, **options)

    def close(self) -> None:
        """Closes the whole object, its other programs and maps too; attachments live on their own."""
        self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        about = f"{self._facts.name} {self._facts.type}" if self._facts else f"of {len(self.programs)} programs"
        return f"<Program {self.stem}: {about}>"

    def _run_raw(self, raw: bytes, repeat: int, given: Mapping[str, Any]) -> bpf.TestRun:
        context = encode_context(self.type, given, len(raw)) if given or self.type == "xdp" else b""
        room = LAYOUTS[self.type][0] if self.type in LAYOUTS else 0
        fd = self.fd
        return self._attempt(lambda: bpf.prog_test_run(fd, raw, repeat=repeat, context=context, context_bytes=room))

    def _attempt(self, run: Callable[[], bpf.TestRun]) -> bpf.TestRun:
        try:
            return run()
        except OSError as error:
            mends = {
                errno.EINVAL: "a frame is at least 14 bytes (Ethernet header); a context must fit the type",
                524: f"the kernel cannot run programs of type {self.type} so: attach it",
                errno.EOPNOTSUPP: f"the kernel cannot run programs of type {self.type} so: attach it",
            }
            raise LoadError(
                f"run {self.name} (BPF_PROG_RUN)",
                kernel=libbpf.sentence(error.errno or 0),
                mend=mends.get(error.errno or 0, ""),
            ) from error

    def _mean_of_rounds(self, raw: bytes, repeat: int, given: Mapping[str, Any], first: bpf.TestRun) -> int:
        if first.data == raw:
            together = self._run_raw(raw, repeat, given)
            if together.data == raw:
                return together.duration_ns
        spent = first.duration_ns + sum(self._run_raw(raw, 1, given).duration_ns for _ in range(repeat - 1))
        return round(spent / repeat)

    def _result(self, given: bpf.TestRun, duration_ns: int) -> RunResult:
        family = FAMILIES.get(self.type, "")
        number = _signed(given.retval) if family == "tc" else given.retval
        return RunResult(number, given.data, decode_context(self.type, given.context), duration_ns, family)


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number
