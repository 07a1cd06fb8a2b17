"""Programs on a network namespace: sk_lookup (Linux 5.9) and flow_dissector."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.hooks import hook_name
from lab.bpf.attach.link import make_link, refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS: frozenset[str] = frozenset()
HOOK = {"sk_lookup": 36, "flow_dissector": 17}
FULL = (errno.E2BIG, errno.EEXIST, errno.EBUSY)
ROOM = {
    "sk_lookup": "a namespace has room for 64 of them: detach one",
    "flow_dissector": "a namespace has one flow dissector: detach the other, or update() it",
}


def attach(program: Attachable, target: Any) -> Attachment:
    """To the whole namespace, not to an interface of it."""
    check_namespace(program, target)
    attach_type = HOOK[program.type]
    how = hook_name(attach_type)
    try:
        link = make_link(program, target.netns_fd, attach_type)
    except OSError as error:
        mend = ROOM[program.type] if error.errno in FULL else ""
        raise refusal(program, target.name, how, error, mend=mend) from error
    return Attachment(program.name, target.name, how, link.facts, link.undo, link.replace)


def check_namespace(program: Attachable, target: Any) -> None:
    """AttachError unless `target` is a namespace: pure, before any system call."""
    if not hasattr(target, "netns_fd") or hasattr(target, "ifindex"):
        raise AttachError(
            f"attach {program.name}: {target!r} is no namespace, and programs of type {program.type} go on one",
            mend='program.attach(net["server"])',
        )
