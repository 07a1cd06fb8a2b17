"""Programs on the kernel's own code by BTF (tp_btf, fentry, fexit, fmod_ret, lsm), and raw tracepoints."""

from __future__ import annotations

import difflib
import errno
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.hooks import LSM_CGROUP, TRACE_ITER, hook_name
from lab.bpf.attach.link import hold, refusal
from lab.bpf.attachment import Attachment
from lab.errors import AttachError
from lab.kernel import bpf, tracefs

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS = frozenset({"event"})
RAW = ("raw_tracepoint", "raw_tracepoint_writable")
NOT_HERE = "attach it elsewhere: the lab attaches tp_btf, fentry, fexit, fmod_ret and lsm"
MENDS = {
    errno.EPERM: "this kernel refuses it: tp_btf, raw_tp or a tracepoint instead; `lab doctor` says which it has",
    errno.EBUSY: "fmod_ret and fexit of one function exclude a second trampoline: detach the other",
}


def attach(program: Attachable, target: Any, *, event: str = "") -> Attachment:
    """Where its section says; `event` overrides that for raw tracepoints. It sees the whole machine, no target."""
    check_nothing(program, target)
    if program.type in RAW:
        return _raw(program, event or event_of(program))
    if program.expected_attach_type in (TRACE_ITER, LSM_CGROUP):
        raise AttachError(f"attach {program.name}: section {program.section} is not for here", mend=NOT_HERE)
    how = f"{hook_name(program.expected_attach_type)} {event_of(program)}"
    try:
        link = hold(program, bpf.raw_tracepoint_open("", program.fd))
    except OSError as error:
        raise refusal(program, "", how, error, mend=MENDS.get(error.errno or 0, "")) from error
    return Attachment(program.name, "the kernel", how, link.facts, link.undo)


def check_nothing(program: Attachable, target: Any) -> None:
    """AttachError when a target is given to what sees the whole machine: pure, before any system call."""
    if target is not None:
        raise AttachError(
            f"attach {program.name}: it sees the whole machine, and {target!r} says nothing to it",
            mend="program.attach(); filter by namespace or process in the program",
        )


def event_of(program: Attachable) -> str:
    """What the section names: "tcp_probe" of "raw_tp/tcp_probe"; AttachError when it names nothing."""
    event = program.section.partition("/")[2]
    if not event:
        raise AttachError(
            f"attach {program.name}: section {program.section} does not say to what",
            mend=f'SEC("{program.section}/...") in the source, or attach(event="...")',
        )
    return event


def _raw(program: Attachable, event: str) -> Attachment:
    how = f"raw tracepoint {event}"
    try:
        link = hold(program, bpf.raw_tracepoint_open(event, program.fd))
    except OSError as error:
        mend = MENDS.get(error.errno or 0, "")
        if error.errno == errno.ENOENT:
            mend = look_alikes(event, [each.partition("/")[2] for each in known_events()])
        raise refusal(program, "", how, error, mend=mend) from error
    return Attachment(program.name, "the kernel", how, link.facts, link.undo)


def look_alikes(event: str, there: list[str]) -> str:
    """The mend for a name that is not there."""
    close = difflib.get_close_matches(event, there, n=5) or [each for each in there if event.split("/")[-1] in each][:5]
    return f"there are {', '.join(close)}" if close else "`bpftool perf` and tracefs list what there is"


def known_events() -> list[str]:
    """All tracepoints; none where tracefs does not tell."""
    try:
        return tracefs.events()
    except OSError:
        return []
