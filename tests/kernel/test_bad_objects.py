"""An object that is broken, empty or for another machine is refused in one sentence, and the process lives on."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.bpf.build import build
from lab.errors import LabError, LoadError

MUTANTS = int(os.environ.get("LAB_MUTANTS", "200"))  # LAB_MUTANTS=1000 takes half a minute
PROCESSES = 2
SECTION_HEADERS = struct.Struct("=Q")
SOURCES = ("maps", "types", "runs")

# What a process does with its share: each mutant gives a program or an error of the lab's, never anything else.
CHILD = """
import gc, os, sys
from pathlib import Path
from lab.bpf.loading import Wishes, load_file
from lab.errors import LabError
folder = Path(sys.argv[1])
refused = loaded = 0
before = None
for path in sorted(folder.glob("*.bpf.o")):
    try:
        load_file(path, Wishes()).close()
        loaded += 1
    except LabError as error:
        assert str(error).count("Traceback") == 0 and str(error)
        refused += 1
    if before is None:
        before = len(os.listdir("/proc/self/fd"))
gc.collect()
print(loaded, refused, len(os.listdir("/proc/self/fd")) - before)
"""


def mutant(seed: int, originals: list[bytes]) -> bytes:
    """An object cut short, or with some bytes changed: in the header, the section headers, or anywhere."""
    chance = random.Random(seed)
    raw = bytearray(chance.choice(originals))
    kind = chance.random()
    if kind < 0.2:
        return bytes(raw[: chance.randrange(len(raw))])
    (headers,) = SECTION_HEADERS.unpack_from(raw, 40)
    first, end = (0, 64) if kind < 0.5 else (headers, len(raw)) if kind < 0.7 else (0, len(raw))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        raw[chance.randrange(first, end)] = chance.randrange(256)
    return bytes(raw)


def test_mutants_end_no_process(tmp_path: Path) -> None:
    """Each is loaded or refused by an error of the lab's, and no descriptor stays open."""
    originals = [build(Path(f"tests/bpf/{name}.bpf.c")).read_bytes() for name in SOURCES]
    children = []
    for number in range(PROCESSES):
        folder = tmp_path / str(number)
        folder.mkdir()
        for seed in range(number, MUTANTS, PROCESSES):
            (folder / f"{seed}.bpf.o").write_bytes(mutant(seed, originals))
        words = [sys.executable, "-c", CHILD, str(folder)]
        children.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    done = [(*child.communicate(timeout=300), child.returncode) for child in children]

    assert [status for _, _, status in done] == [0] * PROCESSES, done
    counts = [list(map(int, said.split())) for said, _, _ in done]
    assert sum(loaded + refused for loaded, refused, _ in counts) == MUTANTS
    assert all(
        min(loaded, refused) > MUTANTS // 50 for loaded, refused, _ in counts
    )  # both happen, or nothing was tried
    assert [more for _, _, more in counts] == [0] * PROCESSES


def elf(machine: int = 247, kind: int = 1, raw: bytes = b"\x7fELF\x02\x01\x01") -> bytes:
    """An ELF header without sections; 247 is EM_BPF, kind 1 a relocatable object."""
    return raw.ljust(16, b"\0") + struct.pack("=HHIQQQIHHHHHH", kind, machine, 1, 0, 0, 0, 0, 64, 0, 0, 64, 0, 0)


@pytest.mark.parametrize(
    ("content", "telling"),
    [
        (b"", "not an ELF file"),
        (b"int main(void) { return 0; }\n", "not an ELF file"),
        (elf(machine=62, kind=2), "BPF"),
        (elf(), "damaged ELF file"),
    ],
    ids=["empty", "text", "x86 program", "no sections"],
)
def test_what_is_no_bpf_object_is_told(bpf: Any, tmp_path: Path, content: bytes, telling: str) -> None:
    """With the file's name and what it is instead."""
    path = tmp_path / "it.bpf.o"
    path.write_bytes(content)
    with pytest.raises(LoadError) as error:
        bpf.load(path)
    assert "it" in str(error.value)
    assert telling in str(error.value)


def compiled(tmp_path: Path, text: str, *flags: str) -> Path:
    """An object of this C, built outside of the cache."""
    source, made = tmp_path / "it.c", tmp_path / "it.bpf.o"
    source.write_text(text)
    subprocess.run(["clang", "-O2", "-target", "bpf", *flags, "-c", str(source), "-o", str(made)], check=True)
    return made


XDP = '__attribute__((section("xdp"), used)) int pass(void *ctx) { return 2; }\n'


def test_an_object_without_programs_says_so(bpf: Any, tmp_path: Path) -> None:
    """It has a license and nothing else."""
    path = compiled(tmp_path, 'char _license[] __attribute__((section("license"), used)) = "GPL";\n', "-g")
    with pytest.raises(LoadError, match="no program"):
        bpf.load(path)


def test_an_object_without_btf_loads(bpf: Any, tmp_path: Path) -> None:
    """A stranger's object compiled without -g runs; nothing of it is typed."""
    program = bpf.load(compiled(tmp_path, XDP))
    assert program.run(bytes(64)).action.name == "XDP_PASS"


def test_a_map_that_is_too_large_is_refused_with_its_size(bpf: Any) -> None:
    """In the kernel's words, with the map's name; and nothing stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(LabError) as error:
        bpf.load("xdp_track_flow", max_entries={"flows": 1 << 31})
    assert "flows" in str(error.value)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
