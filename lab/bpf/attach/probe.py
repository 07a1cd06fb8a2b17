"""Programs on perf events: tracepoints, kprobes (also many at once), and a clock."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from lab.bpf.attach.hooks import PERF_EVENT, TRACE_KPROBE_MULTI
from lab.bpf.attach.link import make_link, refusal
from lab.bpf.attach.tracing import check_nothing, event_of, known_events, look_alikes
from lab.bpf.attachment import Attachment
from lab.errors import AttachError, FeatureMissing
from lab.kernel import bpf, perf_event, tracefs
from lab.kernel.perf_event import Event

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

OPTIONS = frozenset({"event", "rate_hz"})
RETURN_PROBE = ("kretprobe", "uretprobe")
NO_KPROBES = "a kernel with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS; or tp_btf, raw_tp, a tracepoint instead"


def attach(program: Attachable, target: Any, *, event: str = "", rate_hz: int = 0) -> Attachment:
    """Where its section says; `event` overrides the name in it, `rate_hz` is for perf_event programs alone."""
    check_nothing(program, target)
    if program.type == "perf_event":
        return _clock(program, rate_hz)
    if rate_hz:
        raise AttachError(
            f"attach {program.name}: rate_hz means nothing to section {program.section}", mend="leave it out"
        )
    named = event or event_of(program)
    if program.type == "tracepoint":
        return _tracepoint(program, named)
    kind = program.section.partition("/")[0]
    if kind.startswith("u"):
        raise AttachError(
            f"attach {program.name}: the lab attaches no {kind}",
            mend="it is for networks; use bpftrace or libbpf for it",
        )
    return _multi(program, kind, named) if "." in kind else _kprobe(program, kind, named)


def _tracepoint(program: Attachable, event: str) -> Attachment:
    how = f"tracepoint {event}"
    category, _, name = event.partition("/")
    try:
        number = tracefs.event_id(category, name)
    except FileNotFoundError as error:
        mend = look_alikes(event, known_events())
        raise AttachError(
            f"attach {program.name}: there is no tracepoint {event}", kernel=str(error), mend=mend
        ) from error
    except OSError as error:
        raise refusal(program, "", how, error, mend="tracefs: a kernel with CONFIG_TRACING, and root") from error
    return _on_events(program, how, [(Event(perf_event.PERF_TYPE_TRACEPOINT, number), 0)], "")


def _kprobe(program: Attachable, kind: str, function: str) -> Attachment:
    how = f"{kind} {function}"
    try:
        number, return_bit = perf_event.probe_type("kprobe")
    except FileNotFoundError as error:
        raise FeatureMissing(
            f"attach {program.name}: {how}: this kernel has no kprobes", kernel=str(error), mend=NO_KPROBES
        ) from error
    name, _, offset = function.partition("+")
    text = ctypes.create_string_buffer(name.encode())
    config = 1 << return_bit if kind in RETURN_PROBE else 0
    event = Event(number, config, config1=ctypes.addressof(text), config2=int(offset or "0", 0))
    return _on_events(program, how, [(event, 0)], look_alikes(name, tracefs.functions()))


def _multi(program: Attachable, kind: str, pattern: str) -> Attachment:
    """kprobe.multi (Linux 5.18): every function that the pattern of the section means ("tcp_*") in one call."""
    how = f"{kind} {pattern}"
    there = tracefs.functions()
    functions = [each for each in there if fnmatchcase(each, pattern)]
    if there and not functions:
        raise AttachError(f"attach {program.name}: {how}: no function has this name", mend=look_alikes(pattern, there))
    texts = [ctypes.create_string_buffer(each.encode()) for each in functions or [pattern]]
    table = (ctypes.c_uint64 * len(texts))(*(ctypes.addressof(each) for each in texts))
    is_return = 1 if kind.startswith("kret") else 0
    extra = struct.pack("=IIQQQ", is_return, len(texts), ctypes.addressof(table), 0, 0)
    try:
        link = make_link(program, 0, program.expected_attach_type or TRACE_KPROBE_MULTI, extra=extra)
    except OSError as error:
        mend = "a kernel since 5.18 with CONFIG_FPROBE; or tp_btf, raw_tp, a tracepoint instead"
        raise refusal(program, "", how, error, mend=mend) from error
    link.facts["functions"] = len(texts)
    return Attachment(program.name, "the kernel", how, link.facts, link.undo)


def _clock(program: Attachable, rate_hz: int) -> Attachment:
    """A sample of whatever runs, on every CPU."""
    if not 1 <= rate_hz <= 100_000:
        raise AttachError(f"attach {program.name}: how often? rate_hz={rate_hz}", mend="rate_hz=99, say; 1 to 100,000")
    event = Event(perf_event.PERF_TYPE_SOFTWARE, perf_event.PERF_COUNT_SW_CPU_CLOCK, rate_hz, perf_event.FREQUENCY)
    every = [(event, cpu) for cpu in sorted(os.sched_getaffinity(0) | set(range(os.cpu_count() or 1)))]
    return _on_events(program, f"CPU clock, {rate_hz} Hz", every, "")


def _on_events(program: Attachable, how: str, events: list[tuple[Event, int]], mend: str) -> Attachment:
    with ExitStack() as stack:
        facts: dict[str, Any] = {"program_id": bpf.program_id(program.fd)}
        for event, cpu in events:
            try:
                facts.update(_on_event(program, event, cpu, stack))
            except OSError as error:
                known = mend if error.errno in (errno.ENOENT, errno.EINVAL, errno.EADDRNOTAVAIL) else ""
                raise refusal(program, "", how, error, mend=known) from error
        return Attachment(program.name, "the kernel", how, facts, stack.pop_all())


def _on_event(program: Attachable, event: Event, cpu: int, stack: ExitStack) -> dict[str, Any]:
    descriptor = event.open(cpu=cpu)
    stack.callback(os.close, descriptor)
    try:
        link = make_link(program, descriptor, PERF_EVENT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        perf_event.set_program(descriptor, program.fd)  # before Linux 5.15
        perf_event.enable(descriptor)
        return {}
    stack.push(link.undo.pop_all())
    perf_event.enable(descriptor)
    return link.facts
