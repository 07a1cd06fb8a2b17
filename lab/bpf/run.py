"""BPF_PROG_RUN: a program run in the kernel on one frame, without a network."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.bpf.context import CONTEXTS, FLOW_KEYS, Context, decode_context, encode_context
from lab.errors import NeedsRoot, RunError
from lab.kernel import bpf, libbpf, netns
from lab.model.action import Action
from lab.model.journal import step

if TYPE_CHECKING:
    from lab.bpf.program import Program
    from lab.model.target import NamespaceTarget

FAMILIES = {
    "xdp": "xdp",
    "sched_cls": "tc",
    "sched_act": "tc",
    "cgroup_skb": "sk",
    "sk_lookup": "sk",
}
"""Whose verdict names the return codes of a program type are."""
NO_FRAME = ("sk_lookup", "raw_tracepoint", "raw_tracepoint_writable", "syscall")
NO_REPEAT = ("raw_tracepoint", "raw_tracepoint_writable", "syscall")
RUNNABLE = (*CONTEXTS, "flow_dissector", "netfilter", "raw_tracepoint", "raw_tracepoint_writable", "syscall")
SHORTEST_FRAME = 14
ENOTSUPP = 524


@dataclass(frozen=True)
class RunResult:
    """What a program did with a frame under BPF_PROG_RUN."""

    number: int
    """The return code, as the kernel gave it (signed for tc)."""
    frame: bytes
    """The frame as the program left it. Of cgroup_skb the Ethernet header comes back as zeros."""
    context: Context
    """The context's fields as the program left them; of a flow dissector, struct bpf_flow_keys; all of it is `.raw`."""
    duration_ns: int
    """Of one round, in whole ns, by the kernel's clock; BPF_PROG_RUN's own 25 ns and cold caches included."""
    family: str
    """Whose verdicts `action` knows: "xdp", "tc", "sk" or none."""

    @property
    def action(self) -> Action:
        """The verdict by its kernel name; RunError for a code that this hook gives no meaning."""
        try:
            return Action.of(self.family, self.number)
        except ValueError:
            what = f"name the verdict {self.number}: a hook of family {self.family or 'none'} gives it no meaning"
            raise RunError(what, mend="look at result.number") from None

    def __repr__(self) -> str:
        try:
            verdict = str(self.action)
        except RunError:
            verdict = str(self.number)
        return f"<RunResult {verdict}, {len(self.frame)} bytes, {self.duration_ns} ns>"


def run(
    program: Program, frame: Any, *, repeat: int = 1, context: Any = None, ingress: NamespaceTarget | None = None
) -> RunResult:
    """See `Program.run`."""
    raw = _frame_bytes(program, frame)
    if repeat < 1:
        raise RunError(f"run {program.name} {repeat} times", mend="once or more")
    given = _context(program, raw, context, ingress)
    with netns.inside(ingress.netns_fd) if ingress is not None else nullcontext():
        rounds = [_run_once(program, raw, given) for _ in range(repeat)]
    spent_ns = sum(each.duration_ns for each in rounds)
    result = _result(program.type, rounds[-1], round(spent_ns / repeat))
    step("run", program=program, frame=raw, context=given, ingress=ingress, repeat=repeat, result=result)
    return result


def run_many(program: Program, frames: Iterable[Any]) -> list[RunResult]:
    """See `Program.run_many`."""
    if program.type in NO_FRAME:
        raise RunError(f"run {program.name} on frames: programs of type {program.type} take none")
    fd, kind = program.fd, program.type
    raw = [_frame_bytes(program, frame) for frame in frames]
    try:
        results = [_result(kind, each, each.duration_ns) for each in bpf.prog_test_runs(fd, raw)]
    except OSError as error:
        raise _refused(program, error) from error
    step("run_many", program=program, frames=raw, results=results)
    return results


def _run_once(program: Program, raw: bytes, context: bytes) -> bpf.TestRun:
    kind = program.type
    try:
        return bpf.prog_test_run(
            program.fd,
            raw,
            repeat=0 if kind in NO_REPEAT else 1,
            context=context,
            context_bytes=CONTEXTS[kind][0] if kind in CONTEXTS else 0,
            room_bytes=0 if kind in NO_FRAME else bpf.FRAME_ROOM,
        )
    except OSError as error:
        raise _refused(program, error) from error


def _frame_bytes(program: Program, frame: Any) -> bytes:
    raw = b"" if frame is None else bytes(frame)
    if program.type in NO_FRAME:
        if raw:
            raise RunError(
                f"run {program.name} on a frame: programs of type {program.type} take none", mend="run(None)"
            )
        return raw
    if program.type in RUNNABLE and len(raw) < SHORTEST_FRAME:
        raise RunError(
            f"run {program.name} on {len(raw)} bytes: BPF_PROG_RUN takes {SHORTEST_FRAME} or more",
            mend="no network device hands a program less than an Ethernet header",
        )
    return raw


def _context(program: Program, raw: bytes, given: Any, ingress: NamespaceTarget | None) -> bytes:
    kind = program.type
    if isinstance(given, bytes):  # that of an earlier run
        return given
    ifindex = getattr(ingress, "ifindex", None)
    if ifindex is not None:
        fields = {"ingress_ifindex": ifindex} if kind == "xdp" else {"ingress_ifindex": ifindex, "ifindex": ifindex}
        given = {**fields, **(given or {})}
    if given is None:
        # Without one the kernel gives none back; an XDP program's must name the end of the frame.
        return encode_context(kind, {}, len(raw)) if kind in ("xdp", "sk_lookup") else b""
    return encode_context(kind, given, len(raw))


def _result(kind: str, done: bpf.TestRun, duration_ns: int) -> RunResult:
    family = FAMILIES.get(kind, "")
    number = done.retval - (1 << 32) if family == "tc" and done.retval >> 31 else done.retval
    if kind == "flow_dissector":
        return RunResult(number, b"", Context(FLOW_KEYS, done.data), duration_ns, family)
    return RunResult(number, done.data, decode_context(kind, done.context), duration_ns, family)


def _refused(program: Program, error: OSError) -> RunError | NeedsRoot:
    number = error.errno or 0
    what = f"run {program.name} (BPF_PROG_RUN of type {program.type})"
    if number == errno.EPERM:
        return NeedsRoot(what, kernel=libbpf.sentence(number), mend="run as root, or with CAP_BPF and CAP_NET_ADMIN")
    return RunError(what, kernel=libbpf.sentence(number), mend=_mend(program.type, number))


def _mend(kind: str, number: int) -> str:
    if number in (ENOTSUPP, errno.EOPNOTSUPP) or kind not in RUNNABLE:
        return f"this kernel cannot run programs of type {kind} so: attach it, and send what it waits for"
    if number == errno.EINVAL and kind == "xdp":
        return (
            "before Linux 5.18 a frame has at most 3.5 KB; an ingress interface may need a native XDP program attached "
            'to it (or give its namespace alone: ingress=net["server"])'
        )
    if number == errno.ENODEV:
        return "there is no such interface in this namespace: ingress=net.interface(...) enters the right one"
    if number == errno.ENOSPC:
        return f"the program made the frame more than {bpf.FRAME_ROOM} bytes longer"
    return "a field of the context that BPF_PROG_RUN does not take must be left out" if number == errno.EINVAL else ""
