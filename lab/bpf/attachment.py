"""A loaded program at a hook: `attach` finds the hook by the program's type, `Attachment` ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lab.errors import AttachError
from lab.model.action import Direction, Mode
from lab.model.journal import note

if TYPE_CHECKING:
    from lab.bpf.program import Program

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
    "sk_reuseport": "socket",
    "socket_filter": "socket",
    "sk_msg": "sockmap",
    "sk_skb": "sockmap",
    "tracing": "tracing",
    "lsm": "tracing",
    "raw_tracepoint": "tracing",
    "raw_tracepoint_writable": "tracing",
    "tracepoint": "perf_event",
    "kprobe": "perf_event",
}
"""Which file of lab/bpf/attach knows the hook of a program type."""


@dataclass
class Attachment:
    """A program at a hook. It ends with `detach()`, with its `with` block, or with the process: nothing is pinned."""

    program: str
    target: str
    how: str
    """In a few words: "native XDP", "tcx ingress", "cgroup_inet4_connect"."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was read back from the kernel, and what was done beside ("receiver")."""
    undo: ExitStack = field(default_factory=ExitStack)
    replace: Callable[[int], None] | None = None

    def detach(self) -> None:
        """Detaches; a second call does nothing."""
        self.undo.close()
        self.replace = None

    def update(self, program: Program) -> None:
        """Puts another program in its place: each frame meets either the old one or the new (BPF_LINK_UPDATE)."""
        if self.replace is None:
            raise AttachError(
                f"replace {self.program} at {self.target}: {self.how} cannot replace a program, or it was detached",
                mend="detach, and attach the other one",
            )
        try:
            self.replace(program.fd)
        except OSError as error:
            raise AttachError(
                f"replace {self.program} by {program.name} at {self.target}",
                kernel=error.strerror or "",
                mend="both must be of one type and one expected attach type",
            ) from error
        self.program = program.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach(
    program: Program,
    target: Any = None,
    *,
    mode: Mode | None = None,
    direction: Direction | None = None,
    **options: Any,
) -> Attachment:
    """Attaches a program where its type and section say.

    `target` is an interface (XDP with `mode`, tc with `direction`), a namespace (sk_lookup, flow_dissector), a cgroup,
    a socket (sk_reuseport, socket filters), a map (sk_msg, sk_skb), or nothing (tracing). AttachError otherwise.
    """
    hook = HOOKS.get(program.type)
    if hook is None:
        raise AttachError(
            f"attach {program.name}: programs of type {program.type} cannot be attached by the lab",
            mend=f"it attaches {', '.join(HOOKS)}",
        )
    given = {"mode": mode, "direction": direction, **options}
    chosen = {name: value for name, value in given.items() if value is not None}
    module = import_module(f"lab.bpf.attach.{hook}")
    unknown = set(chosen) - module.OPTIONS
    if unknown:
        raise AttachError(
            f"attach {program.name}: {', '.join(sorted(unknown))} means nothing to programs of type {program.type}",
            mend=f"they take {', '.join(sorted(module.OPTIONS)) or 'no options'}",
        )
    made: Attachment = module.attach(program, target, **chosen)
    note("attachment", {"program": made.program, "target": made.target, "how": made.how})
    return made
