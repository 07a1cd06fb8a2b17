"""Loading: knobs, globals, entries, sizes, sharing, strangers' programs, and what goes wrong."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from lab.bpf.build import build
from lab.bpf.loader import Loader
from lab.errors import LabError, LoadError, MapError, VerifierError
from lab.model.action import Action
from lab.model.journal import journal
from lab.wait import wait_until

SOURCES = Path(__file__).parents[1] / "bpf"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# ---------------------------------------------------------------- knobs and globals


def test_knobs_are_set_before_the_load_by_their_types(bpf):
    """bool, integers, wire order, addresses, enums by name, arrays, structs, text."""
    given = {
        "enabled": True,
        "small": 200,
        "negative": -5,
        "port": 443,
        "address": "10.0.0.1",
        "address6": "fd00::1",
        "policy": "DENY",
        "table": [5, 6, 7, 8],
        "rule": {"address": "10.0.0.2", "mask": 7},
        "name": "somebody",
        "hidden": 1,
        "elsewhere": 2,
    }
    program = bpf.load("knobs", **given)
    assert program.run(bytes(60)).action is Action.XDP_DROP  # the name begins with an s
    values = program.globals
    assert values["counter"] == 201
    assert values["last"] == {"address": "10.0.0.1", "port": 443, "mask": 5}
    assert values["seen"].name == "DENY"
    # own 11, hidden 1, elsewhere 2, apart 12, negative -5, table[1] 6, mask 7, last byte of address6 1
    assert values["own"] == 11 + 1 + 2 + 12 - 5 + 6 + 7 + 1
    assert values["address6"] == IPv6Address("fd00::1")
    assert values["table"] == [5, 6, 7, 8]


def test_knobs_that_are_not_given_keep_their_defaults(bpf):
    """As the source initialises them."""
    program = bpf.load("knobs")
    assert program.run(bytes(60)).action is Action.XDP_PASS
    assert (program.globals["small"], program.globals["negative"], program.globals["name"]) == (3, -1, "nobody")
    assert program.globals["policy"].name == "ALLOW"


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"smal": 1}, "there is no knob 'smal'\n  mend:   there are small"),
        ({"counter": 1}, "there is no knob 'counter'"),
        ({"small": 256}, "knob small=256: 256 does not fit __u8 (0 to 255)"),
        ({"policy": "MAYBE"}, "'MAYBE' is no enum policy\n  mend:   it has ALLOW, DENY"),
        ({"table": [1, 2]}, "2 elements do not fit an array of 4"),
        ({"address": "10.0.0"}, "'10.0.0' is no address"),
        ({"enabled": 2}, "2 is neither True nor False"),
    ],
)
def test_a_knob_that_cannot_be_set_is_one_clear_error(bpf, knobs, words):
    """Before anything is loaded; names that look alike are shown."""
    before = open_descriptors()
    with pytest.raises(LoadError) as caught:
        bpf.load("knobs", **knobs)
    assert words in str(caught.value)
    assert open_descriptors() == before


def test_globals_are_shared_with_the_program(bpf):
    """What user space writes the program reads, and the other way round; static and custom sections too."""
    program = bpf.load("knobs")
    program.globals["counter"] = 1000
    program.globals["apart"] = 100
    program.run(bytes(60))
    assert program.globals["counter"] == 1003
    assert program.globals["own"] == 11 + 9 + 13 + 100 - 1 + 2
    assert "counter" in program.globals
    assert program.globals.get("no such") is None


def test_globals_that_cannot_be_written_say_why(bpf):
    """Knobs are constant, names and ranges are checked, a closed program has none."""
    program = bpf.load("knobs")
    with pytest.raises(MapError, match="constant since the load") as caught:
        program.globals["small"] = 5
    assert caught.value.mend == "load(..., small=5)"
    with pytest.raises(MapError, match="no global 'conter'"):
        program.globals["conter"] = 1
    with pytest.raises(MapError, match="global counter: -1 does not fit"):
        program.globals["counter"] = -1
    program.close()
    with pytest.raises(MapError, match="its program is closed"):
        _ = program.globals["counter"]


# ---------------------------------------------------------------- which program


def test_the_program_named_as_its_file_is_the_entry(bpf):
    """knobs.bpf.c has two programs, and one of them is knobs()."""
    program = bpf.load("knobs")
    assert (program.name, program.section, program.type, program.stem) == ("knobs", "xdp", "xdp", "knobs")
    assert list(program.programs) == ["knobs", "other"]
    assert program.programs["other"].run(bytes(60)).action is Action.XDP_TX


def test_one_program_is_chosen_and_loaded_alone(bpf):
    """The others stay on disk."""
    program = bpf.load("knobs", program="other")
    assert (program.name, list(program.programs)) == ("other", ["other"])
    with pytest.raises(LoadError, match="no program 'another'\n  mend:   there are knobs, other"):
        bpf.load("knobs", program="another")


def test_an_object_without_an_entry_wants_one_chosen(bpf):
    """Maps and programs can be reached; running it names the choices."""
    program = bpf.load("stranger_tutorial")
    assert "xdp_stats_map" in program.maps
    with pytest.raises(LoadError, match="2 programs: xdp_parser_func, xdp_pass_func") as caught:
        program.run(bytes(60))
    assert 'program="xdp_parser_func"' in caught.value.mend
    assert program.programs["xdp_pass_func"].run(bytes(60)).action is Action.XDP_PASS


def test_the_verifiers_figures_are_facts_and_are_noted(bpf):
    """For the report: one note a program, as lab.model.run describes it."""
    with journal() as kept:
        facts = bpf.load("maps", program="count_verdict").facts
    assert facts.instructions > 20
    assert facts.verified_instructions >= facts.instructions // 2
    assert facts.xlated_bytes >= facts.instructions * 8
    assert facts.jited_bytes > 0
    assert 8 <= facts.stack_bytes <= 512
    assert 0 < facts.load_ms < 60_000
    (noted,) = kept.of("program")
    assert noted["name"] == "count_verdict"
    assert {"section", "type", "instructions", "verified_instructions", "xlated_bytes", "jited_bytes"} <= set(noted)
    assert "verdicts" in noted["maps"]


# ---------------------------------------------------------------- maps at the load


def test_maps_can_be_sized_and_shared_at_the_load(bpf):
    """max_entries changes a size; share gives two programs one map."""
    first = bpf.load("maps", program="count_verdict", max_entries={"numbers": 10})
    second = bpf.load("maps", program="count_verdict", share={"verdicts": first.maps["verdicts"]})
    assert first.maps["numbers"].facts.max_entries == 10
    assert second.maps["numbers"].facts.max_entries == 200_000
    first.run(bytes(60))
    second.run(bytes(60))
    assert first.maps["verdicts"].total("XDP_DROP").packets == 2
    with pytest.raises(LoadError, match="no map 'number'\n  mend:   there are numbers"):
        bpf.load("maps", max_entries={"number": 1})
    with pytest.raises(LoadError, match="0 entries"):
        bpf.load("maps", max_entries={"numbers": 0})
    with pytest.raises(LoadError, match="shared as numbers"):
        bpf.load("maps", share={"numbers": first.maps["verdicts"]})


def test_an_unknown_map_is_named_with_those_that_look_alike(bpf):
    """A MapError, not a bare KeyError."""
    with pytest.raises(MapError, match="no map 'verdict'\n  mend:   there are verdicts"):
        _ = bpf.load("maps").maps["verdict"]


# ---------------------------------------------------------------- strangers


def test_a_tutorials_program_loads_and_pins_nothing(bpf):
    """Old section names are understood; LIBBPF_PIN_BY_NAME is not obeyed."""
    program = bpf.load("stranger_tutorial", program="xdp_parser_func")
    ipv6 = bytes(12) + b"\x86\xdd" + bytes(50)
    assert program.run(ipv6).action is Action.XDP_DROP
    assert program.maps["xdp_stats_map"].total("XDP_DROP") == {"rx_packets": 1, "rx_bytes": 64}
    assert not Path("/sys/fs/bpf/xdp_stats_map").exists()


def test_a_core_program_reads_kernel_structs(bpf):
    """vmlinux.h, CO-RE, a ring buffer: a child's end is seen with its parent."""
    program = bpf.load("stranger_bootstrap")
    with program.attach():
        child = subprocess.Popen(["true"])
        child.wait()
        program.maps["exec_start"].eventually(5).holds(lambda tasks: child.pid in tasks, "the child's end was seen")
    events = program.maps["rb"].drain("event")
    (event,) = [each for each in events if each.pid == child.pid]
    assert (event.ppid, event.comm, event.exit_event) == (os.getpid(), "true", True)


