"""Programs on a cgroup: sockets and packets of the processes in it (connect4, sendmsg6, ingress, sock_ops, ...)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lab.bpf.attach.hooks import hook_name
from lab.bpf.attach.link import make_link, refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError
from lab.kernel import cgroup
from lab.model.action import Direction

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS = frozenset({"direction"})
ONLY_HOOK = {"cgroup_device": 6, "sock_ops": 3, "cgroup_sysctl": 18}
SKB_HOOK = {Direction.INGRESS: 0, Direction.EGRESS: 1}


def attach(program: Attachable, target: Any, *, direction: Direction | None = None) -> Attachment:
    """On a cgroup v2 folder and all below it; the section says which hook, `direction` only for cgroup/skb."""
    if not hasattr(target, "cgroup_fd"):
        raise AttachError(
            f"attach {program.name}: {target!r} is no cgroup, and programs of section {program.section} go on one",
            mend="with lab.Cgroup() as group, program.attach(group), group.entered(): …",
        )
    attach_type = _hook(program, direction)
    how = hook_name(attach_type)
    if not cgroup.is_version_2(target.cgroup_fd):
        raise AttachError(
            f"attach {program.name} to {target.name}: {how} needs cgroup v2, and this is a folder of another kind",
            mend="lab.Cgroup() makes one below the cgroup2 mount; `mount -t cgroup2` shows where that is",
        )
    try:
        link = make_link(program, target.cgroup_fd, attach_type)
    except OSError as error:
        raise refusal(program, target.name, how, error, mend="a kernel since 5.7 with CONFIG_CGROUP_BPF") from error
    return Attachment(program.name, target.name, how, link.facts, link.undo, link.replace)


def _hook(program: Attachable, direction: Direction | None) -> int:
    if program.type == "cgroup_skb":
        return _skb_hook(program, direction)
    if direction is not None:
        raise AttachError(
            f"attach {program.name}: direction means nothing to programs of section {program.section}",
            mend="leave it out: the section says it all",
        )
    return program.expected_attach_type or ONLY_HOOK.get(program.type, 0)


def _skb_hook(program: Attachable, direction: Direction | None) -> int:
    """cgroup_skb/ingress and /egress say it; of section cgroup/skb the caller must."""
    meant = next((each for each in Direction if program.section.endswith("/" + each.value)), None)
    if direction and meant and direction is not meant:
        raise AttachError(
            f"attach {program.name}: its section {program.section} says {meant.value}, the call {direction.value}",
            mend=f"direction=Direction.{meant.name}, or section cgroup/skb in the source",
        )
    chosen = meant or direction
    if chosen is None:
        raise AttachError(
            f"attach {program.name}: ingress or egress?",
            mend="direction=Direction.INGRESS (or EGRESS), or a section cgroup_skb/ingress in the source",
        )
    return SKB_HOOK[chosen]
