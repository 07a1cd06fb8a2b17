"""The headers that programs share, against scapy and against a reader of frames in plain Python."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from lab.bpf import load

SOURCES = Path(__file__).parent.parent / "bpf"

OK, NOT_IP, MALFORMED, TOO_DEEP = "LAB_OK", "LAB_NOT_IP", "LAB_MALFORMED", "LAB_TOO_DEEP"
VLAN, IPV4, IPV6 = (0x8100, 0x88A8), 0x0800, 0x86DD
FRAGMENT, AH = 44, 51
EXTENSIONS = (0, 43, FRAGMENT, AH, 60, 135)
WITH_PORTS = (6, 17, 132)

# Slow is not sick: the machine may be busy.
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def parser() -> Iterator[Any]:
    with load(SOURCES / "parse_header.bpf.c") as program:
        yield program


@pytest.fixture(scope="module")
def calculator() -> Iterator[Any]:
    with load(SOURCES / "checksum_header.bpf.c") as program:
        yield program


def parsed(program: Any, frame: bytes) -> dict[str, Any]:
    """What the header found; of a frame that is not whole, its form and tags alone."""
    program.run(frame)
    found = program.globals["parsed"]
    if found.form.name != OK:
        return {"form": found.form.name}
    names = ("vlans", "vlan_tci", "family", "network_at", "transport_at", "transport_bytes", "protocol")
    return {
        "form": OK,
        "ports_form": found.ports_form.name,
        **{name: getattr(found, name) for name in (*names, "fragment", "later_fragment", "sport", "dport")},
    }


# ---- A reader of frames in plain Python, from the RFCs ----


class Bad(Exception):
    """The frame's form, where it is not LAB_OK."""


def read(frame: bytes) -> dict[str, Any]:
    """The same as `parsed`, without the header."""
    try:
        return {"form": OK, **_read(frame)}
    except Bad as bad:
        return {"form": bad.args[0]}


def unpack(form: str, frame: bytes, at: int) -> tuple[int, ...]:
    if at + struct.calcsize(form) > len(frame):
        raise Bad(MALFORMED)
    return struct.unpack_from(form, frame, at)


def _read(frame: bytes) -> dict[str, Any]:
    at, tags = 14, []
    (kind,) = unpack(">H", frame, 12)
    while kind in VLAN and len(tags) < 2:
        tci, kind = unpack(">HH", frame, at)
        tags.append(tci)
        at += 4
    if kind not in (IPV4, IPV6):
        raise Bad(NOT_IP)
    facts = (read_ip4 if kind == IPV4 else read_ip6)(frame, at)
    found = {"vlans": len(tags), "vlan_tci": tags[0] if tags else 0, "family": kind, "network_at": at, **facts}
    return {**found, **read_ports(frame, found)}


def read_ip4(frame: bytes, at: int) -> dict[str, Any]:
    """RFC 791, 3.1."""
    first, _, total, _, flags, _, protocol, _, _, _ = unpack(">BBHHHBBHII", frame, at)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or total < header or at + max(total, header) > len(frame):
        raise Bad(MALFORMED)
    return {
        "transport_at": at + header,
        "transport_bytes": total - header,
        "protocol": protocol,
        "fragment": int(bool(flags & 0x3FFF)),
        "later_fragment": int(bool(flags & 0x1FFF)),
    }


def read_ip6(frame: bytes, at: int) -> dict[str, Any]:
    """RFC 8200, 3 and 4."""
    first, payload, protocol, _, _, _, _, _ = unpack(">IHBBQQQQ", frame, at)
    start, end = at + 40, at + 40 + payload
    if first >> 28 != 6 or end > len(frame):
        raise Bad(MALFORMED)
    fragment = later = 0
    here = start
    for _ in range(7):
        if protocol not in EXTENSIONS or later:
            break
        following, length = unpack(">BB", frame, here)
        if protocol == FRAGMENT:
            _, offset, _ = unpack(">HHI", frame, here)
            fragment |= offset & 0xFFF9 != 0
            later |= offset & 0xFFF8 != 0
            here += 8
        else:
            here += (length + 2) * 4 if protocol == AH else (length + 1) * 8
        protocol = following
    else:
        raise Bad(TOO_DEEP)
    if here > end:
        raise Bad(MALFORMED)
    return {
        "transport_at": here,
        "transport_bytes": end - here,
        "protocol": protocol,
        "fragment": int(fragment),
        "later_fragment": int(later),
    }