def test_a_ready_made_object_loads_by_its_path(bpf, tmp_path):
    """What another build system made; the stem is the file's name."""
    ready = tmp_path / "ready.bpf.o"
    ready.write_bytes(build(SOURCES / "knobs.bpf.c").read_bytes())
    program = bpf.load(ready, program="knobs", small=9)
    assert (program.stem, program.globals["small"]) == ("ready", 9)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_object_is_an_error_and_never_a_crash(tmp_path, seed):
    """Bytes changed in header, tables and code, or the end cut off: LabError, or a program."""
    raw, chance = build(SOURCES / "maps.bpf.c").read_bytes(), random.Random(seed)
    for _ in range(25):
        damaged = bytearray(raw[: chance.randrange(1, len(raw))] if chance.random() < 0.2 else raw)
        for _ in range(chance.choice((1, 2, 8))):
            where = chance.choice((64, len(damaged)))
            damaged[chance.randrange(min(where, len(damaged)))] = chance.randrange(256)
        path = tmp_path / "damaged.bpf.o"
        path.write_bytes(damaged)
        with Loader() as loader:
            try:
                loader.load(path)
            except LabError as error:
                assert str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (b"\x7fELF\x02\x01\x01", "damaged ELF file"),
        (Path(sys.executable).resolve().read_bytes()[:4096], "not a little-endian 64-bit BPF object (machine "),
    ],
)
def test_a_file_that_is_no_object_is_named(bpf, tmp_path, content, words):
    """The path and what is wrong with it."""
    path = tmp_path / "wrong.bpf.o"
    path.write_bytes(content)
    with pytest.raises(LoadError) as caught:
        bpf.load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("int nothing;\n", "has no programs"),
        ('__attribute__((section("nonsense"), used)) int f(void *c) { return 0; }\n', "names no hook"),
        (
            '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nSEC("fentry/no_such_function") int f(void *c)'
            '{ return 0; }\nchar l[] SEC("license") = "GPL";\n',
            "no_such_function",
        ),
        (
            "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
            "struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __uint(key_size, 3); "
            '__uint(value_size, 4); } wrong SEC(".maps");\n'
            'SEC("xdp") int f(void *c) { return 0; }\nchar l[] SEC("license") = "GPL";\n',
            "wrong",
        ),
    ],
)
def test_an_object_that_cannot_be_loaded_says_why(bpf, tmp_path, source, words):
    """No programs, an unknown section, an unknown kernel function, a map that the kernel refuses."""
    (tmp_path / "odd.bpf.c").write_text(source)
    before = open_descriptors()
    with pytest.raises(LoadError) as caught:
        bpf.load(tmp_path / "odd.bpf.c")
    assert words in str(caught.value)
    assert not isinstance(caught.value, VerifierError)
    assert open_descriptors() == before


