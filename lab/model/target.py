"""What a program can be attached to: net and bpf meet here and never import each other."""

from __future__ import annotations

from typing import Protocol


class NamespaceTarget(Protocol):
    """A network namespace, held by a file descriptor."""

    @property
    def name(self) -> str: ...

    @property
    def netns_fd(self) -> int: ...


class InterfaceTarget(NamespaceTarget, Protocol):
    """An interface in a namespace; `name` reads "server/eth0"."""

    @property
    def ifindex(self) -> int: ...


class VethTarget(InterfaceTarget, Protocol):
    """One end of a veth that knows the other; `short_name` is the kernel's ("eth0")."""

    @property
    def short_name(self) -> str: ...

    @property
    def peer(self) -> VethTarget: ...


class CgroupTarget(Protocol):
    """A cgroup v2 folder, held by a file descriptor."""

    @property
    def name(self) -> str: ...

    @property
    def cgroup_fd(self) -> int: ...


class SocketTarget(Protocol):
    """A socket, as socket.socket is one."""

    def fileno(self) -> int: ...