def read_ports(frame: bytes, found: dict[str, Any]) -> dict[str, Any]:
    if found["later_fragment"] or found["protocol"] not in WITH_PORTS:
        return {"ports_form": OK, "sport": 0, "dport": 0}
    if found["transport_bytes"] < 4:
        return {"ports_form": MALFORMED, "sport": 0, "dport": 0}
    sport, dport = unpack(">HH", frame, found["transport_at"])
    return {"ports_form": OK, "sport": sport, "dport": dport}


# ---- Frames: stacks of layers by scapy ----

ports = st.integers(0, 65535)
tags = st.lists(
    st.builds(lambda kind, tci: kind(prio=tci >> 13, vlan=tci & 4095), st.sampled_from((Dot1Q, Dot1AD)), ports),
    max_size=3,
)
extension = st.one_of(
    st.builds(lambda count: IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(count))]), st.integers(0, 40)),
    st.builds(lambda count: IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(count))]), st.integers(0, 250)),
    st.builds(lambda count: IPv6ExtHdrRouting(addresses=["2001:db8::1"] * count), st.integers(0, 3)),
)
fragmented = st.sampled_from(((0, 0), (0, 0), (0, 1), (1, 0), (185, 1), (8190, 0)))
transports = st.one_of(
    st.builds(lambda sport, dport: TCP(sport=sport, dport=dport), ports, ports),
    st.builds(lambda sport, dport: UDP(sport=sport, dport=dport), ports, ports),
    st.builds(lambda sport, dport: SCTP(sport=sport, dport=dport), ports, ports),
    st.just(Raw(b"neither")),
)


@st.composite
def stacks(draw: Any) -> Any:
    """Ethernet, tags, IPv4 with options or IPv6 with extension headers, a transport header, payload, padding."""
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for tag in draw(tags):
        frame /= tag
    offset, more = draw(fragmented)
    if draw(st.booleans()):
        options = [IPOption(b"\x01")] * draw(st.integers(0, 40))
        frame /= IP(src="10.0.0.1", dst="10.0.0.2", options=options, frag=offset, flags=more)
    else:
        frame /= IPv6(src="2001:db8::1", dst="2001:db8::2")
        for header in draw(st.lists(extension, max_size=8)):
            frame /= header
        if (offset, more) != (0, 0) or draw(st.booleans()):
            frame /= IPv6ExtHdrFragment(offset=offset, m=more, id=7)
    return bytes(frame / draw(transports) / Raw(draw(st.binary(max_size=40)))) + bytes(draw(st.integers(0, 20)))


def by_scapy(frame: bytes) -> dict[str, Any]:
    """What scapy's own dissection says: its layers, their lengths and their fields."""
    layers, whole = [], Ether(frame)
    layer = whole
    while layer:
        layers.append(layer)
        layer = layer.payload
    seen_tags = [each for each in layers if isinstance(each, Dot1Q | Dot1AD)]
    network = next((each for each in layers if isinstance(each, IP | IPv6)), None)
    headers = [each for each in layers if type(each).__name__.startswith("IPv6ExtHdr")]
    if network is None or len(seen_tags) > 2:
        return {"form": NOT_IP}
    if len(headers) > 6:
        return {"form": TOO_DEEP}
    last = headers[-1] if headers else network
    at = 14 + 4 * len(seen_tags)
    own = sum(len(each) - len(each.payload) for each in (network, *headers))
    protocol = last.proto if isinstance(last, IP) else last.nh
    return {
        "form": OK,
        "vlans": len(seen_tags),
        "vlan_tci": seen_tags[0].prio << 13 | seen_tags[0].vlan if seen_tags else 0,
        "family": IPV4 if isinstance(network, IP) else IPV6,
        "network_at": at,
        "transport_at": at + own,
        "protocol": protocol,
        **scapy_ports(network, headers, protocol),
    }


def scapy_ports(network: Any, headers: list[Any], protocol: int) -> dict[str, Any]:
    parts = [(each.offset, each.m) for each in headers if isinstance(each, IPv6ExtHdrFragment)]
    if isinstance(network, IP):
        parts = [(network.frag, int(bool(network.flags.MF)))]
    later = any(offset for offset, _ in parts)
    found = {"fragment": int(any(offset or more for offset, more in parts)), "later_fragment": int(later)}
    inner = next((network.getlayer(kind) for kind in (TCP, UDP, SCTP) if network.haslayer(kind)), None)
    if later or inner is None:
        return {**found, "sport": 0, "dport": 0}
    return {**found, "sport": inner.sport, "dport": inner.dport}


@many
@given(stacks())
def test_whole_frames_are_parsed_as_scapy_does(parser, frame):
    """Form, tags, family, offsets, protocol, fragments and ports of any stack are those of scapy's dissection."""
    expected = by_scapy(frame)
    found = parsed(parser, frame)
    assert {name: found.get(name) for name in expected} == expected


