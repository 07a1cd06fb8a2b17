"""Frames compared field by field: whatever differs fails, and is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import Topology, expect
from lab.errors import TrafficError
from lab.model.journal import journal
from lab.traffic import frames
from lab.traffic.codec import codec, dissect
from lab.traffic.expect import differences

PAIR = Topology.pair("client", "server")


def udp(**options: object) -> bytes:
    return bytes(frames.udp(PAIR, "client", "server", **{"dst_port": 80, "payload": b"whole frame", **options}))


@given(st.integers(0, len(udp()) - 1), st.integers(1, 255))
def test_any_changed_byte_is_a_difference(place: int, change: int) -> None:
    """Wherever a byte differs, the frames do: no field is left out, and none forgiven."""
    frame = bytearray(udp())
    frame[place] ^= change
    assert differences(udp(), bytes(frame))
    with pytest.raises(AssertionError):
        expect(bytes(frame)).equals(udp())


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_bytes_that_are_no_packet_compare_too(one: bytes, other: bytes) -> None:
    """Runts and rubbish: equal exactly when their bytes are."""
    assert (differences(one, other) == []) == (one == other)


def test_a_tag_too_many_is_just_that() -> None:
    """Layers are compared with their like: an extra tag does not make every later field differ."""
    found = differences(udp(), udp(vlans=(5,)))
    assert [each.partition(":")[0] for each in found] == ["Ether.type", "Dot1Q"]
    assert "expected nothing, got prio=0 dei=0 vlan=5 type=IPv4" in found[1]


def test_the_second_tag_has_its_own_name() -> None:
    """Of two like tags the inner is Dot1Q2; an outer one of 802.1ad has another name anyway."""
    scapy = codec()
    one, other = (bytes(scapy.Ether() / scapy.Dot1Q(vlan=5) / scapy.Dot1Q(vlan=inner) / b"x") for inner in (6, 7))
    assert differences(one, other) == ["Dot1Q2.vlan: expected 6, got 7"]
    assert differences(udp(vlans=(5, 6)), udp(vlans=(4, 6))) == ["Dot1AD.vlan: expected 5, got 4"]


def test_padding_is_a_difference() -> None:
    """Bytes behind the packet count, and are shown."""
    assert differences(udp(), udp() + b"\0\0") == ["Padding: expected nothing, got load=0000"]


def test_the_same_meaning_in_other_bytes_is_a_difference() -> None:
    """Two spellings of one list of options are not one frame."""
    scapy = codec()
    header = frames.ether(PAIR, "client", "server")
    one = bytes(header / scapy.IP(options=[scapy.IPOption(b"\x01"), scapy.IPOption(b"\x01\x01\x01")]))
    assert differences(one, one.replace(b"\x01\x01\x01\x01", b"\x01\x01\x01\x00"))


def test_an_ignored_field_hides_no_other() -> None:
    """What is ignored may differ; what else differs is shown alone; what no frame has is an error."""
    one, other = udp(id=1), udp(id=2, ttl=63)
    assert differences(one, other, ignore=("IP.id", "IP.chksum")) == ["IP.ttl: expected 64, got 63"]
    with pytest.raises(TrafficError, match=r"ignore IP.identification: the frames have no such field"):
        differences(one, other, ignore=("IP.identification",))


def test_contains_takes_each_frame_once() -> None:
    """Two of a kind expected need two that came; others beside them, in any order, are no matter."""
    a, b, c = udp(dst_port=1), udp(dst_port=2), udp(dst_port=3)
    expect([c, b, a, a]).contains([a, a, b])
    with pytest.raises(AssertionError, match="missing"):
        expect([c, b, a]).contains([a, a])
    with pytest.raises(AssertionError, match=r"UDP\.dport: expected 1, got 2"):
        expect([b]).contains(a)


def test_a_failure_says_which_frame_and_is_evidence() -> None:
    """The message names place, layer, field and both values; the report keeps it."""
    with journal() as kept, pytest.raises(AssertionError) as failure:
        expect([udp(), udp(dst_port=81)]).equals([udp(), udp()])
    assert "frame 1: UDP.dport: expected 80, got 81" in str(failure.value)
    assert "frame 0" not in str(failure.value)
    (note,) = kept.of("evidence")
    assert "UDP.dport: expected 80, got 81" in note["text"]


def test_a_runt_is_dissected_as_bytes() -> None:
    """A frame shorter than an Ethernet header is no error of the lab's."""
    assert bytes(dissect(b"\x01\x02")) == b"\x01\x02"
    assert bytes(dissect(b"")) == b""


def test_ports_are_numbers() -> None:
    """/etc/services has no say in what a test prints."""
    assert "UDP.dport: expected 80, got 443" in differences(udp(dst_port=80), udp(dst_port=443))
