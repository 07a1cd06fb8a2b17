"""Where on this machine a program goes: interfaces, a namespace, a cgroup, sockets; nothing of it is the lab's own."""

from __future__ import annotations

import difflib
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import AttachError, LabError, NeedsRoot
from lab.model.action import Direction, Mode

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachment
    from lab.bpf.program import Program

NAMED_NAMESPACES = Path("/run/netns")
NETFILTER_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")


@dataclass(frozen=True)
class HostNamespace:
    """A network namespace; a lab.model.target.NamespaceTarget."""

    name: str
    netns_fd: int


@dataclass(frozen=True)
class HostInterface:
    """An interface by its name in the place's namespace; a lab.model.target.InterfaceTarget."""

    name: str
    ifindex: int
    netns_fd: int


@dataclass(frozen=True)
class HostCgroup:
    """A cgroup v2 folder; a lab.model.target.CgroupTarget."""

    name: str
    cgroup_fd: int


@dataclass(frozen=True)
class Place:
    """What was named on the command line, open."""

    netns: HostNamespace
    cgroup: HostCgroup | None
    interfaces: tuple[HostInterface, ...] = ()
    sockets: tuple[socket.socket, ...] = ()
    mode: Mode | None = None
    direction: Direction | None = None
    hook: str = ""
    """Of netfilter."""

    def attach(self, program: Program) -> list[Attachment]:
        """The program, wherever its type hooks: on every interface, on the cgroup, on every socket, or just once.

        At netfilter it is twice: for IPv4 and for IPv6.

        All of them or none. `mode` None tries native XDP first and falls back to generic where the interface has none;
        the facts then say why (`fallback`).
        """
        made: list[Attachment] = []
        with ExitStack() as undo:
            for target in self.targets(program):
                for options in self._ways(program):
                    made.append(self._attach_to(program, target, options))
                    undo.callback(made[-1].detach)
            undo.pop_all()
        return made

    def targets(self, program: Program) -> Sequence[Any]:
        """What the program's hook needs; LabError, with what to say on the command line, where that was not named."""
        from lab.bpf.attachment import HOOKS

        hook = HOOKS.get(program.type, "")
        if hook in ("xdp", "tc"):
            return self.interfaces or _missing(program, "which interface?", f"--interface, of {_listed()}")
        if hook == "socket":
            return self.sockets or _missing(program, "which socket?", "--socket tcp/8080: one that waits on that port")
        if hook == "cgroup":
            return [self.cgroup] if self.cgroup else _missing(program, "there is no cgroup2 here", "--cgroup PATH")
        if hook in ("netns", "netfilter"):
            return [self.netns]
        if hook in ("tracing", "probe"):
            return [None]
        raise _missing_error(program, f"a program of type {program.type} needs more than a place", "write an attach()")

    def check(self, programs: Sequence[Program]) -> None:
        """LabError before anything is attached, if something is missing for a program, or was named for none."""
        from lab.bpf.attachment import HOOKS

        hooks, asking = set(), False
        self._check_room([each for each in programs if each.type == "xdp"])
        for program in programs:
            self.targets(program)
            hooks.add(HOOKS.get(program.type, ""))
            asking = asking or _asks_direction(program)
            if _asks_direction(program) and self.direction is None:
                raise _missing_error(program, "ingress or egress?", "--direction ingress, or --direction egress")
            if program.type == "netfilter" and not self.hook:
                raise _missing_error(program, "at which hook?", f"--hook, of {', '.join(NETFILTER_HOOKS)}")
        for option, given, used in (
            ("--interface", self.interfaces, hooks & {"xdp", "tc"}),
            ("--socket", self.sockets, "socket" in hooks),
            ("--mode", self.mode, "xdp" in hooks),
            ("--direction", self.direction, asking),
            ("--hook", self.hook, "netfilter" in hooks),
        ):
            if given and not used:
                raise LabError(f"{option} means nothing to {_hooks_of(programs)}", mend="leave it out")

    @staticmethod
    def _check_room(programs: Sequence[Program]) -> None:
        """An interface has room for one XDP program; those that are called by it are not attached."""
        if len(programs) > 1:
            names = ", ".join(each.name for each in programs)
            raise LabError(f"attach {programs[0].stem}: which of its XDP programs?", mend=f"--program, of {names}")

    def _ways(self, program: Program) -> list[dict[str, Any]]:
        """What else to say to `attach`, once for each attachment to a target."""
        if program.type == "netfilter":
            return [{"hook": self.hook, "ip": ip} for ip in (4, 6)]
        return [{"direction": self.direction if _asks_direction(program) else None}]

    def _attach_to(self, program: Program, target: Any, options: dict[str, Any]) -> Attachment:
        if program.type == "xdp":
            return self._attach_xdp(program, target)
        return program.attach(target, **options)

    def _attach_xdp(self, program: Program, target: Any) -> Attachment:
        if self.mode is not None:
            return program.attach(target, mode=self.mode)
        try:
            return program.attach(target, mode=Mode.NATIVE)
        except AttachError as error:
            number = getattr(error.__cause__, "errno", None)
            if number not in (errno.EOPNOTSUPP, errno.ERANGE):
                raise
            attachment = program.attach(target, mode=Mode.GENERIC)
            attachment.facts = {**attachment.facts, "fallback": error.kernel}
            return attachment


