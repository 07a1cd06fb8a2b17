"""A loaded program at a hook: `attach` finds the hook by the program's type, `Attachment` ends it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, Self

from lab.errors import AttachError
from lab.model import aftermath
from lab.model.action import Direction, Mode
from lab.model.journal import note, step

HOOKS = {
    "xdp": "xdp",
    "sched_cls": "tc",
    "cgroup_skb": "cgroup",
    "cgroup_sock": "cgroup",
    "cgroup_sock_addr": "cgroup",
    "cgroup_sockopt": "cgroup",
    "cgroup_sysctl": "cgroup",
    "cgroup_device": "cgroup",
    "sock_ops": "cgroup",
    "sk_lookup": "netns",
    "flow_dissector": "netns",
    "netfilter": "netfilter",
    "sk_reuseport": "socket",
    "socket_filter": "socket",
    "sk_msg": "sockmap",
    "sk_skb": "sockmap",
    "tracing": "tracing",
    "lsm": "tracing",
    "raw_tracepoint": "tracing",
    "raw_tracepoint_writable": "tracing",
    "tracepoint": "probe",
    "kprobe": "probe",
    "perf_event": "probe",
}
"""Which file of lab/bpf/attach knows the hook of a program type."""


class Attachable(Protocol):
    """What `attach` needs to know of a loaded program: lab.bpf.program.Program, and those made by BCC."""

    @property
    def name(self) -> str:
        """The function's name."""

    @property
    def section(self) -> str:
        """The ELF section: "xdp", "tc/ingress", "tracepoint/sock/inet_sock_set_state"."""

    @property
    def type(self) -> str:
        """bpftool's name of its type."""

    @property
    def expected_attach_type(self) -> int:
        """enum bpf_attach_type, 0 where the type of program has none."""

    @property
    def fd(self) -> int:
        """Its descriptor."""


@dataclass
class Attachment:
    """A program at a hook. It ends with `detach()`, with its `with` block, or with the process: nothing is pinned."""

    program: str
    target: str
    how: str
    """In a few words: "native XDP", "tcx ingress", "cgroup connect4"."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was read back from the kernel (`program_id`, ...), and what was done beside (`receivers`)."""
    undo: ExitStack = field(default_factory=ExitStack, repr=False)
    replace: Callable[[int], None] | None = field(default=None, repr=False)

    def detach(self) -> None:
        """Detaches; a second call does nothing."""
        self.replace = None
        step("detach", attachment=self)
        self.undo.close()

    def update(self, program: Attachable) -> None:
        """Puts another program in its place: each frame meets either the old one or the new (BPF_LINK_UPDATE)."""
        what = f"replace {self.program} by {program.name} at {self.target or self.how}"
        if self.replace is None:
            raise AttachError(
                f"{what}: {self.how} cannot replace a program, or it was detached",
                mend="detach, and attach the other one",
            )
        try:
            self.replace(program.fd)
        except OSError as error:
            raise AttachError(
                what, kernel=error.strerror or "", mend="both must be of one type and one expected attach type"
            ) from error
        self.program = program.name
        self._note()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not aftermath.leave(self, self.detach, error):
            self.detach()

    def _note(self) -> None:
        note("attachment", {"program": self.program, "target": self.target, "how": self.how, "facts": dict(self.facts)})


def attach(
    program: Attachable,
    target: Any = None,
    *,
    mode: Mode | None = None,
    direction: Direction | None = None,
    **options: Any,
) -> Attachment:
    """Attaches a program where its type and section say.

    `target` is an interface (XDP with `mode`, tc with `direction`), a namespace (sk_lookup, flow_dissector, netfilter),
    a cgroup (cgroup hooks, sock_ops), a socket (sk_reuseport, socket filters), a map (sk_msg, sk_skb), or nothing
    (tracing). AttachError otherwise, before the first system call where the target or an option does not fit.
    """
    hook = HOOKS.get(program.type)
    if hook is None:
        raise AttachError(
            f"attach {program.name}: programs of type {program.type} cannot be attached by the lab",
            mend=f"it attaches {', '.join(HOOKS)}",
        )
    module = import_module(f"lab.bpf.attach.{hook}")
    given = {"mode": mode, "direction": direction, **options}
    chosen = {name: value for name, value in given.items() if value is not None}
    _check_options(program, chosen, module.OPTIONS)
    made: Attachment = module.attach(program, target, **chosen)
    made._note()
    step("attach", program=program, target=target, options=chosen, attachment=made)
    return made


def _check_options(program: Attachable, chosen: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(set(chosen) - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known)
        raise AttachError(
            f"attach {program.name}: {', '.join(unknown)} means nothing to programs of type {program.type}",
            mend=f"{close[0]}?" if close else f"they take {', '.join(sorted(known)) or 'no options'}",
        )
