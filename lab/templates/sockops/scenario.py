"""new_program counts the connections of a cgroup."""

from __future__ import annotations

from typing import Any

from lab import Cgroup, Stream, Topology

TOPOLOGY = Topology.pair("client", "server")


def test_both_ends_are_counted(net: Any, bpf: Any) -> None:
    """Client and server are in the cgroup: each connection is opened, accepted, and ends twice."""
    program = bpf.load("new_program")
    with Cgroup() as group, program.attach(group), group.entered():
        net.send(Stream.tcp("client", "server", dst_port=7777, count=4, flows=4))

    program.maps["counts"].eventually().equals({"OPENED": 4, "ACCEPTED": 4, "CLOSED": 8})


def test_outside_of_the_cgroup_nothing_is_counted(net: Any, bpf: Any) -> None:
    """A connection made beside the cgroup is none of its business."""
    program = bpf.load("new_program")
    with Cgroup() as group, program.attach(group):
        net.send(Stream.tcp("client", "server", dst_port=7777, count=1))

    program.maps["counts"].eventually().equals({"OPENED": 0, "ACCEPTED": 0, "CLOSED": 0})
