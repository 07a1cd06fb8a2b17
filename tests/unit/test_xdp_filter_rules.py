"""The rules of xdp_filter as they are written, read and ordered, before any kernel sees them."""

from __future__ import annotations

import socket
from ipaddress import ip_interface, ip_network
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lab.bpf.companion import companion

rules = companion("xdp_filter")
allow, deny = rules.allow, rules.deny

WIDTH = {4: 32, 6: 128}


@st.composite
def interfaces(draw: Any) -> Any:
    """An address with a prefix length, of either family; most have bits set behind the prefix."""
    ip = draw(st.sampled_from((4, 6)))
    return ip_interface((draw(st.integers(1 << 32 if ip == 6 else 0, (1 << WIDTH[ip]) - 1)), draw_length(draw, ip)))


def draw_length(draw: Any, ip: int) -> int:
    return int(draw(st.integers(0, WIDTH[ip])))


# ---- Prefixes ----


@given(interfaces())
def test_a_prefix_is_what_ipaddress_makes_of_it(interface):
    """Family, number and length are those of ip_network, from its text and from the object, and are written back."""
    network = interface.network
    made = rules.Prefix.of(network)
    assert made == rules.Prefix.of(str(network)) == (network.version, int(network.network_address), network.prefixlen)
    assert ip_network(str(made)) == network


@given(interfaces())
def test_a_prefix_with_bits_behind_it_is_refused(interface):
    """10.0.0.1/8 may mean 10.0.0.0/8 or 10.0.0.1: it is not guessed which."""
    assume(interface.ip != interface.network.network_address)
    with pytest.raises(ValueError, match="bits set behind its prefix"):
        rules.Prefix.of(str(interface))


@given(interfaces())
def test_an_address_alone_is_a_prefix_of_all_its_bits(interface):
    """32 bits for IPv4 and 128 for IPv6, from text and from an object."""
    made = rules.Prefix.of(interface.ip)
    assert made == rules.Prefix.of(str(interface.ip))
    assert (made.number, made.length) == (int(interface.ip), WIDTH[interface.version])


NO_PREFIX = """
    /8 10.0.0.0/ 10.0.0.0/x 10.0.0.0/-1 10.0.0.0/33 10.0.0 010.0.0.1 10.0.0.0/8/8 10.0.0.0/255.0.0.0
    ::: ::/129 2001:db8::/255.0.0.0 fe80::1%eth0 localhost
"""


@pytest.mark.parametrize("text", ("", *NO_PREFIX.split()))
def test_what_is_no_prefix_is_refused(text):
    """With the text at its head, so that one of 100,000 is found."""
    with pytest.raises(ValueError) as caught:
        rules.Prefix.of(text)
    assert str(caught.value).startswith(f"{text}: ")


# ---- What a rule names ----


def test_protocols_have_the_numbers_of_the_system():
    """Each name that the kernel's headers know has their number."""
    known = {name: getattr(socket, f"IPPROTO_{name.upper()}", None) for name in rules.PROTOCOLS}
    assert {name for name, number in known.items() if number is None} <= {"ipip"}
    assert {name: number for name, number in known.items() if number} == {
        name: number for name, number in rules.PROTOCOLS.items() if known[name]
    }


def test_one_rule_however_it_is_written():
    """Names or numbers, text or tuples: equal rules, which therefore share a counter."""
    written = [
        deny("10.0.0.1", protocol="tcp", ports=80),
        deny("10.0.0.1/32", protocol="TCP", ports="80"),
        deny(ip_network("10.0.0.1/32"), protocol=6, ports="80-80"),
        deny("10.0.0.1", protocol=6, ports=(80, 80)),
    ]
    assert len(set(written)) == 1
    assert len({*written, allow("10.0.0.1", protocol=6, ports=80), deny("10.0.0.1", protocol=6, source_ports=80)}) == 3


@pytest.mark.parametrize(
    ("rule", "words"),
    (
        (deny(), "deny"),
        (allow("10.0.0.0/8"), "allow from 10.0.0.0/8"),
        (allow(None, "2001:db8::1"), "allow to 2001:db8::1/128"),
        (deny(ports=80), "deny to any port 80"),
        (deny(ports="80-81", source_ports=53, protocol="udp"), "deny udp from any port 53 to any ports 80-81"),
        (deny("10.0.0.1", "10.0.0.2", protocol=99, priority=-1), "deny protocol 99 from 10.0.0.1/32 to 10.0.0.2/32"),
    ),
)
def test_a_rule_reads_as_a_sentence(rule, words):
    """It names what the rule names, and a priority that is not 0."""
    assert str(rule) == words + (f" (priority {rule.priority})" if rule.priority else "")


