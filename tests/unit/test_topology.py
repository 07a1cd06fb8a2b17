"""A Topology is pure: it numbers, routes and refuses without a system call."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import FrozenInstanceError
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import TopologyError
from lab.net.topology import Bridge, NamespaceSpec, Route, Topology, Veth, Vlan, Vxlan

PAIR = [NamespaceSpec("a"), NamespaceSpec("b")]


def addresses(topology: Topology) -> dict[str, tuple[str, str]]:
    return {each.name: (str(each.ipv4), str(each.ipv6)) for each in topology.interfaces}


def routes(topology: Topology, namespace: str) -> set[tuple[str, str]]:
    return {(str(hop.prefix), str(hop.via)) for hop in topology.layout.routes[namespace]}


def test_a_pair_is_one_veth_with_addresses_of_both_families() -> None:
    """client/eth0 is .1 and server/eth0 is .2 of the first prefix."""
    assert addresses(Topology.pair("client", "server")) == {
        "client/eth0": ("10.0.0.1/24", "fd00::1/64"),
        "server/eth0": ("10.0.0.2/24", "fd00::2/64"),
    }


def test_a_chain_routes_through_its_middle() -> None:
    """The ends have a default route each, the middle forwards and needs none."""
    chain = Topology.chain("client", "dut", "server")
    assert addresses(chain) == {
        "client/eth0": ("10.0.0.1/24", "fd00::1/64"),
        "dut/eth0": ("10.0.0.2/24", "fd00::2/64"),
        "dut/eth1": ("10.0.1.1/24", "fd00:0:0:1::1/64"),
        "server/eth0": ("10.0.1.2/24", "fd00:0:0:1::2/64"),
    }
    assert [each.forwarding for each in chain.namespaces] == [False, True, False]
    assert routes(chain, "client") == {("0.0.0.0/0", "10.0.0.2"), ("::/0", "fd00::2")}
    assert routes(chain, "server") == {("0.0.0.0/0", "10.0.1.1"), ("::/0", "fd00:0:0:1::1")}
    assert routes(chain, "dut") == set()


def test_the_middle_of_a_long_chain_knows_both_directions() -> None:
    """In a chain of five, the second has one way to go, and the third goes to either end by way of its neighbours."""
    chain = Topology.chain("a", "b", "c", "d", "e", ipv6=None)
    assert routes(chain, "b") == {("0.0.0.0/0", "10.0.1.2")}
    assert routes(chain, "c") == {("10.0.0.0/24", "10.0.1.1"), ("10.0.3.0/24", "10.0.2.2")}


def test_a_star_is_routed_by_its_hub() -> None:
    """Each leaf has a prefix of its own and goes by way of the hub."""
    star = Topology.star("hub", leaves=("x", "y"))
    assert addresses(star)["hub/eth1"] == ("10.0.1.1/24", "fd00:0:0:1::1/64")
    assert addresses(star)["y/eth0"] == ("10.0.1.2/24", "fd00:0:0:1::2/64")
    assert routes(star, "y") == {("0.0.0.0/0", "10.0.1.1"), ("::/0", "fd00:0:0:1::1")}


def test_a_bridge_is_one_segment() -> None:
    """The bridge has the first address, the leaves those that follow, the ports none, and nobody needs a route."""
    bridge = Topology.bridge("switch", leaves=2, ipv6=None)
    assert addresses(bridge) == {
        "switch/eth0": ("None", "None"),
        "leaf1/eth0": ("10.0.0.2/24", "None"),
        "switch/eth1": ("None", "None"),
        "leaf2/eth0": ("10.0.0.3/24", "None"),
        "switch/br0": ("10.0.0.1/24", "None"),
    }
    assert routes(bridge, "leaf1") == set()
    assert {str(each.address) for each in bridge.layout.neighbours["leaf1/eth0"]} == {"10.0.0.1", "10.0.0.3"}


def test_given_prefixes_and_addresses_are_kept_and_allotted_ones_keep_clear_of_them() -> None:
    """A prefix numbers both ends, two addresses are taken as they are, and the pool avoids both."""
    topology = Topology.of(
        [*PAIR, NamespaceSpec("c")],
        [
            Veth("a/one", "b/one", ipv4="10.0.0.0/29"),
            Veth("b/two", "c/two", ipv4=("10.0.1.9/24", "10.0.1.7/24"), ipv6=None),
            Veth("a/three", "c/three"),
        ],
    )
    ipv4 = {name: each[0] for name, each in addresses(topology).items()}
    assert ipv4 == {
        "a/one": "10.0.0.1/29",
        "b/one": "10.0.0.2/29",
        "b/two": "10.0.1.9/24",
        "c/two": "10.0.1.7/24",
        "a/three": "10.0.2.1/24",
        "c/three": "10.0.2.2/24",
    }
    assert topology.interface("b/two").ipv6 is None


def test_a_pool_may_be_given_or_off() -> None:
    """Other pools are used, and a family that is off gives no address."""
    topology = Topology.pair("a", "b", ipv4=None, ipv6="2001:db8::/32")
    assert addresses(topology)["b/eth0"] == ("None", "2001:db8::2/64")
    with pytest.raises(TopologyError, match="no IPv4 address"):
        topology.address("b", 4)


def test_addresses_are_found_by_interface_and_by_namespace() -> None:
    """A namespace's address is that of its first interface that has one."""
    bridge = Topology.bridge("switch", leaves=2)
    assert bridge.address("switch", 4) == ip_address("10.0.0.1")
    assert bridge.address("leaf2/eth0", 6) == ip_address("fd00::3")
    with pytest.raises(TopologyError, match="no interface or namespace 'leaf9'"):
        bridge.address("leaf9", 4)


