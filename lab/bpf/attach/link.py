"""A bpf_link: made, read back, ended. It lives as long as its descriptor, so nothing outlives the process."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.errors import AttachError, NeedsRoot
from lab.kernel import bpf, capabilities, libbpf

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

EPERM = 1


@dataclass
class Link:
    """Its descriptor, what the kernel says of it, and its end; more undos may be pushed on `undo`."""

    fd: int
    facts: dict[str, Any]
    undo: ExitStack = field(default_factory=ExitStack)

    def replace(self, fd: int) -> None:
        """Another program in the same place (BPF_LINK_UPDATE); OSError where this kind of link cannot."""
        bpf.link_update(self.fd, fd)


def make_link(program: Attachable, target: int, attach_type: int, *, flags: int = 0, extra: bytes = b"") -> Link:
    """LINK_CREATE and a look at what came of it; OSError when the kernel refuses."""
    return hold(program, bpf.link_create(program.fd, target, attach_type, flags, extra))


def hold(program: Attachable, fd: int) -> Link:
    """The link behind a new descriptor.

    An attachment that is not there gives plausible numbers, so the kernel is asked which program the link has.
    """
    undo = ExitStack()
    undo.callback(_end, fd)
    try:
        _, link_id, program_id = struct.unpack_from("=III", bpf.object_info(fd))
        wanted = bpf.program_id(program.fd)
        if program_id != wanted:
            raise AttachError(f"attach {program.name}: the kernel attached program {program_id}, not {wanted}")
    except BaseException:
        undo.close()
        raise
    return Link(fd, {"program_id": program_id, "link_id": link_id}, undo)


def attached_program(link_fd: int) -> int:
    """The id of the program that the link has now."""
    number: int = struct.unpack_from("=III", bpf.object_info(link_fd))[2]
    return number


def refusal(
    program: Attachable, place: str, how: str, error: OSError, *, words: str = "", mend: str = ""
) -> AttachError | NeedsRoot:
    """The error for an attachment that the kernel refused: its own sentence, or at least the name of its number."""
    what = f"attach {program.name} to {place}: {how} refused" if place else f"attach {program.name}: {how} refused"
    if error.errno == EPERM and capabilities.lacking():
        return NeedsRoot(what, kernel=libbpf.sentence(EPERM), mend="run as root, or with CAP_BPF and CAP_NET_ADMIN")
    return AttachError(what, kernel=words or libbpf.sentence(error.errno or 0), mend=mend)


def _end(fd: int) -> None:
    """Detaches, though a forked child may hold a copy of the descriptor (Linux 5.9; tracing links only close)."""
    try:
        bpf.link_detach(fd)
    except OSError:
        pass
    finally:
        os.close(fd)
