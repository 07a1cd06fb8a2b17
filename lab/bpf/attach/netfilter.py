"""Netfilter programs (Linux 6.4): a verdict at one of the five places where iptables and nftables stand."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.hooks import NETFILTER
from lab.bpf.attach.link import make_link, refusal
from lab.bpf.attach.netns import check_namespace
from lab.bpf.attachment import Attachment
from lab.errors import AttachError
from lab.kernel import netns

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS = frozenset({"hook", "ip", "priority"})
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
MENDS = {
    errno.EEXIST: "another program has this priority: take another one",
    errno.EINVAL: "a kernel since 6.4 with CONFIG_NETFILTER_BPF_LINK; priority is neither the first nor the last",
}


def attach(program: Attachable, target: Any, *, hook: str = "", ip: int = 4, priority: int = -1) -> Attachment:
    """In a namespace at `hook` ("prerouting", "input", ...) for IPv4 or IPv6; the lowest `priority` runs first."""
    check_namespace(program, target)
    if hook not in HOOKS or ip not in FAMILIES:
        raise AttachError(
            f"attach {program.name} to {target.name}: at which hook? hook={hook!r}, ip={ip!r}",
            mend=f"hook= one of {', '.join(HOOKS)}; ip=4 or 6",
        )
    how = f"netfilter {hook} IPv{ip}"
    extra = struct.pack("=IIiI", FAMILIES[ip], HOOKS.index(hook), priority, 0)
    try:
        with netns.inside(target.netns_fd):
            link = make_link(program, 0, NETFILTER, extra=extra)
    except OSError as error:
        raise refusal(program, target.name, how, error, mend=MENDS.get(error.errno or 0, "")) from error
    return Attachment(program.name, target.name, how, link.facts, link.undo)
