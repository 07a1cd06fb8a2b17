"""A pair on two hosts, described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lab import LabError, Topology
from lab.errors import TopologyError
from lab.hosts.host import check
from lab.model.run import Environment
from lab.net import cable
from lab.net.cable import Cable, OutOfReach

PAIR = Topology.pair("client", "server")
ALPHA = "ssh:root@alpha/eth2"
ENVIRONMENT = Environment("6.18.0", "a CPU", 2, 1 << 32, "a" * 40, dirty=False, bpf_jit="on")


@pytest.fixture(autouse=True)
def taken_up_again() -> Iterator[None]:
    """No other test has a cable."""
    yield
    cable.lay(None)


def test_a_physical_topology_is_a_pair_by_another_name() -> None:
    """The same names, addresses, MACs and indexes as on a veth: a frame made for the one fits the other."""
    physical = Topology.physical("eth1", peer=ALPHA)
    assert physical.cable == Cable("eth1", "root@alpha", "eth2")
    assert {each.kind for each in physical.interfaces} == {"physical"}
    assert tuple(replace(each, kind="veth") for each in physical.interfaces) == PAIR.interfaces
    assert replace(physical, cable=None, name="pair") == PAIR


def test_the_option_lays_a_cable_for_every_pair() -> None:
    """And for no other topology; an explicit cable stays."""
    assert cable.laid(PAIR) is PAIR
    cable.lay(Cable.of_option(f"client=eth1,{ALPHA}"))
    assert cable.laid(PAIR).cable == Cable("eth1", "root@alpha", "eth2", "client")
    own = Topology.physical("eth7", peer=ALPHA)
    assert cable.laid(own) is own
    with pytest.raises(OutOfReach, match="star: it has 4 namespaces"):
        cable.laid(Topology.star("hub"))
    with pytest.raises(OutOfReach, match="it has no namespace 'client' for eth1"):
        cable.laid(Topology.pair("a", "b"))


@pytest.mark.parametrize(
    "peer",
    ("alpha/eth2", "ssh:alpha", "ssh:/eth2", "ssh:alpha/", "ssh:-oX=y/eth2", "ssh:al pha/eth2", "ssh:alpha/lo", ""),
)
def test_a_peer_that_does_not_read_is_refused(peer: str) -> None:
    """In one sentence, with an example."""
    with pytest.raises(TopologyError, match=r"^physical: "):
        Topology.physical("eth1", peer=peer)


def test_a_cable_joins_two_namespaces_that_are_there() -> None:
    """Before any system call."""
    with pytest.raises(TopologyError, match="there is no namespace 'dut'"):
        Topology.physical("eth1", peer=ALPHA, here="dut")
    with pytest.raises(TopologyError, match="chain: it has 3 namespaces, and a cable has two ends"):
        replace(Topology.chain("a", "b", "c"), cable=Cable("eth1", "alpha", "eth2"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lacking": ["CAP_NET_ADMIN"]}, "it lacks CAP_NET_ADMIN"),
        ({"commit": "b" * 40}, "is at bbbbbbbbbbbb, here at aaaaaaaaaaaa"),
        ({"dirty": True}, "has changes of its own"),
    ],
)
def test_a_host_that_cannot_take_part_is_named(change: dict[str, object], sentence: str) -> None:
    """Rights, commit, changes."""
    alike = {"lacking": [], "commit": ENVIRONMENT.commit, "dirty": False}
    check("alpha", alike, ENVIRONMENT)
    with pytest.raises(LabError, match=f"host alpha: .*{sentence}"):
        check("alpha", {**alike, **change}, ENVIRONMENT)