@many
@given(stacks())
def test_whole_frames_are_parsed_as_the_rfcs_say(parser, frame):
    """The same by the reader in plain Python, the length of what is behind the last header included."""
    assert parsed(parser, frame) == read(frame)


@many
@given(stacks(), st.data())
def test_a_frame_cut_anywhere_is_malformed(parser, frame, data):
    """Unless nothing but padding went: never a header or a port from beyond the end."""
    short = frame[: data.draw(st.integers(14, len(frame)))]
    found = parsed(parser, short)
    assert found == read(short)
    whole = read(frame)
    if whole["form"] == OK and len(short) < whole["transport_at"] + whole["transport_bytes"]:
        assert found["form"] == MALFORMED


TELLING = (0, 1, 2, 4, 6, 8, 17, 43, 44, 51, 58, 60, 64, 0x44, 0x45, 0x46, 0x4F, 0x60, 0x81, 132, 135, 255)
changes = st.lists(
    st.tuples(st.integers(12, 100), st.sampled_from(TELLING) | st.integers(0, 255)), min_size=1, max_size=4
)


@many
@given(stacks(), changes)
def test_a_frame_with_any_bytes_changed_is_read_alike(parser, frame, changes):
    """Lengths that lie, versions that do not fit, headers that lead nowhere: the reader in plain Python agrees."""
    raw = bytearray(frame)
    for at, value in changes:
        raw[at % len(raw)] = value
    assert parsed(parser, bytes(raw)) == read(bytes(raw))


@many
@given(st.binary(min_size=14, max_size=200), st.sampled_from((IPV4, IPV6, *VLAN, 0x0806)))
def test_noise_is_read_alike(parser, noise, kind):
    """Random bytes behind a type that means something."""
    frame = noise[:12] + struct.pack(">H", kind) + noise[14:]
    assert parsed(parser, frame) == read(frame)


TRANSPORT = struct.pack(">HHHH", 1234, 80, 8, 0)


def frame4(header_words: int, total: int, protocol: int, tail: bytes) -> bytes:
    header = struct.pack(">BBHHHBBHII", 0x40 | header_words, 0, total, 7, 0, 64, protocol, 0, 1, 2)
    return bytes(12) + b"\x08\x00" + header + tail


def frame6(payload: int, following: int, tail: bytes) -> bytes:
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, payload, following, 64) + bytes(32) + tail


@pytest.mark.parametrize("protocol", (17, 6, 132, 1))
def test_every_ipv4_length(parser, protocol):
    """Each header length with each total length from 0 to beyond the frame, and each number of bytes behind it."""
    for words in range(16):
        for total in range(72):
            for tail in (b"", TRANSPORT[:3], TRANSPORT[:4], TRANSPORT, TRANSPORT * 5):
                frame = frame4(words, total, protocol, tail)
                assert parsed(parser, frame) == read(frame), f"header of {words} words, total length {total}, {frame!r}"


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_every_ipv6_length(parser, kind):
    """Each extension header with each length, in a packet of each payload length, and cut after each byte."""
    for units in (0, 1, 2, 3, 4, 7, 255):
        octets = {FRAGMENT: 8, AH: (units + 2) * 4}.get(kind, (units + 1) * 8)
        header = bytes((17, units if kind != FRAGMENT else 0)).ljust(octets, b"\0")
        body = (header + TRANSPORT)[:64]
        for payload in range(68):
            frame = frame6(payload, kind, body)
            assert parsed(parser, frame) == read(frame), f"{units} units, payload of {payload}"
        for kept in range(len(body)):
            frame = frame6(kept, kind, body[:kept])
            assert parsed(parser, frame) == read(frame), f"{units} units, cut after {kept}"


def test_every_fragment_offset_and_flag(parser):
    """Values of the IPv4 and the IPv6 field around every bit: who is a fragment, and who has no ports."""
    values = sorted({(1 << bit) + near & 0xFFFF for bit in range(17) for near in (-1, 0, 1, 7, 8)})
    for value in values:
        four = bytearray(frame4(5, 28, 17, TRANSPORT))
        four[20:22] = value.to_bytes(2, "big")
        six = frame6(16, FRAGMENT, struct.pack(">BBHI", 17, 0, value, 9) + TRANSPORT)
        for frame in (bytes(four), six):
            assert parsed(parser, frame) == read(frame), f"{value:#06x}"


