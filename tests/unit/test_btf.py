"""BTF as Python reads it: against bpftool, and against damage."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.bpf import btf
from lab.bpf.build import build
from lab.bpf.object_file import ObjectFile
from lab.errors import LoadError

TYPES = Path(__file__).parents[1] / "bpf" / "types.bpf.c"


@pytest.fixture(scope="module")
def types() -> ObjectFile:
    return ObjectFile(build(TYPES))


def test_every_type_is_read_as_bpftool_reads_it(types):
    """Kinds, names, sizes, members with their offsets, enumerators: an independent reader sees the same."""
    tool = shutil.which("bpftool", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin")
    assert tool, "bpftool is one of the project's packages"
    dump = subprocess.run([tool, "-j", "btf", "dump", "file", str(types.path)], capture_output=True, check=True).stdout
    for expected in json.loads(dump)["types"]:
        found = types.btf[expected["id"]]
        assert found.kind == getattr(btf, expected["kind"]), expected
        assert found.name == expected["name"].replace("(anon)", "")
        if "size" in expected and expected["kind"] in ("INT", "STRUCT", "UNION", "ENUM"):
            assert found.size == expected["size"]
        assert [(each.name, each.type_id, each.offset_bits, each.bits) for each in found.members] == [
            (m["name"].replace("(anon)", ""), m["type_id"], m["bits_offset"], m.get("bitfield_size", 0))
            for m in expected.get("members", ())
        ]
        if expected["kind"] == "ENUM":
            assert [value % (1 << 32) for _, value in found.enumerators] == [
                v["val"] % (1 << 32) for v in expected["values"]
            ]
        if expected["kind"] == "ARRAY":
            assert (found.target, found.count) == (expected["type_id"], expected["nr_elems"])


def test_sizes_are_those_of_sizeof(types):
    """Through typedefs, const, arrays of arrays and pointers."""
    sizes = {name: types.btf.size_of(each.type_id) for name, each in types.variables(".data").items()}
    assert sizes == {"everything": 512, "flags": 16, "mixed": 28, "packed": 7, "awkward": 20, "padded": 36}


def test_variables_lie_where_the_symbol_table_says(types):
    """clang leaves the offsets in BTF's DATASEC to the loader."""
    places = sorted((each.offset, each.size) for each in types.variables(".data").values())
    assert places[0][0] == 0
    assert all(start + size <= following for (start, size), (following, _) in itertools.pairwise(places))


def test_the_kernels_own_types_are_readable():
    """Every BTF kind that this kernel uses is known: 100,000 types and more."""
    path = Path("/sys/kernel/btf/vmlinux")
    if not path.exists():
        pytest.skip("this kernel has no BTF: CONFIG_DEBUG_INFO_BTF, Linux 5.4, is not set")
    found = btf.read_btf(path.read_bytes())
    assert next(each for each in found.types if each.kind == btf.STRUCT and each.name == "sk_buff").members


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_section_is_an_error_and_never_a_crash(types, seed):
    """Bytes turned over, or cut off: LoadError, or types that can still be walked."""
    raw, chance = types.sections[".BTF"], random.Random(seed)
    for _ in range(100):
        damaged = bytearray(raw[: chance.randrange(len(raw)) if chance.random() < 0.3 else len(raw)])
        for _ in range(chance.randrange(1, 8)):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            found = btf.read_btf(bytes(damaged))
            for each in range(len(found.types)):
                found.size_of(each)
        except LoadError:
            continue


def test_a_type_that_refers_to_itself_is_refused():
    """typedef a a; cannot be compiled, but it can be written into a file."""
    looped = btf.Btf((btf.Type(0, 0, "void"), btf.Type(1, btf.TYPEDEF, "a", target=1)))
    with pytest.raises(LoadError, match="itself"):
        looped.plain(1)
