"""What attaching to an interface has in common, whichever hook."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from lab.errors import AttachError, NeedsRoot
from lab.kernel import bpf, libbpf, netns

if TYPE_CHECKING:
    from lab.bpf.program import Program

EPERM = 1


def check_interface(program: Program, target: Any) -> None:
    """AttachError unless `target` is an interface: pure, before any system call."""
    if not all(hasattr(target, name) for name in ("ifindex", "netns_fd", "name")):
        raise AttachError(
            f"attach {program.name}: {target!r} is no interface, and programs of type {program.type} go on one",
            mend='program.attach(net.interface("server/eth0"), ...)',
        )


def make_link(program: Program, target: Any, attach_type: int, flags: int = 0) -> tuple[int, ExitStack]:
    """A bpf_link on an interface, read back, and what closes it; OSError when the kernel refuses."""
    fd = program.fd
    with netns.inside(target.netns_fd):  # an ifindex means something in its namespace only
        link = bpf.link_create(fd, target.ifindex, attach_type, flags)
    undo = ExitStack()
    undo.callback(os.close, link)
    try:
        read_back(program, link)
    except BaseException:
        undo.close()
        raise
    return link, undo


def read_back(program: Program, link: int) -> None:
    """An attachment that is not there gives plausible numbers: the kernel is asked which program the link has."""
    _, _, attached = struct.unpack_from("=III", bpf.object_info(link))
    if attached != bpf.program_id(program.fd):
        raise AttachError(f"attach {program.name}: the kernel attached program {attached} instead")


def refusal(program: Program, target: Any, how: str, error: OSError, words: str, mend: str) -> AttachError | NeedsRoot:
    """The error for an attachment that the kernel refused."""
    what = f"attach {program.name} to {target.name}: {how} refused"
    if error.errno == EPERM and os.geteuid():
        return NeedsRoot(what, mend="run as root, or with CAP_BPF and CAP_NET_ADMIN")
    return AttachError(what, kernel=words or libbpf.sentence(error.errno or 0), mend=mend)