def test_a_stem_that_is_not_there_is_named_with_those_that_look_alike(bpf):
    """xdp_filtr: did you mean ..."""
    with pytest.raises(LoadError, match=r"no bpf/stranger_tutoral\.bpf\.c here or above") as caught:
        bpf.load("stranger_tutoral")
    assert "stranger_tutorial" in caught.value.mend
    with pytest.raises(LoadError, match="no such file in"):
        bpf.load("nowhere/x.bpf.c")


def test_everything_is_closed_in_the_end():
    """Programs, maps, inner maps, readers: no descriptor stays, after use or after failure."""
    with Loader(SOURCES) as loader:
        loader.load("events").maps["events"].listen()
    before = open_descriptors()
    for _ in range(3):
        with Loader(SOURCES) as loader:
            program = loader.load("maps")
            program.maps["tables"].new_inner()
            _ = program.maps["tables"][0]
            events = loader.load("events")
            events.programs["send_events"].run(bytes(60))
            assert events.maps["events"].drain()
            assert events.maps["perf_events"].drain() == []
            _ = loader.load("knobs").globals["counter"]
            with pytest.raises(VerifierError):
                loader.load("reject_bounds")
    # Sockets of an earlier test may still be closing beside this one: fewer than before is no leak.
    wait_until(lambda: open_descriptors() <= before, what=f"no more than {before} open descriptors")


def test_closing_twice_is_closing_once(bpf):
    """The fixture closes what the test closed already."""
    program = bpf.load("knobs")
    with program:
        pass
    program.close()
    assert repr(program) == "<Program knobs: knobs xdp, closed>"


@pytest.fixture
def anyones():
    """A folder that every user can read, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_without_root_loading_says_so_in_a_sentence(anyones):
    """A process without rights gets NeedsRoot, not a traceback of libbpf's."""
    ready = anyones / "knobs.bpf.o"
    ready.write_bytes(build(SOURCES / "knobs.bpf.c").read_bytes())
    code = (
        "from lab import bpf\n"
        f"try: bpf.load({str(ready)!r}, program='knobs')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    # Reading stays allowed: the checkout may lie where only root looks, in /root.
    drop = ["setpriv", *(f"--{kind}=-all,+dac_read_search" for kind in ("bounding-set", "inh-caps", "ambient-caps"))]
    command = [*drop, "--reuid=65534", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("NeedsRoot load knobs: loading BPF programs needs root"), done.stderr


def test_an_interrupt_while_libbpf_works_is_not_lost() -> None:
    """Ctrl-C during a load ends the process, ten times of ten: libbpf calls Python meanwhile, where it would vanish."""
    code = "from lab.bpf import load\nprint(flush=True)\nwhile True:\n    load('xdp_count_packet').close()"
    for moment in range(10):
        loading = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert loading.stdout is not None
        loading.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            loading.wait(timeout=0.1 + moment * 0.01)
        loading.send_signal(signal.SIGINT)
        try:
            assert loading.wait(timeout=5) != 0
        finally:
            loading.kill()
            loading.communicate()