@contextmanager
def open_place(
    interfaces: Sequence[str] = (),
    *,
    netns: str = "",
    cgroup: str = "",
    sockets: Sequence[str] = (),
    mode: Mode | None = None,
    direction: Direction | None = None,
    hook: str = "",
) -> Iterator[Place]:
    """The place of these names; the calling thread is inside the namespace for the length of the block.

    `netns` is a name of `ip netns`, a process, or "" for the thread's own. `sockets` are "tcp/8080" or "udp/53".
    LabError, with the names that there are, for one that is not there.
    """
    from lab.kernel import foreign_socket
    from lab.kernel import netns as namespaces

    with ExitStack() as stack:
        there = _open_namespace(netns)
        stack.callback(os.close, there.netns_fd)
        if netns:
            stack.enter_context(namespaces.inside(there.netns_fd))
        found = tuple(_interface(each, there.netns_fd) for each in dict.fromkeys(interfaces))
        group = _open_cgroup(cgroup)
        if group:
            stack.callback(os.close, group.cgroup_fd)
        waiting = tuple(stack.enter_context(foreign_socket.waiting(*_port(each))) for each in sockets)
        yield Place(there, group, found, waiting, mode, direction, hook)


def interface_names() -> list[str]:
    """Those of the calling thread's namespace, in the kernel's order."""
    return [name for _, name in socket.if_nameindex()]


def _interface(name: str, netns_fd: int) -> HostInterface:
    try:
        return HostInterface(name, socket.if_nametoindex(name), netns_fd)
    except OSError:
        raise LabError(f"there is no interface {name!r} here", mend=f"there are {_listed()}") from None


def _open_namespace(name: str) -> HostNamespace:
    path = Path("/proc/thread-self/ns/net")
    if name.isdigit():
        path = Path(f"/proc/{name}/ns/net")
    elif name:
        path = NAMED_NAMESPACES / name
    try:
        return HostNamespace(name or "this namespace", os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError as error:
        raise NeedsRoot(
            f"open the namespace of {name}", kernel=error.strerror or "", mend="run it as root (sudo)"
        ) from error
    except OSError as error:
        what = f"there is no process {name}" if name.isdigit() else f"there is no network namespace {name!r}"
        raise LabError(what, mend=_other_namespaces(name)) from error


def _other_namespaces(name: str) -> str:
    if name.isdigit():
        return "the number of a process that lives"
    there = sorted(each.name for each in NAMED_NAMESPACES.glob("*"))
    close = difflib.get_close_matches(name, there) or there
    return f"`ip netns` has {', '.join(close)}" if close else "`ip netns add` makes one; a process's number will do too"


def _open_cgroup(path: str) -> HostCgroup | None:
    """The folder, or the root of the cgroup2 tree; None where nobody named one and there is none."""
    from lab.kernel import cgroup, mounts

    place = path or mounts.mounted("cgroup2")
    if place is None:
        return None
    try:
        group = HostCgroup(f"cgroup {place}", os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise LabError(f"open cgroup {place}: {error.strerror}", mend=f"a folder below {cgroup.root()}") from error
    if not cgroup.is_version_2(group.cgroup_fd):
        os.close(group.cgroup_fd)
        raise LabError(f"{place} is no folder of cgroup v2", mend=f"one below {cgroup.root()}")
    return group


def _port(text: str) -> tuple[str, int]:
    protocol, _, port = text.partition("/")
    if protocol not in ("tcp", "udp") or not port.isdigit() or not 0 < int(port) < 65536:
        raise LabError(f"{text!r} names no socket", mend="--socket tcp/8080, or --socket udp/53")
    return protocol, int(port)


def _asks_direction(program: Program) -> bool:
    """Its section does not say which way: tc, cgroup/skb."""
    return program.type in ("sched_cls", "cgroup_skb") and not program.section.endswith(("gress", "primary", "peer"))


def _listed() -> str:
    return ", ".join(interface_names()) or "none"


def _hooks_of(programs: Iterable[Program]) -> str:
    return ", ".join(dict.fromkeys(f"{each.name} ({each.section})" for each in programs))


def _missing(program: Program, question: str, mend: str) -> Sequence[Any]:
    raise _missing_error(program, question, mend)


def _missing_error(program: Program, question: str, mend: str) -> LabError:
    return LabError(f"attach {program.name} ({program.section}): {question}", mend=mend)
