"""C types as Python values: what clang laid out is what Python reads, and what Python writes is what clang would."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from lab.bpf.build import build
from lab.bpf.layout import Layout
from lab.bpf.layout_of import layout_of, raw_layout
from lab.bpf.object_file import ObjectFile
from lab.errors import MapError

TYPES = Path(__file__).parents[1] / "bpf" / "types.bpf.c"


@pytest.fixture(scope="module")
def samples() -> dict[str, tuple[Layout, bytes]]:
    """The globals of types.bpf.c: their layouts and the bytes that clang made of their initialisers."""
    file = ObjectFile(build(TYPES))
    assert file.btf
    data = file.sections[".data"]
    return {
        name: (layout_of(file.btf, each.type_id), data[each.offset : each.offset + each.size])
        for name, each in file.variables(".data").items()
    }


def decoded(samples: dict[str, tuple[Layout, bytes]], name: str) -> Any:
    layout, raw = samples[name]
    return layout.decode(raw)


EVERYTHING = {
    "u8": 200,
    "s8": -100,
    "u16": 60000,
    "s16": -30000,
    "u32": 4000000000,
    "s32": -2000000000,
    "u64": 18000000000000000000,
    "s64": -9000000000000000000,
    "yes": True,
    "letter": 65,
    "port": 9000,
    "address": 0x0A000001,
    "wide": 1,
    "colour": 5,
    "lean": -2,
    "name": "eth0",
    "mac": bytes.fromhex("020000000001"),
    "primes": (2, 3, 5, 7),
    "point": {"x": -1, "y": 2},
    "corners": ({"x": 1, "y": 2}, {"x": 3, "y": 4}),
    "four": IPv4Address("10.0.0.2"),
    "six": IPv6Address("fd00::1"),
    "sixteen": IPv6Address("fd00::2").packed,
    "huge": (1 << 100) + 7,
    "pointer": 0x1234,
    "half": 0.5,
    "quarter": 0.25,
    "grid": ((1, 2, 3), (4, 5, 6)),
    "many": (1, *[0] * 38, 40),
}


@pytest.mark.parametrize("field", EVERYTHING)
def test_each_c_type_reads_as_its_python_value(samples, field):
    """Signs, widths, wire order, text, addresses, enums, floats, arrays of arrays: as the C source says."""
    assert getattr(decoded(samples, "everything"), field) == EVERYTHING[field]


@pytest.mark.parametrize("name", ["everything", "flags", "mixed", "packed", "awkward", "padded"])
def test_what_was_read_is_written_back_to_the_same_bytes(samples, name):
    """Encoding undoes decoding, for every sample that clang made."""
    layout, raw = samples[name]
    assert layout.encode(layout.decode(raw)) == raw


def test_a_struct_is_written_from_a_dict_a_tuple_or_a_record(samples):
    """All three give the bytes of the C initialiser."""
    layout, raw = samples["everything"]
    assert layout.encode(EVERYTHING) == raw
    assert layout.encode(tuple(EVERYTHING.values())) == raw
    assert layout.encode(layout.decode(raw)) == raw


def test_members_left_out_of_a_dict_are_zero_as_in_c(samples):
    """A dict is a designated initialiser."""
    layout, _ = samples["packed"]
    assert layout.decode(layout.encode({"b": 7})) == (0, 7, 0)


def test_bit_fields_keep_their_width_and_sign(samples):
    """Signed, enum, bool and 40-bit fields, and the ones behind them."""
    flags = decoded(samples, "flags")
    assert flags == {
        "low": 5,
        "middle": 8000,
        "lean": -3,
        "colour": 6,
        "across": 0xABCDEF0123,
        "last": True,
        "whole": 77,
        "high": 9,
    }
    assert flags.colour.name == "BLUE"
    assert flags.last is True


def test_a_bit_field_of_an_enum_takes_a_name(samples):
    """As the enum itself does."""
    layout, _ = samples["flags"]
    assert layout.decode(layout.encode({"colour": "GREEN", "last": True})) == {"colour": 5, "last": 1}


@pytest.mark.parametrize("given", [{"low": 8}, {"lean": 8}, {"lean": -9}, {"across": 1 << 40}, {"high": 16}])
def test_a_bit_field_refuses_what_it_cannot_hold(samples, given):
    """One more than the widest value is an error that names the field, not a cut number."""
    layout, _ = samples["flags"]
    with pytest.raises(MapError, match=next(iter(given))):
        layout.encode(given)


def test_anonymous_members_are_fields_of_their_parent(samples):
    """As in C: mixed.ip4 and mixed.sport, though a union and a struct lie between."""
    mixed = decoded(samples, "mixed")
    assert (mixed.family, mixed.ip4, mixed.sport, mixed.dport) == (2, 0x0A000003, 1000, 2000)
    assert mixed.either.point == (1, -1)
    assert mixed.either.word == 0xFFFF0001


def test_one_shape_of_a_union_is_enough_to_write_it(samples):
    """The C sample, written by naming one member of each union."""
    layout, raw = samples["mixed"]
    given = {"family": 2, "ip4": "10.0.0.3", "sport": 1000, "dport": 2000, "either": {"point": (1, -1)}}
    assert layout.encode(given) == raw
    assert layout.decode(raw) == given


def test_packed_structs_have_no_gaps(samples):
    """A 32-bit field at offset 1."""
    layout, raw = samples["packed"]
    assert (layout.size, decoded(samples, "packed")) == (7, (1, 2, 3))
    assert raw == b"\1\2\0\0\0\3\0"


def test_field_names_that_python_uses_itself_still_work(samples):
    """`count` and `index` are a tuple's methods, `from` and `class` keywords, `_private` starts with an underscore."""
    awkward = decoded(samples, "awkward")
    assert (awkward.count, awkward.index, awkward._private) == (3, 4, 5)
    assert (getattr(awkward, "from"), getattr(awkward, "class")) == (1, 2)


