"""What attaching to an interface has in common, whichever hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lab.bpf.attach.link import Link, make_link
from lab.errors import AttachError, LabError, NetworkError
from lab.kernel import netlink, netns
from lab.kernel.netlink import LINK, Request, RouteSocket

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

GONE = "the interface is gone: attach while its network is up"


def check_interface(program: Attachable, target: Any) -> None:
    """AttachError unless `target` is an interface: pure, before any system call."""
    if not all(hasattr(target, name) for name in ("ifindex", "netns_fd", "name")):
        raise AttachError(
            f"attach {program.name}: {target!r} is no interface, and programs of type {program.type} go on one",
            mend='program.attach(net.interface("server/eth0"), ...)',
        )


def make_interface_link(program: Attachable, target: Any, attach_type: int, *, flags: int = 0) -> Link:
    """A bpf_link on an interface; OSError when the kernel refuses."""
    try:
        with netns.inside(target.netns_fd):  # an ifindex means something in its namespace only
            return make_link(program, target.ifindex, attach_type, flags=flags)
    except NetworkError as error:
        raise AttachError(
            f"attach {program.name} to {target.name}", kernel=error.kernel or error.what, mend=GONE
        ) from error


def route_socket(target: Any) -> RouteSocket:
    """A netlink socket of the interface's namespace; the caller closes it."""
    with netns.inside(target.netns_fd):
        return RouteSocket()


def link_attributes(target: Any) -> dict[int, bytes]:
    """What the kernel says of the interface (RTM_GETLINK), by IFLA_ number; NetworkError when it is gone."""
    body = LINK.pack(0, 0, target.ifindex, 0, 0)
    control = route_socket(target)
    try:
        (reply,) = control.ask(Request(netlink.RTM_GETLINK, netlink.NLM_F_REQUEST, body, ("look at", target.name)))
    finally:
        control.close()
    return dict(netlink.attributes(reply.body[LINK.size :]))


def is_gone(target: Any) -> bool:
    """Whether the interface, or its namespace, is no longer there."""
    try:
        link_attributes(target)
    except (LabError, OSError):
        return True
    return False