def test_chains_of_every_kind_of_extension_header(parser):
    """Two different ones in each order lead to the ports behind them; AH counts by fours, the others by eights."""
    for first in EXTENSIONS:
        for second in EXTENSIONS:
            parts = [
                bytes((following, 1 if kind != FRAGMENT else 0)).ljust({FRAGMENT: 8, AH: 12}.get(kind, 16), b"\0")
                for kind, following in ((first, second), (second, 17))
            ]
            body = b"".join(parts) + TRANSPORT
            found = parsed(parser, frame6(len(body), first, body))
            assert (found["form"], found["protocol"], found["dport"]) == (OK, 17, 80), f"{first}, {second}"


def test_the_longest_extension_header_is_followed(parser):
    """One of 2,048 bytes, as long as there can be, and five more still lead to the ports."""
    units = (255, 0, 30, 0, 30, 0)
    following = (60, 60, 60, 60, 60, 17)
    chain = b"".join(
        bytes((kind, length)).ljust((length + 1) * 8, b"\0") for kind, length in zip(following, units, strict=True)
    )
    body = chain + struct.pack(">HHHH", 1234, 80, 8, 0)
    frame = bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(body), 60, 64) + bytes(32) + body
    found = parsed(parser, frame)
    assert found == read(frame)
    assert (found["transport_at"], found["dport"]) == (54 + len(chain), 80)


# ---- Checksums ----

QUESTION = struct.Struct("=2s2s2s2x4s4s16s16s")
words16, words32, words128 = (st.binary(min_size=size, max_size=size) for size in (2, 4, 16))


def fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """RFC 1071: the complement of the one's complement sum."""
    return ~fold(sum(struct.unpack(f">{len(data) // 2}H", data))) & 0xFFFF


def ask(program: Any, old: int, change16: Any, change32: Any, change128: Any) -> SimpleNamespace:
    """Every answer of the calculator, in host order."""
    question = QUESTION.pack(old.to_bytes(2, "big"), *change16, *change32, *change128)
    answers = program.run(question + bytes(16)).frame[len(question) :]
    names = ("after16", "after32", "after128", "after_all", "udp16", "udp_all")
    return SimpleNamespace(
        **dict(zip(names, struct.unpack(">6H", answers[:12]), strict=True)),
        folded=int.from_bytes(answers[12:14], "little"),
    )


@many
@given(st.data(), words16, words32, words128)
def test_an_updated_checksum_is_the_one_computed_afresh(calculator, data, to16, to32, to128):
    """A word of 16, 32 or 128 bits is replaced, or all three: RFC 1624 gives what RFC 1071 gives for the new bytes."""
    rest = b"".join(data.draw(st.lists(words16, max_size=10)))
    from16, from32, from128 = data.draw(words16), data.draw(words32), data.draw(words128)
    # 1 keeps the bytes from being all zero: there 0 and 0xffff both stand for nothing (RFC 1624, section 3).
    rest += b"\0\1"
    before = checksum(from16 + from32 + from128 + rest)
    answers = ask(calculator, before, (from16, to16), (from32, to32), (from128, to128))
    assert answers.after16 == checksum(to16 + from32 + from128 + rest)
    assert answers.after32 == checksum(from16 + to32 + from128 + rest)
    assert answers.after128 == checksum(from16 + from32 + to128 + rest)
    assert answers.after_all == checksum(to16 + to32 + to128 + rest)


@many
@given(st.integers(0, 65535), words16, words16, words32, words32)
def test_a_udp_checksum_is_none_or_never_zero(calculator, old, from16, to16, from32, to32):
    """0 means none and stays (RFC 768); any other becomes what RFC 1624 gives, with all ones in the place of 0."""
    same = bytes(16)
    answers = ask(calculator, old, (from16, to16), (from32, to32), (same, same))
    assert answers.udp16 == (0 if old == 0 else answers.after16 or 0xFFFF)
    assert answers.udp_all == (0 if old == 0 else answers.after_all or 0xFFFF)


def test_rfc_1624_own_example(calculator):
    """Section 4: checksum 0xdd2f, a field from 0x5555 to 0x3285, gives 0x0000 and not 0xffff."""
    same4, same16 = bytes(4), bytes(16)
    answers = ask(calculator, 0xDD2F, (b"\x55\x55", b"\x32\x85"), (same4, same4), (same16, same16))
    assert (answers.after16, answers.udp16) == (0x0000, 0xFFFF)


@many
@given(st.integers(0, (1 << 64) - 1) | st.sampled_from((0xFFFF, 0x10000, 0xFFFFFFFF, (1 << 64) - 1)))
def test_a_sum_of_64_bits_is_folded_whole(calculator, total):
    """No carry is lost, whatever the sum."""
    raw = total.to_bytes(8, "little")
    answers = ask(calculator, 0, (bytes(2),) * 2, (bytes(4),) * 2, (raw + bytes(8), bytes(16)))
    assert answers.folded == fold(total)
