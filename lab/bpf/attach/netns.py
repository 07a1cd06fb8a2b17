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
MENDS = {
    errno.E2BIG: "64 programs at most in one namespace",
    errno.EEXIST: "one flow dissector in a namespace; detach the other, also one of the first namespace",
    errno.EBUSY: "one flow dissector in a namespace; detach the other, also one of the first namespace",
}


def attach(program: Attachable, target: Any) -> Attachment:
    """To the whole namespace, not to an interface of it."""
    check_namespace(program, target)
    attach_type = HOOK[program.type]
    how = hook_name(attach_type)
    try:
        link = make_link(program, target.netns_fd, attach_type)
    except OSError as error:
        raise refusal(program, target.name, how, error, mend=MENDS.get(error.errno or 0, "")) from error
    return Attachment(program.name, target.name, how, link.facts, link.undo, link.replace)


def check_namespace(program: Attachable, target: Any) -> None:
    """AttachError unless `target` is a namespace: pure, before any system call."""
    if not hasattr(target, "netns_fd") or hasattr(target, "ifindex"):
        raise AttachError(
            f"attach {program.name}: {target!r} is no namespace, and programs of type {program.type} go on one",
            mend='program.attach(net["server"])',
        )