def test_every_segment_of_a_crowd_fits_into_the_pool() -> None:
    """500 leaves have 500 prefixes that do not overlap, in a pool of 256 /24."""
    star = Topology.star("hub", leaves=500)
    nets = {each.ipv4.network for each in star.interfaces if each.ipv4}
    assert len(nets) == 500
    assert all(net.subnet_of(ip_network("10.0.0.0/16")) for net in nets)


def test_extending_keeps_the_addresses_that_were_there() -> None:
    """What is added comes behind; a namespace of the same name is replaced."""
    before = Topology.pair("client", "server")
    after = before.extended(
        namespaces=["monitor", NamespaceSpec("server", forwarding=True)], veths=[Veth("server/eth1", "monitor/eth0")]
    )
    assert {name: addresses(after)[name] for name in addresses(before)} == addresses(before)
    assert str(after.address("monitor", 4)) == "10.0.1.2"
    assert routes(after, "client") == {("0.0.0.0/0", "10.0.0.2"), ("::/0", "fd00::2")}
    assert len(before.namespaces) == 2


def test_loopback_addresses_are_routed_to() -> None:
    """A router between routers knows the way to an address on the loopback of either."""
    chain = Topology.chain("a", "b", "c", "d", "e", ipv6=None).extended(
        namespaces=[NamespaceSpec("d", forwarding=True, loopback=("198.51.100.1/32",))]
    )
    assert ("198.51.100.1/32", "10.0.2.2") in routes(chain, "c")


def test_routes_may_be_described() -> None:
    """A described route is kept and keeps the computed one of the same prefix away."""
    topology = Topology.chain("a", "b", "c", ipv6=None).extended(
        namespaces=[NamespaceSpec("a", routes=(Route("default", "10.0.0.9"), Route("10.9.0.0/16", "10.0.0.2")))]
    )
    assert routes(topology, "a") == {("0.0.0.0/0", "10.0.0.9"), ("10.9.0.0/16", "10.0.0.2")}


def test_neighbours_are_static_until_a_segment_is_large() -> None:
    """Up to 33 members know each other; the words "static" and "dynamic" are obeyed at any size."""
    assert Topology.bridge("s", leaves=32).layout.static
    assert not Topology.bridge("s", leaves=33).layout.static
    assert Topology.bridge("s", leaves=40, neighbours="static").layout.static
    assert not Topology.pair("a", "b", neighbours="dynamic").layout.static
    assert Topology.star("s", leaves=300).layout.static


