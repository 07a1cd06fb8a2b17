"""Programs on a map of sockets: sk_msg sees what its sockets send, sk_skb what they receive."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.hooks import SK_MSG_VERDICT, SK_SKB_STREAM_VERDICT, hook_name
from lab.bpf.attach.link import refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError
from lab.kernel import bpf

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS: frozenset[str] = frozenset()
DEFAULT = {"sk_msg": SK_MSG_VERDICT, "sk_skb": SK_SKB_STREAM_VERDICT}
MENDS = {errno.EBUSY: "a map has a stream verdict or a verdict, never both"}


def attach(program: Attachable, target: Any) -> Attachment:
    """`target` is a map of type sockmap or sockhash: `program.maps["sockets"]`.

    By PROG_ATTACH, which every kernel has (a bpf_link for it came with Linux 6.10); the map must outlive it.
    """
    kind = getattr(getattr(target, "facts", None), "type", "")
    if kind not in ("sockmap", "sockhash"):
        raise AttachError(
            f"attach {program.name}: {target!r} is no sockmap or sockhash; programs of type {program.type} go on one",
            mend='program.attach(program.maps["sockets"])',
        )
    attach_type = program.expected_attach_type or DEFAULT[program.type]
    how, place = hook_name(attach_type), f"map {target.name}"
    if _is_taken(target.fd, attach_type):
        raise AttachError(f"attach {program.name} to {place}: a program is at {how} already", mend="detach it first")
    with ExitStack() as stack:
        # Descriptors of its own: the object may be closed before the attachment ends, and its numbers used again.
        map_fd, fd = _kept(target.fd, stack), _kept(program.fd, stack)
        try:
            bpf.prog_attach(map_fd, fd, attach_type)
        except OSError as error:
            raise refusal(program, place, how, error, mend=MENDS.get(error.errno or 0, "")) from error
        stack.callback(_detach, map_fd, fd, attach_type)
        return Attachment(program.name, place, how, {"program_id": bpf.program_id(fd)}, stack.pop_all())


def _is_taken(map_fd: int, attach_type: int) -> bool:
    """PROG_ATTACH would replace the other program without a word; False where the kernel cannot say (before 5.16)."""
    try:
        return bpf.prog_query(map_fd, attach_type) > 0
    except OSError:
        return False


def _kept(fd: int, stack: ExitStack) -> int:
    copy = os.dup(fd)
    stack.callback(os.close, copy)
    return copy


def _detach(map_fd: int, fd: int, attach_type: int) -> None:
    with suppress(OSError):  # ENOENT: another lab has replaced it
        bpf.prog_detach(map_fd, fd, attach_type)