@pytest.mark.parametrize("ports", (-1, 65536, "", "-", "1-", "-1", "80,81", (), (1, 2, 3), (2, 1), ("a", "b"), 1.5))
def test_what_are_no_ports_is_refused(ports):
    """0 to 65535, the first not above the last, and no third."""
    with pytest.raises(ValueError, match=r"^ports "):
        deny(ports=ports)


@pytest.mark.parametrize("protocol", (-1, 256, "", "6", "quic"))
def test_what_is_no_protocol_is_refused(protocol):
    """An unknown name, or a number that has no place in the header."""
    with pytest.raises(ValueError, match=r"^protocol "):
        deny(protocol=protocol)


# ---- Which rule is the stronger ----

WEAKEST_FIRST = (
    deny(protocol=99, priority=-1),
    deny(),
    deny(protocol="udp"),
    deny(source_ports="1-2"),
    deny(source_ports=1),
    deny(ports="0-65535"),
    deny(ports="1-2"),
    deny(ports="1-2", protocol="udp"),
    deny(ports="1-2", source_ports=9),
    deny(ports=1),
    deny(None, "0.0.0.0/0"),
    deny(None, "10.0.0.0/8"),
    deny(None, "10.0.0.1", ports=1),
    deny("0.0.0.0/0"),
    deny("10.0.0.0/8"),
    deny("10.0.0.0/8", ports=1),
    deny("10.0.0.0/8", "10.0.0.0/8"),
    deny("10.0.0.1"),
    deny(protocol=98, priority=1),
)


def test_the_order_of_strength_is_the_documented_one():
    """Priority, source, destination, its ports, source ports, a protocol: each step is strictly stronger."""
    for weaker, stronger in pairwise(WEAKEST_FIRST):
        assert weaker.strength < stronger.strength, f"{weaker} before {stronger}"


@given(st.permutations(WEAKEST_FIRST))
def test_the_order_in_the_list_is_of_no_matter_to_rules_of_unlike_strength(listed):
    """Any permutation is ranked alike."""
    assert rules.ranked(listed) == list(WEAKEST_FIRST)


def test_of_equally_strong_rules_the_first_listed_is_the_strongest():
    """It is ranked last, in whichever order the three are given."""
    alike = (deny(ports="1-10"), allow(ports="5-14"), deny(ports="8-17"))
    for listed in permutations(alike):
        assert rules.ranked(listed) == list(reversed(listed))


@given(interfaces(), st.booleans())
def test_two_rules_for_the_very_same_packets_are_refused(interface, as_source):
    """Whatever they say and whatever their priority: one of them would never decide."""
    prefix = (str(interface.network), None) if as_source else (None, str(interface.network))
    with pytest.raises(ValueError, match="same packets"):
        rules.ranked([deny(*prefix), deny(ports=1), allow(*prefix, priority=5)])


# ---- Room ----


def test_room_is_for_these_rules_and_as_many_others():
    """Each rule has two entries and two counters at least, and no map gets fewer than it has without being told."""
    least = rules.room([])
    many = rules.room([deny(f"10.{high}.{low}.0/24") for high in range(20) for low in range(100)])
    assert all(many[name] >= least[name] > 0 for name in least)
    assert many["rules"] >= 2 * 2000
    assert many["counts"] >= rules.FIRST_COUNTER + 2 * 2000


def test_room_of_rules_that_contradict_each_other_is_refused():
    """As a change of rules to them would be."""
    with pytest.raises(ValueError, match="same packets"):
        rules.room([deny(ports=1), allow(ports=1)])


def test_room_that_no_map_has_is_refused_before_memory_is_taken():
    """6,000 prefixes, each with ports of its own on both sides: 144 million cells a prefix."""
    listed = [
        deny(f"10.{place >> 8}.{place & 255}.0/24", ports=place * 5 + 9, source_ports=place * 5 + 9)
        for place in range(6000)
    ]
    with pytest.raises(ValueError, match="no map cells is large enough"):
        rules.room(listed)