def test_indexes_and_macs_are_the_same_every_time() -> None:
    """Two descriptions alike come to the same indexes and MACs, none of them twice."""
    one, other = (Topology.star("hub", leaves=9) for _ in range(2))
    assert one == other
    assert one.interfaces == other.interfaces
    assert len({each.ifindex for each in one.interfaces} | {1}) == len(one.interfaces) + 1
    assert len({each.mac for each in one.interfaces}) == len(one.interfaces)


def test_a_topology_is_frozen() -> None:
    """Nothing of it can be changed."""
    with pytest.raises(FrozenInstanceError):
        Topology.pair("a", "b").mtu_bytes = 9000  # type: ignore[misc]


def pair(**options: object) -> Topology:
    return Topology.pair("a", "b", **options)


def free(*veths: Veth, **options: object) -> Topology:
    return Topology.of(PAIR, veths, **options)


REFUSED = {
    "two namespaces of one name": (lambda: Topology.pair("a", "a"), "two namespaces are named 'a'"),
    "two ends of one name": (lambda: free(Veth("a/eth0", "a/eth0")), "two interfaces are named 'a/eth0'"),
    "an end of two veths": (lambda: free(Veth("a/x", "b/x"), Veth("a/x", "b/y")), "two interfaces are named 'a/x'"),
    "an unknown namespace": (lambda: free(Veth("a/x", "c/x")), "there is no namespace 'c'"),
    "no namespace at all": (lambda: free(Veth("a/x", "eth0")), "names no namespace"),
    "16 characters": (lambda: free(Veth("a/abcdefghijklmnop", "b/x")), "its name has 16 bytes"),
    "16 bytes in 8 characters": (lambda: free(Veth("a/éééééééé", "b/x")), "its name has 16 bytes"),
    "an empty name": (lambda: free(Veth("a/", "b/x")), "its name has 0 bytes"),
    "a slash": (lambda: free(Veth("a/x/y", "b/x")), "takes no such name"),
    "a space": (lambda: free(Veth("a/x y", "b/x")), "takes no such name"),
    "a colon": (lambda: free(Veth("a/x:y", "b/x")), "takes no such name"),
    "the loopback": (lambda: free(Veth("a/lo", "b/x")), "takes no such name"),
    "a namespace with a slash": (lambda: Topology.pair("a/b", "c"), "namespace name 'a/b'"),
    "no namespace": (lambda: Topology.of([], []), "without a namespace"),
    "MTU 67": (lambda: pair(mtu_bytes=67, ipv6=None), "MTU 67 is out of range"),
    "MTU 65536": (lambda: pair(mtu_bytes=65536), "MTU 65536 is out of range"),
    "MTU of one veth": (lambda: free(Veth("a/x", "b/x", mtu_bytes=0)), "MTU 0 is out of range"),
    "MTU below that of IPv6": (lambda: pair(mtu_bytes=1279), "below IPv6's 1280"),
    "no queue": (lambda: pair(queues=0), "0 queues"),
    "4097 queues": (lambda: pair(queues=4097), "4097 queues"),
    "no leaf": (lambda: Topology.star("hub", leaves=0), "leaves=0"),
    "leaves as one word": (lambda: Topology.star("hub", leaves="abc"), "leaves='abc'"),
    "no leaf of a bridge": (lambda: Topology.bridge("hub", leaves=()), r"leaves=\(\)"),
    "a chain of one": (lambda: Topology.chain("a"), "a chain of 1"),
    "a sysctl of the machine": (lambda: pair(sysctls={"kernel.panic": 1}), "no sysctl of a namespace"),
    "a sysctl that climbs": (lambda: pair(sysctls={"net/../kernel/panic": 1}), "no sysctl of a namespace"),
    "a sysctl of one namespace": (
        lambda: Topology.of([NamespaceSpec("a", sysctls={"ip_forward": 1})], []),
        "namespace a: 'ip_forward'",
    ),
    "an offload that is no bool": (lambda: pair(offloads={"tx": "off"}), "offload 'tx'"),
    "an unknown offload": (lambda: pair(offloads={"warp": True}), "offload 'warp'"),
    "an unknown way of neighbours": (lambda: pair(neighbours="nosy"), "neighbours='nosy'"),
    "overlapping prefixes": (
        lambda: free(Veth("a/x", "b/x", ipv4="10.1.0.0/16"), Veth("a/y", "b/y", ipv4="10.1.2.0/24")),
        r"prefixes overlap: 10.1.0.0/16 and 10.1.2.0/24, of a/x - b/x and a/y - b/y",
    ),
    "the same prefix twice": (
        lambda: free(Veth("a/x", "b/x", ipv6="fd01::/64"), Veth("a/y", "b/y", ipv6="fd01::/64")),
        "prefixes overlap: fd01::/64",
    ),
    "one address twice": (
        lambda: free(Veth("a/x", "b/x", ipv4=("10.1.0.1/24", "10.1.0.1/24"))),
        "address 10.1.0.1 is given twice: to a/x and to b/x",
    ),
    "no address": (lambda: free(Veth("a/x", "b/x", ipv4="10.1.0")), "is no address"),
    "no prefix length": (lambda: free(Veth("a/x", "b/x", ipv4=("10.1.0.1", "10.1.0.2"))), "has no prefix length"),
    "the other family": (lambda: free(Veth("a/x", "b/x", ipv4="fd00:7::/64")), "IPv4 was meant"),
    "one address for two ends": (lambda: free(Veth("a/x", "b/x", ipv4="10.1.0.1/24")), "is one address"),
    "a prefix too small": (lambda: Topology.bridge("s", leaves=9, ipv4="10.0.0.0/29"), "pool 10.0.0.0/29 is too small"),
    "a pool too small": (lambda: Topology.star("s", leaves=9, ipv4="10.0.0.0/27"), "pool 10.0.0.0/27 is too small"),
    "a pool that is none": (lambda: pair(ipv4="ten"), "is no prefix"),
    "a pool of the other family": (lambda: pair(ipv6="10.0.0.0/8"), "IPv6 was meant"),
    "a route to nowhere": (
        lambda: Topology.of([NamespaceSpec("a", routes=(Route("10.9.0.0/16", "10.8.0.1"),))], []),
        "next hop 10.8.0.1 is on no prefix of a",
    ),
    "a port that is none": (lambda: free(bridges=[Bridge("a/br0", ("a/x",))]), "port 'a/x' is no end of a veth"),
    "a port elsewhere": (
        lambda: free(Veth("a/x", "b/x"), bridges=[Bridge("a/br0", ("b/x",))]),
        "port 'b/x' is in another namespace",
    ),
    "a port of two bridges": (
        lambda: free(Veth("a/x", "b/x"), bridges=[Bridge("a/br0", ("a/x",)), Bridge("a/br1", ("a/x",))]),
        "a/x is a port twice",
    ),
    "a VLAN on nothing": (lambda: free(vlans=[Vlan("a/v", "a/x", 1)]), "no interface 'a/x' to sit on"),
    "VLAN 4095": (lambda: free(Veth("a/x", "b/x"), vlans=[Vlan("a/v", "a/x", 4095)]), "VLAN 4095"),
    "one VLAN twice": (
        lambda: free(Veth("a/x", "b/x"), vlans=[Vlan("a/v", "a/x", 7), Vlan("a/w", "a/x", 7)]),
        "VLAN 7 is on a/x twice",
    ),
    "a VNI of 25 bits": (lambda: free(Veth("a/x", "b/x"), vxlans=[Vxlan("a/v", "a/x", "b/x", 1 << 24)]), "VNI"),
    "a VXLAN to nowhere": (lambda: free(Veth("a/x", "b/x"), vxlans=[Vxlan("a/v", "a/x", "b/y", 1)]), "'b/y' to send"),
    "a VXLAN without a common family": (
        lambda: free(Veth("a/x", "b/x", ipv4=None, ipv6=None), vxlans=[Vxlan("a/v", "a/x", "b/x", 1, ipv6=None)]),
        "have no address of one family",
    ),
    "an MTU too small for a VXLAN": (
        lambda: free(Veth("a/x", "b/x"), vxlans=[Vxlan("a/v", "a/x", "b/x", 1)], mtu_bytes=1300),
        "below IPv6's 1280",
    ),
    "a loopback address that an interface has": (
        lambda: pair().extended(namespaces=[NamespaceSpec("a", loopback=("10.0.0.1/32",))]),
        "address 10.0.0.1 is given twice in a",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused(case: str) -> None:
    """Each impossible description raises a TopologyError that names the culprit."""
    make, words = REFUSED[case]
    with pytest.raises(TopologyError, match=words):
        make()


@pytest.mark.parametrize("mtu_bytes", [1280, 9000, 65535])
def test_the_limits_of_the_mtu_are_allowed(mtu_bytes: int) -> None:
    """1280 and 65535 are taken with IPv6, 68 without."""
    assert pair(mtu_bytes=mtu_bytes).interface("a").mtu_bytes == mtu_bytes
    assert pair(mtu_bytes=68, ipv6=None).interface("a").mtu_bytes == 68


@given(st.integers(2, 40), st.integers(16, 24), st.booleans())
def test_whatever_its_size_a_star_is_numbered_without_conflict(leaves: int, length: int, bridged: bool) -> None:
    """In any pool that is large enough, addresses are distinct, and neighbours lie in one prefix that no other has."""
    make = Topology.bridge if bridged else Topology.star
    try:
        topology = make("hub", leaves=leaves, ipv4=f"10.0.0.0/{length}")
    except TopologyError as error:
        assert "too small" in error.what
        assert leaves * 4 > 2 ** (32 - length)
        return
    found = [each.ipv4 for each in topology.interfaces if each.ipv4]
    assert len({each.ip for each in found}) == len(found) == leaves * (1 if bridged else 2) + bridged
    for veth in topology.veths:
        a, b = topology.interface(veth.a).ipv4, topology.interface(veth.b).ipv4
        assert b is not None
        assert a is None if bridged else a is not None and a.network == b.network


def test_describing_makes_no_system_call() -> None:
    """With an audit hook that ends the process at any file, socket or foreign call, topologies can be described."""
    code = (
        "import ctypes, sys\n"
        "import lab.net.topology as t\n"
        "def watch(event, args):\n"
        "    if event.split('.')[0] in ('open', 'socket', 'subprocess', 'ctypes', 'os', 'fcntl'): sys.exit(event)\n"
        "sys.addaudithook(watch)\n"
        "t.Topology.star('hub', leaves=5); t.Topology.bridge('s', leaves=3); t.Topology.chain('a', 'b', 'c')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_description_needs_the_standard_library_alone() -> None:
    """No file of the description imports lab.kernel, or anything from outside the standard library."""
    folder = Path(sys.modules["lab.net.topology"].__file__ or "").parent
    for name in ("topology", "spec", "checks", "layout", "segments", "numbering", "routing", "drawing"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for imported in names:
                top = imported.partition(".")[0]
                assert top in sys.stdlib_module_names or imported.startswith(("lab.net", "lab.errors")), imported


def test_addresses_know_their_prefix() -> None:
    """The description gives addresses with prefix lengths, as ipaddress objects."""
    assert Topology.pair("a", "b").interface("a/eth0").ipv4 == ip_interface("10.0.0.1/24")


def test_offloads_are_those_that_can_be_set() -> None:
    """The names that a description may use are the names that lab.kernel.ethtool knows."""
    from lab.kernel import ethtool
    from lab.net import checks

    assert set(checks.OFFLOADS) == set(ethtool.SHORT_NAMES)
