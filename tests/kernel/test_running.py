"""lab.bpf.running: the maps of a program that somebody else has loaded."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from lab.bpf.loader import Loader
from lab.bpf.running import instances, running
from lab.errors import LoadError
from lab.kernel import bpf as kernel

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }}
a_map_of_a_long_name SEC(".maps");
struct inner {{ __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }}
first SEC(".maps");
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 1); __type(key, __u32);
	__array(values, struct inner); }} outer SEC(".maps") = {{ .values = {{ &first }} }};
SEC("xdp") int {name}(struct xdp_md *ctx)
{{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&a_map_of_a_long_name, &key);
	void *inner = bpf_map_lookup_elem(&outer, &key);
	return value && inner ? XDP_PASS : XDP_DROP;
}}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A program whose name nobody else uses at the same time."""
    stem = f"found_{abs(hash(tmp_path)) % 10**8}"
    (tmp_path / f"{stem}.bpf.c").write_text(SOURCE.format(name=stem))
    return tmp_path / f"{stem}.bpf.c"


def stem_of(source: Path) -> str:
    return source.name.partition(".")[0]


def test_its_maps_are_those_of_the_loaded_program(source: Path) -> None:
    """What one writes the other reads, by the map's whole name; copies of a load are no second instance."""
    name = stem_of(source)
    with Loader() as bpf:
        program = bpf.load(source)
        copy = program.again()
        with running(name, str(source)) as found:
            found.maps["a_map_of_a_long_name"][0] = 7
            assert found.program_id == kernel.program_id(program.fd)
        assert program.maps["a_map_of_a_long_name"][0] == 7
        copy.close()


def test_an_inner_map_made_elsewhere_is_typed_as_the_first(source: Path) -> None:
    """Linux before 6.4 takes no other: the two differ in what they know of timers."""
    with Loader() as bpf:
        program = bpf.load(source)
        with running(stem_of(source), str(source)) as found:
            made = found.maps["outer"].new_inner()
            made[0] = 5
            found.maps["outer"][0] = made
            assert types_of(made.fd) == types_of(program.maps["first"].fd) != (0, 0)
        assert program.maps["outer"][0][0] == 5


def types_of(map_fd: int) -> tuple[int, int]:
    """Ids of the key's and the value's type, from struct bpf_map_info."""
    return struct.unpack_from("=II", kernel.object_info(map_fd), 68)


def test_none_is_told_and_of_several_one_is_chosen(source: Path) -> None:
    """By its id; the error names those that there are."""
    name = stem_of(source)
    with pytest.raises(LoadError, match="no instance runs"), running(name, str(source)):
        pass
    with Loader() as bpf:
        numbers = [kernel.program_id(bpf.load(source).fd) for _ in range(2)]
        assert list(instances(name)) == numbers
        with pytest.raises(LoadError, match="2 instances") as caught, running(name, str(source)):
            pass
        assert all(str(number) in caught.value.mend for number in numbers)
        with running(name, str(source), numbers[1]) as found:
            assert found.program_id == numbers[1]
