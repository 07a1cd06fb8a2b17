"""bpflab: a test harness and benchmark lab for eBPF network programs on network namespaces.

Everything public is importable from here and loaded when first used, so that `import lab` costs a millisecond.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab import bpf as bpf
    from lab.bpf.attachment import Attachment as Attachment
    from lab.bpf.map import Map as Map
    from lab.bpf.program import Program as Program
    from lab.errors import LabError as LabError
    from lab.kernel.cgroup import Cgroup as Cgroup
    from lab.model.action import Action as Action
    from lab.model.action import Direction as Direction
    from lab.model.action import Mode as Mode
    from lab.model.delivery import Delivery as Delivery
    from lab.model.measurement import Measurement as Measurement
    from lab.net.namespace import Interface as Interface
    from lab.net.namespace import Namespace as Namespace
    from lab.net.topology import NamespaceSpec as NamespaceSpec
    from lab.net.topology import Topology as Topology
    from lab.net.topology import Veth as Veth
    from lab.traffic.expect import expect as expect
    from lab.traffic.network import Network as Network
    from lab.traffic.stream import Stream as Stream
    from lab.wait import wait_until as wait_until

_HOME = {
    "Action": "lab.model.action",
    "Attachment": "lab.bpf.attachment",
    "Cgroup": "lab.kernel.cgroup",
    "Delivery": "lab.model.delivery",
    "Direction": "lab.model.action",
    "Interface": "lab.net.namespace",
    "LabError": "lab.errors",
    "Map": "lab.bpf.map",
    "Measurement": "lab.model.measurement",
    "Mode": "lab.model.action",
    "Namespace": "lab.net.namespace",
    "NamespaceSpec": "lab.net.topology",
    "Network": "lab.traffic.network",
    "Program": "lab.bpf.program",
    "Stream": "lab.traffic.stream",
    "Topology": "lab.net.topology",
    "Veth": "lab.net.topology",
    "expect": "lab.traffic.expect",
    "wait_until": "lab.wait",
}

__all__ = sorted([*_HOME, "bpf"])
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "bpf":
        return import_module("lab.bpf")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'lab' has no attribute {name!r}")