def test_records_are_frozen_and_hashable(samples):
    """They can be keys of a dict, and cannot be changed."""
    point = decoded(samples, "everything").point
    assert {point: 1}[point] == 1
    with pytest.raises(AttributeError):
        point.x = 5
    with pytest.raises(AttributeError, match="has x, y"):
        _ = point.z


def test_a_record_equals_what_would_be_written_as_the_same_bytes(samples):
    """Addresses as text, enums by name and zeros left out compare as they are written."""
    everything = decoded(samples, "everything")
    assert everything.point == {"x": -1, "y": 2}
    assert everything.point == (-1, 2)
    assert everything.point != {"x": -1}
    assert everything.point != {"x": -1, "z": 2}
    assert everything.point != (-1, 2, 3)
    assert everything.point != "x"
    assert decoded(samples, "packed") == {"a": 1, "b": 2, "c": 3}
    assert everything == {**EVERYTHING, "colour": "GREEN", "four": "10.0.0.2", "address": "10.0.0.1"}
    assert everything != {**EVERYTHING, "colour": "RED"}
    layout, _ = samples["packed"]
    assert layout.decode(layout.encode({"b": 7})) == {"b": 7}


def test_arrays_equal_lists_and_tuples(samples):
    """A user writes [2, 3, 5, 7]."""
    everything = decoded(samples, "everything")
    assert everything.primes == [2, 3, 5, 7] == everything.primes
    assert everything.primes == (2, 3, 5, 7)
    assert everything.grid == [[1, 2, 3], [4, 5, 6]]
    assert everything.primes != [2, 3, 5]
    assert {everything.primes: 1}


def test_enums_are_members_and_unknown_numbers_stay_numbers(samples):
    """An IntEnum made from BTF; its names are accepted, others refused with the list."""
    everything, _ = samples["everything"]
    colour = dict(zip((m.name for m, _ in everything.members), (each for _, each in everything.members), strict=True))[
        "colour"
    ]
    assert repr(colour.decode(colour.encode("BLUE"))) == "<colour.BLUE: 6>"
    assert colour.decode(colour.encode(3)) == 3
    with pytest.raises(MapError, match="RED, GREEN, BLUE"):
        colour.encode("PURPLE")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("u8", 256),
        ("u8", -1),
        ("s8", 128),
        ("port", 65536),
        ("u32", 1.5),
        ("u32", "12"),
        ("u32", None),
        ("huge", 1 << 128),
        ("yes", 2),
        ("name", "a name too long"),
        ("mac", b"12345"),
        ("mac", "no mac"),
        ("primes", (1, 2, 3)),
        ("primes", 7),
        ("six", "300.0.0.1"),
        ("address", "fd00::1"),
        ("point", {"z": 1}),
        ("point", (1, 2, 3)),
        ("point", 5),
        ("half", "much"),
        ("colour", "PURPLE"),
        ("nothing", 1),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_the_name_of_its_field(samples, field, value):
    """No number is cut, no text shortened, no type guessed; the error says which field."""
    layout, _ = samples["everything"]
    with pytest.raises(MapError, match=field):
        layout.encode({field: value})


def test_addresses_are_accepted_where_addresses_belong(samples):
    """Text, ipaddress objects, and a MAC address for six bytes; IPv4 in 16 bytes is mapped (RFC 4291, 2.5.5.2)."""
    layout, _ = samples["everything"]

    def written(**fields: Any) -> Any:
        return layout.decode(layout.encode(fields))

    assert written(address="10.0.0.1").address == 0x0A000001
    assert written(address=IPv4Address("10.0.0.1")).address == 0x0A000001
    assert written(sixteen="fd00::2").sixteen == IPv6Address("fd00::2").packed
    assert written(six="10.0.0.1").six == IPv6Address("::ffff:10.0.0.1")
    assert written(four="10.0.0.1").four == IPv4Address("10.0.0.1")
    assert written(mac="02:00:00:00:00:01").mac == bytes.fromhex("020000000001")


def test_many_entries_decode_as_one_by_one(samples):
    """The path by batch gives what the single path gives."""
    for layout, raw in samples.values():
        assert layout.decode_many(raw * 3) == [layout.decode(raw)] * 3
        assert layout.encode_many([layout.decode(raw)] * 3) == raw * 3


def test_a_type_without_btf_is_an_integer_or_bytes():
    """Sizes of 1, 2, 4 and 8 bytes are integers."""
    assert raw_layout(4).decode(b"\1\0\0\0") == 1
    assert raw_layout(3).decode(b"abc") == b"abc"
