"""The drawing for a terminal names everything, and its lines lead from interface to interface."""

from __future__ import annotations

import pytest

from lab.net.text_drawing import to_text
from lab.net.topology import Topology
from tests.unit.test_topology_drawing import TOPOLOGIES

PAIR = """\
┌─ client ───────┐     ┌─ server ───────┐
│ eth0           ├─────┤ eth0           │
│   10.0.0.1/24  │     │   10.0.0.2/24  │
└────────────────┘     └────────────────┘
"""


def test_a_pair_is_two_boxes_and_a_line() -> None:
    """The whole of it."""
    assert to_text(Topology.pair("client", "server", ipv6=None)) == PAIR


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_name_and_address_is_there(name: str) -> None:
    """Each namespace, interface, address and loopback address, whatever the shape."""
    topology = TOPOLOGIES[name]
    text = to_text(topology)
    for namespace in topology.namespaces:
        assert f"┌─ {namespace.name} " in text
        assert all(each in text for each in namespace.loopback)
    for interface in topology.interfaces:
        assert all(str(address) in text for address in interface.addresses)


@pytest.mark.parametrize("name", ["pair", "chain", "star", "bridge"])
def test_every_wire_ends_at_two_boxes(name: str) -> None:
    """Between neighbours there are as many ends at boxes' right sides as at left sides: one a veth."""
    topology = TOPOLOGIES[name]
    text = to_text(topology)
    assert text.count("├") == text.count("┤") == len(topology.veths)


def test_a_veth_between_boxes_of_one_column_is_named() -> None:
    """The third side of a triangle stands below the drawing."""
    assert "b/c ── c/b" in to_text(TOPOLOGIES["triangle"])


def test_many_leaves_are_cut_short() -> None:
    """As in the other drawing."""
    assert "and 10 more like these" in to_text(Topology.star("hub", leaves=30))
