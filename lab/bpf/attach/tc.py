"""tc programs on an interface: by TCX (a bpf_link, Linux 6.6), or by cls_bpf on clsact before that."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.interface import check_interface, make_link, refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError
from lab.kernel import bpf
from lab.model.action import Direction

if TYPE_CHECKING:
    from lab.bpf.program import Program

OPTIONS = {"direction", "via"}
BPF_TCX = {Direction.INGRESS: 46, Direction.EGRESS: 47}
NOT_KNOWN = (errno.EINVAL, errno.EOPNOTSUPP)


def attach(program: Program, target: Any, *, direction: Direction | None = None, via: str | None = None) -> Attachment:
    """At ingress or egress; `via` is "tcx" or "cls_bpf", by default TCX where the kernel has it."""
    check_interface(program, target)
    chosen = direction or _direction_of(program)
    if via not in (None, "tcx", "cls_bpf"):
        raise AttachError(f"attach {program.name}: via={via!r} is unknown", mend='via="tcx" or via="cls_bpf"')
    if via != "cls_bpf":
        try:
            return _attach_tcx(program, target, chosen)
        except OSError as error:
            if via == "tcx" or error.errno not in NOT_KNOWN:
                raise refusal(program, target, f"tcx {chosen.value}", error, "", "") from error
    from lab.bpf.attach import cls_bpf

    return cls_bpf.attach(program, target, chosen)


def _attach_tcx(program: Program, target: Any, direction: Direction) -> Attachment:
    link, undo = make_link(program, target, BPF_TCX[direction])
    how = f"tcx {direction.value}"
    return Attachment(program.name, target.name, how, {"via": "tcx"}, undo, lambda fd: bpf.link_update(link, fd))


def _direction_of(program: Program) -> Direction:
    """The section may say it: "tc/ingress", "tcx/egress"."""
    tail = program.section.rpartition("/")[2]
    if tail in ("ingress", "egress"):
        return Direction(tail)
    raise AttachError(
        f"attach {program.name}: ingress or egress?",
        mend="direction=Direction.INGRESS, or a section tc/ingress in the source",
    )
