"""A namespace to try things in: nobody else sees it, and what was tried is gone with it."""

from __future__ import annotations

import os
import struct
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from types import TracebackType
from typing import Self

from lab.kernel import netlink, netns
from lab.kernel.netlink import LINK, NEW, NLM_F_ACK, NLMSGERR_ATTR_MSG, RTM_NEWLINK, Request, RouteSocket, nested, text

IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 3, 18, 1, 2


class Scratch:
    """Empty at first; namespace and veth are made when they are asked for, and given back at the end of the block."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def inside(self) -> AbstractContextManager[None]:
        """The calling thread is in the namespace for the length of the block."""
        return netns.inside(self.netns_fd)

    @cached_property
    def netns_fd(self) -> int:
        """The namespace's descriptor; NeedsRoot without CAP_SYS_ADMIN."""
        with netns.restored():
            netns.unshare()
            descriptor = netns.open_current()
        self._stack.callback(os.close, descriptor)
        return descriptor

    @cached_property
    def veth(self) -> int:
        """The ifindex of one end of a veth pair, down."""
        self.add_interface("veth", 101)
        return 101

    def add_interface(self, kind: str, ifindex: int, data: bytes = b"", *, lower: int = 0) -> None:
        """A new interface of this kind, with its own data and perhaps a lower device; OSError when refused."""
        about = nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, data) if data else b"")
        below = netlink.u32(5, lower) if lower else b""  # IFLA_LINK
        self.ask(RTM_NEWLINK, LINK.pack(0, 0, ifindex, 0, 0) + text(IFLA_IFNAME, f"{kind}{ifindex}") + below + about)

    def ask(self, kind: int, body: bytes) -> None:
        """One rtnetlink request in the namespace; OSError, with the kernel's sentence, when it is refused."""
        (answer,) = self._control.ask_each([Request(kind, NEW | NLM_F_ACK, body, ("probe",))])
        code = -struct.unpack_from("=i", answer.body)[0]
        if code:
            said = dict(netlink.attributes(answer.body[20:])).get(NLMSGERR_ATTR_MSG, b"")
            raise OSError(code, said.rstrip(b"\0").decode(errors="replace") or os.strerror(code))

    @cached_property
    def _control(self) -> RouteSocket:
        with self.inside():
            control = RouteSocket()
        self._stack.callback(control.close)
        return control

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
