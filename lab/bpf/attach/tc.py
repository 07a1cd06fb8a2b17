"""tc programs on an interface: by TCX (a bpf_link, Linux 6.6), or by cls_bpf on clsact before that."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from lab.bpf.attach import cls_bpf
from lab.bpf.attach.interface import GONE, check_interface, is_gone, make_interface_link
from lab.bpf.attach.link import refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError
from lab.kernel import bpf
from lab.model.action import Direction

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS = frozenset({"direction", "via"})
BPF_TCX = {Direction.INGRESS: 46, Direction.EGRESS: 47}
NETKIT = {54: "netkit primary", 55: "netkit peer"}


def attach(
    program: Attachable, target: Any, *, direction: Direction | None = None, via: str | None = None
) -> Attachment:
    """At ingress or egress; `via` is "tcx" or "cls_bpf", by default TCX where the kernel has it."""
    check_interface(program, target)
    if program.expected_attach_type in NETKIT:
        return _linked(program, target, program.expected_attach_type, NETKIT[program.expected_attach_type], {})
    chosen = _direction(program, target, direction)
    if via not in (None, "tcx", "cls_bpf"):
        raise AttachError(f"attach {program.name}: via={via!r} is unknown", mend='via="tcx" or via="cls_bpf"')
    if via == "cls_bpf" or (via is None and not has_tcx()):
        return cls_bpf.attach(program, target, chosen)
    about = {"via": "tcx", "direction": chosen.value}
    return _linked(program, target, BPF_TCX[chosen], f"tcx {chosen.value}", about)


def has_tcx() -> bool:
    """Whether the kernel knows the attach type: a query of loopback is then an answer, and else EINVAL."""
    loopback = 1
    try:
        bpf.prog_query(loopback, BPF_TCX[Direction.INGRESS])
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.EOPNOTSUPP)
    return True


def _linked(program: Attachable, target: Any, attach_type: int, how: str, about: dict[str, str]) -> Attachment:
    try:
        link = make_interface_link(program, target, attach_type)
    except OSError as error:
        mend = GONE if is_gone(target) else ""
        raise refusal(program, target.name, how, error, mend=mend) from error
    link.facts.update(about, ifindex=target.ifindex)
    return Attachment(program.name, target.name, how, link.facts, link.undo, link.replace)


def _direction(program: Attachable, target: Any, given: Direction | None) -> Direction:
    """The section may say it ("tc/ingress", "tcx/egress"), and then nothing else may be said."""
    tail = program.section.rpartition("/")[2]
    meant = Direction(tail) if tail in ("ingress", "egress") else None
    if meant and given and meant is not given:
        raise AttachError(
            f"attach {program.name} to {target.name}: its section {program.section} says {meant.value}, "
            f"the call {given.value}",
            mend=f"direction=Direction.{meant.name}, or section tc in the source",
        )
    if meant or isinstance(given, Direction):
        return meant or Direction(given)
    raise AttachError(
        f"attach {program.name} to {target.name}: ingress or egress? direction is {given!r}",
        mend="direction=Direction.INGRESS (or EGRESS), or a section tc/ingress in the source",
    )
