"""A loaded program: its maps, its globals, its facts; run it on a frame, or attach it."""

from __future__ import annotations

import difflib
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from lab.bpf import run as runs
from lab.bpf.globals import Globals
from lab.bpf.run import RunResult as RunResult
from lab.errors import LoadError, MapError
from lab.kernel import bpf
from lab.model.action import Direction, Mode

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.model.target import NamespaceTarget

MISSES_IN_PROGRAM = 208
"""Offset of recursion_misses in struct bpf_prog_info."""


@dataclass(frozen=True)
class Facts:
    """What the verifier and the JIT said; none of it carries noise, so it compares within one kernel."""

    name: str
    section: str
    type: str
    instructions: int
    """As compiled."""
    verified_instructions: int
    """That the verifier walked, all paths together."""
    xlated_bytes: int
    jited_bytes: int
    """0 where the JIT is off."""
    stack_bytes: int
    """Of the program and its functions, added up."""
    load_ms: float
    """Of the whole object, in the kernel and in libbpf."""
    maps: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return {**asdict(self), "maps": list(self.maps)}


class Maps(dict[str, Any]):
    """The maps of an object by name; one that is not there is a MapError that lists those that are."""

    def __missing__(self, name: str) -> Any:
        close = difflib.get_close_matches(name, self) or list(self)
        raise MapError(f"there is no map {name!r}", mend=f"there are {', '.join(close) or 'none'}")


@dataclass
class Loaded:
    """What all programs of one object share, and how it is given back."""

    path: str
    stem: str
    maps: Maps
    globals: Globals
    release: Callable[[], None]
    again: Callable[[str], Program] | None = None
    """Loads the program of that name once more; None for those that BCC loaded."""
    code: Callable[[str], bytes] | None = None
    """The instructions of the program of that name; None for those that BCC loaded."""
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
    """A loaded program. Of an object with several it is the one that was chosen, or named as its file, or none yet.

    Use it as a context manager, or let the fixture `bpf` close it.
    """

    def __init__(self, loaded: Loaded, fd: int, facts: Facts | None, expected_attach_type: int = 0) -> None:
        self._loaded = loaded
        self._fd = fd
        self._facts = facts
        self.expected_attach_type = expected_attach_type

    @property
    def maps(self) -> Maps:
        """The object's maps by name, typed by BTF."""
        return self._loaded.maps

    @property
    def globals(self) -> Globals:
        """The object's globals: `program.globals["sent"]`."""
        return self._loaded.globals

    @property
    def programs(self) -> Mapping[str, Program]:
        """All programs of the object that were loaded, by function name."""
        return self._loaded.programs

    @property
    def stem(self) -> str:
        """The source's name without its ending: "xdp_filter"."""
        return self._loaded.stem

    @property
    def path(self) -> str:
        """The object file that it was loaded from."""
        return self._loaded.path

    @property
    def facts(self) -> Facts:
        """The verifier's figures; LoadError while no program of several is chosen."""
        if self._facts is None:
            names = list(self.programs)
            raise LoadError(
                f"use {self.stem}: the object has {len(names)} programs: {', '.join(names)}",
                mend=f'bpf.load("{self.stem}", program="{names[0]}"), or .programs["{names[0]}"]',
            )
        return self._facts

    @property
    def fd(self) -> int:
        """Its descriptor; LoadError when it is closed."""
        name = self.facts.name
        if self._loaded.closed:
            raise LoadError(f"use {name}: it is closed", mend="load it again, or use it before the block ends")
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
        self, frame: Any = None, *, repeat: int = 1, context: Any = None, ingress: NamespaceTarget | None = None
    ) -> RunResult:
        """BPF_PROG_RUN: the verdict, and the frame as the program left it.

        `frame` is bytes or a scapy packet; types that work on none (sk_lookup, raw tracepoints) take None.
        `repeat` runs it so often, each time on the frame as given (the kernel would hand every round what the one
        before left), and gives the last result with the mean time; a round takes 4 µs, so `bench.cost` is what
        measures. `context` is a dict of the context's fields; of a raw tracepoint, its arguments.
        `ingress` is an interface that the frame is said to come from, or a namespace that the run happens in.
        RunError, in the kernel's words, when that cannot be.
        """
        return runs.run(self, frame, repeat=repeat, context=context, ingress=ingress)

    def run_many(self, frames: Iterable[Any]) -> list[RunResult]:
        """One run for each frame, in order; results have no context."""
        return runs.run_many(self, frames)

    def attach(
        self, target: Any = None, *, mode: Mode | None = None, direction: Direction | None = None, **options: Any
    ) -> Attachment:
        """Attaches it where its section says: to an interface, a namespace, a cgroup, a socket, or to nothing.

        The Attachment is a context manager; AttachError, in the kernel's words, when the kernel refuses.
        """
        from lab.bpf.attachment import attach

        return attach(self, target, mode=mode, direction=direction, **options)

    @property
    def misses(self) -> int:
        """How often the kernel did not run it, because it was running on that CPU already (a tracer that an interrupt
        met in the middle); 0 on kernels before 5.12, which do not count."""
        info = bpf.object_info(self.fd)
        return int(struct.unpack_from("=Q", info, MISSES_IN_PROGRAM)[0]) if len(info) >= MISSES_IN_PROGRAM + 8 else 0

    @property
    def can_load_again(self) -> bool:
        """False for a program that BCC loaded."""
        return self._loaded.again is not None

    def again(self) -> Program:
        """The same program loaded once more, with the same maps and globals: its code lies elsewhere in memory.

        Where code lies decides a nanosecond or two: a measurement takes several loads. Close it before this one.
        LoadError for a program that BCC loaded.
        """
        if self._loaded.again is None:
            raise LoadError(f"load {self.name} again: BCC keeps no object of it", mend="bpf.load a .bpf.c instead")
        return self._loaded.again(self.name)

    @property
    def code(self) -> bytes:
        """Its instructions as the kernel was given them: relocated, with the object's descriptors of its maps.

        LoadError for a program that BCC loaded.
        """
        if self._loaded.code is None or self.fd < 0:
            raise LoadError(f"read the code of {self.name}: BCC keeps none of it", mend="bpf.load a .bpf.c instead")
        return self._loaded.code(self.name)

    def close(self) -> None:
        """Closes the whole object, its other programs and maps too; attachments live on their own."""
        self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        about = f"{self._facts.name} {self._facts.type}" if self._facts else f"of {len(self.programs)} programs"
        return f"<Program {self.stem}: {about}{', closed' if self._loaded.closed else ''}>"
