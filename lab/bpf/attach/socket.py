"""Programs on a socket: sk_reuseport, which chooses one of a group, and socket filters, which see what it receives."""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.link import refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError
from lab.kernel import bpf

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS: frozenset[str] = frozenset()
SO_ATTACH_BPF, SO_DETACH_BPF = 50, 27
SO_ATTACH_REUSEPORT_EBPF, SO_DETACH_REUSEPORT_BPF = 52, 68
ATTACH_DETACH = {
    "sk_reuseport": (SO_ATTACH_REUSEPORT_EBPF, SO_DETACH_REUSEPORT_BPF),
    "socket_filter": (SO_ATTACH_BPF, SO_DETACH_BPF),
}
MENDS = {
    errno.EINVAL: "set SO_REUSEPORT on the socket, and bind it, before the program comes",
    errno.EPERM: "the socket's filter is locked (SO_LOCK_FILTER)",
}


def attach(program: Attachable, target: Any) -> Attachment:
    """With sk_reuseport the whole group that `target` is in takes the program; it ends with the last of its sockets."""
    if not isinstance(target, socket.socket):
        raise AttachError(
            f"attach {program.name}: {target!r} is no socket, and programs of type {program.type} go on one",
            mend='program.attach(net["server"].socket(socket.AF_INET, socket.SOCK_STREAM))',
        )
    if target.fileno() < 0:
        raise AttachError(f"attach {program.name}: the socket is closed", mend="attach before it is closed")
    place = f"socket {target.fileno()}"
    come, go = ATTACH_DETACH[program.type]
    try:
        target.setsockopt(socket.SOL_SOCKET, come, struct.pack("=i", program.fd))
    except OSError as error:
        mend = MENDS.get(error.errno or 0, "")
        raise refusal(program, place, program.type, error, mend=mend) from error
    undo = ExitStack()
    undo.callback(_detach, target, go)
    facts = {"program_id": bpf.program_id(program.fd)}

    def replace(fd: int) -> None:
        target.setsockopt(socket.SOL_SOCKET, come, struct.pack("=i", fd))

    return Attachment(program.name, place, program.type, facts, undo, replace)


def _detach(target: socket.socket, go: int) -> None:
    if target.fileno() >= 0:
        with suppress(OSError):  # ENOENT: the group has lost it with another socket
            target.setsockopt(socket.SOL_SOCKET, go, 0)
