"""What user space does with monitor_traffic: attaches all its layers, and reads flows, ports, interfaces and events.

with ExitStack() as undo:
    for each in attach_to(program, [net.interface("server/eth0")], group):
        undo.callback(each.detach)
    for flow in flows(program.maps):
        print(flow)         # tcp 10.0.0.1:40000 -> 10.0.0.2:80 ESTABLISHED, 14 packets, 9312 bytes, rtt 41 us

What an entry means stands in monitor_traffic_rows.py, readings and rates in monitor_traffic_sample.py, and the command
in monitor_traffic_command.py, with alerts, history, exporter and screen beside it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lab.bpf.companion import load_module
from lab.bpf.iterate import iterate
from lab.errors import AttachError
from lab.model.action import Mode


def part(name: str) -> Any:
    """The module bpf/monitor_traffic_<name>.py."""
    return load_module(Path(__file__).with_name(f"monitor_traffic_{name}.py"))


rows = part("rows")
command = part("command").command


def flows(maps: Mapping[str, Any]) -> Iterator[Any]:
    """All flows, in no order."""
    for key, entry in maps["flows"].items():
        yield rows.flow_of(key, entry)


def layers(maps: Mapping[str, Any]) -> dict[tuple[int, str], Any]:
    """Packets and bytes (`.packets`, `.bytes`) of each interface (ifindex) at each layer."""
    return part("sample").layers(maps)  # type: ignore[no-any-return]


def untracked(maps: Mapping[str, Any]) -> dict[str, int]:
    """How many packets are in no flow, and why."""
    return {outcome.name: times.total() for outcome, times in maps["outcomes"].items()}


# ---- Attaching ----


def load(bpf: Any, *, flows: int = 65536, **knobs: Any) -> Any:
    """The program.

    Options:
        flows: room in the table of flows; when it is full those unused longest make room
    """
    return bpf.load(Path(__file__).with_suffix(".bpf.c"), max_entries={"flows": flows}, **knobs)


def attach_to(program: Any, interfaces: Sequence[Any], group: Any, *, mode: Mode = Mode.NATIVE) -> Iterator[Any]:
    """XDP, tc ingress and tc egress on each interface, the sockets of the cgroup: yields each Attachment."""
    for each in program.programs.values():
        if each.type == "xdp":
            yield from (each.attach(interface, mode=mode) for interface in interfaces)
        elif each.type == "sched_cls":
            yield from (each.attach(interface) for interface in interfaces)
        elif each.type == "sock_ops":
            yield each.attach(group)


def look(program: Any, group: Any) -> None:
    """Takes the sockets that were there before, of the cgroup and of the calling thread's network namespace."""
    program.globals["looked_at_cgroup"] = os.fstat(group.cgroup_fd).st_ino
    iterate(program.programs["monitor_look"])


def attach(program: Any, place: Any, *, xdp: bool = True) -> Iterator[Any]:
    """All four layers: on every interface of the place, and on its cgroup; sockets that are there are taken too.

    An interface that has an XDP program already keeps it: tc counts instead what comes in.

    Options:
        xdp: without it, tc counts what comes in
    """
    for each in program.programs.values():
        if each.type in ("sched_cls", "sock_ops"):
            yield from place.attach(each)
        elif each.type == "xdp" and xdp:
            yield from _attach_xdp(each, place)
    if place.cgroup:
        look(program, place.cgroup)


def _attach_xdp(program: Any, place: Any) -> Iterator[Any]:
    for interface in place.interfaces:
        try:
            yield from replace(place, interfaces=(interface,)).attach(program)
        except AttachError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.EBUSY, errno.EEXIST):
                raise
            name = rows.clean(interface.name)
            click.echo(
                f"{name} has an XDP program already, and keeps it: tc ingress counts what that lets in", err=True
            )


def summary(program: Any) -> str:
    """What was seen, in a sentence."""
    return part("screen").summary_text(part("sample").Sampler(program.maps).take())  # type: ignore[no-any-return]
