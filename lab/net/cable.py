"""A cable between two hosts in a veth's place: the same pair of namespaces, each on its own host. Pure.

>>> Cable.parse("eth1", "ssh:root@alpha/eth2")
Cable(here='eth1', host='root@alpha', there='eth2', node='')
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lab.errors import LabError, TopologyError

if TYPE_CHECKING:
    from lab.net.topology import Topology

FORM = "--physical eth1,ssh:root@alpha/eth2"
_PEER = re.compile(r"ssh:(?P<host>[^-/\s][^/\s]*)/(?P<interface>[^/:\s]{1,15})")
_INTERFACE = re.compile(r"[^/:\s,=]{1,15}")


class OutOfReach(LabError):
    """What was asked for cannot be done with one end of the network on another host."""


@dataclass(frozen=True)
class Cable:
    """The interface of this host that is the end of namespace `node`, and that of another host which is its peer."""

    here: str
    host: str
    """As ssh takes it."""
    there: str
    node: str = ""
    """ "" is the second namespace of the pair: in benchmarks the one with the program under test."""

    @classmethod
    def parse(cls, interface: str, peer: str, node: str = "") -> Cable:
        """From "eth1" and "ssh:root@alpha/eth2"; TopologyError for what does not read so."""
        found = _PEER.fullmatch(peer)
        if not found:
            raise TopologyError(f"physical: peer {peer!r} is no interface of a host", mend='"ssh:root@alpha/eth2"')
        for name in (interface, found["interface"]):
            if not _INTERFACE.fullmatch(name) or name in ("lo", ".", ".."):
                raise TopologyError(f"physical: {name!r} is no interface that a cable goes into", mend='as in "eth1"')
        return cls(interface, found["host"], found["interface"], node)

    @classmethod
    def of_option(cls, text: str) -> Cable:
        """From what `--physical` is given: "eth1,ssh:root@alpha/eth2", or "client=eth1,..."."""
        here, comma, peer = text.partition(",")
        node, equals, interface = here.rpartition("=")
        if not comma or (equals and not node):
            raise TopologyError(f"physical: {text!r} does not name both ends of a cable", mend=FORM)
        return cls.parse(interface, peer, node)

    @property
    def name(self) -> str:
        """For people: "eth1 - root@alpha eth2"."""
        return f"{self.here} - {self.host} {self.there}"


def check_cable(topology: Topology) -> None:
    """TopologyError unless a cable can be in the place of the topology's only veth."""
    cable = topology.cable
    if cable is None:
        return
    if not is_pair(topology):
        raise TopologyError(f"{topology.name}: {_why_no_pair(topology)}, and a cable has two ends", mend=PAIR)
    names = [each.name for each in topology.namespaces]
    if cable.node and cable.node not in names:
        raise TopologyError(f"physical: there is no namespace {cable.node!r}", mend=f"there are {', '.join(names)}")


def is_pair(topology: Topology) -> bool:
    """Two namespaces, and one veth from the one to the other."""
    ends = {end.partition("/")[0] for veth in topology.veths for end in (veth.a, veth.b)}
    more = (*topology.bridges, *topology.vlans, *topology.vxlans)
    return len(topology.namespaces) == 2 and len(topology.veths) == 1 and len(ends) == 2 and not more


PAIR = 'Topology.pair("client", "server")'

_in_force: Cable | None = None


def lay(cable: Cable | None) -> None:
    """From now on every pair that is brought up by this process is on the cable (None: on veths again)."""
    global _in_force
    _in_force = cable


def laid(topology: Topology) -> Topology:
    """The topology as it is to be brought up; OutOfReach when that is by a cable, and it is no pair."""
    if topology.cable is not None or _in_force is None:
        return topology
    if not is_pair(topology):
        raise OutOfReach(f"{topology.name}: {_why_no_pair(topology)}, and the cable of --physical has two ends")
    names = [each.name for each in topology.namespaces]
    if _in_force.node and _in_force.node not in names:
        raise OutOfReach(f"{topology.name}: it has no namespace {_in_force.node!r} for {_in_force.here} to be in")
    return replace(topology, cable=_in_force)


def _why_no_pair(topology: Topology) -> str:
    if len(topology.namespaces) != 2:
        return f"it has {len(topology.namespaces)} namespaces"
    return "its two namespaces are joined by more than one veth, or by none"
