"""From C to object, through a cache of the test's own; clang is the real one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lab.bpf import build as building
from lab.bpf.build import build, cache_folder
from lab.bpf.object_file import ObjectFile
from lab.errors import BuildError, FeatureMissing

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "own.h"
SEC("xdp") int probe(struct xdp_md *ctx) { return OWN; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bpflab"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source and a header beside it, old enough not to be taken for changed while clang reads them."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "own.h").write_text("#define OWN XDP_PASS\n")
    (folder / "probe.bpf.c").write_text(SOURCE)
    for each in folder.iterdir():
        age(each)
    return folder / "probe.bpf.c"


def kept(cache: Path) -> list[Path]:
    """Objects and manifests: all but the file whose time tells when the cache was swept."""
    return [each for each in cache.iterdir() if each.name != "swept"]


def age(path: Path, seconds: float = 10) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that clang was run with."""
    seen: list[list[str]] = []
    run = building._run
    monkeypatch.setattr(building, "_run", lambda command, source: (seen.append(command), run(command, source))[1])
    return seen


def test_an_object_is_made_and_nothing_is_left_beside_the_source(source, cache):
    """The object lies in the cache, readable to its owner alone."""
    found = build(source)
    assert found.parent == cache
    assert "xdp" in ObjectFile(found).sections
    assert ObjectFile(found).btf is not None
    assert sorted(each.name for each in source.parent.iterdir()) == ["own.h", "probe.bpf.c"]
    assert cache.stat().st_mode & 0o777 == 0o700
    assert sorted(each.suffix for each in kept(cache)) == [".json", ".o"]


def test_clang_does_not_run_twice_for_the_same(source, compilations):
    """The second object is the first one."""
    assert build(source) == build(source)
    assert len(compilations) == 1


@pytest.mark.parametrize("changed", ["probe.bpf.c", "own.h"])
def test_a_change_of_the_source_or_of_a_header_is_seen(source, compilations, changed):
    """A new object, with the change in it; and the old one again when the change is taken back."""
    first = build(source)
    path = source.parent / changed
    before = path.read_text()
    path.write_text(before.replace("XDP_PASS", "XDP_DROP") + "/* changed */\n")
    age(path)
    second = build(source)
    path.write_text(before)
    age(path, 5)
    assert first != second
    assert build(source) == first
    assert len(compilations) == 3


def test_a_touched_file_of_the_same_content_is_the_same_file(source, compilations):
    """git checkout changes times, and nothing else."""
    first = build(source)
    age(source, 3)
    age(source.parent / "own.h", 3)
    assert build(source) == first
    assert len(compilations) == 1


def test_a_file_that_changes_while_clang_reads_it_is_compiled_again(source, monkeypatch):
    """The object that comes back is of the last content."""
    run, written = building._run, []

    def meddling(command: list[str], path: Path) -> tuple[bytes, str, str]:
        said = run(command, path)
        if not written:
            written.append(True)
            (source.parent / "own.h").write_text("#define OWN XDP_DROP\n")
        return said

    monkeypatch.setattr(building, "_run", meddling)
    found = build(source)
    fresh = subprocess.run(["cmp", found, build(source)], check=False)
    assert fresh.returncode == 0
    assert ObjectFile(found).sections["xdp"][4:8] == (1).to_bytes(4, "little")  # w0 = XDP_DROP


def test_flags_and_the_compiler_belong_to_the_key(source, compilations):
    """Another flag, another object."""
    assert build(source) != build(source, flags=["-DUNUSED=1"])
    assert len(compilations) == 2


def test_clangs_own_words_say_what_is_wrong(source):
    """File, line and caret stand in the error."""
    source.write_text(SOURCE.replace("return OWN", "return NOWHERE"))
    with pytest.raises(BuildError) as caught:
        build(source)
    assert "probe.bpf.c:5:" in caught.value.kernel
    assert "undeclared identifier 'NOWHERE'" in caught.value.kernel
    assert "the line that clang names" in caught.value.mend


def test_a_failed_build_is_forgotten(source):
    """The same source, mended, builds."""
    source.write_text("this is not C\n")
    with pytest.raises(BuildError):
        build(source)
    source.write_text(SOURCE)
    assert build(source).exists()


def test_a_missing_header_is_named_with_the_way_to_get_it(source):
    """Two ways: install it, or put it beside the source."""
    source.write_text('#include "nowhere.h"\n')
    with pytest.raises(BuildError, match=r"nowhere\.h") as caught:
        build(source)
    assert "apt-get install" in caught.value.mend


def test_warnings_do_not_stop_a_strangers_source(source):
    """Errors they are in `make lint`, for the project's own."""
    source.write_text(SOURCE.replace("return OWN", "int unused; return OWN"))
    assert build(source).exists()


def test_the_labs_headers_are_found_from_everywhere(source):
    """#include <lab/parse.h>, from any folder."""
    source.write_text("#include <lab/parse.h>\n" + SOURCE)
    assert build(source).exists()


def test_vmlinux_h_is_made_when_a_source_wants_it_and_not_before(source, cache, compilations):
    """By bpftool, into the cache, once."""
    build(source)
    assert not list(cache.glob("vmlinux-*"))
    source.write_text(SOURCE.replace("linux/bpf.h", "vmlinux.h"))
    age(source)
    build(source)
    (header,) = cache.glob("vmlinux-*/vmlinux.h")
    made = header.stat().st_mtime_ns
    build(source)
    assert header.stat().st_mtime_ns == made
    assert len(compilations) == 3


def test_a_cache_that_others_can_write_is_refused(cache):
    """What lies in it is loaded with root's rights."""
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(BuildError, match="others could write there"):
        cache_folder()


def test_four_processes_build_at_once(source, cache):
    """All give the same object, and it is whole."""
    code = f"from pathlib import Path; from lab.bpf.build import build; print(build(Path({str(source)!r})))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    found = {each.communicate(timeout=60)[0].strip() for each in running}
    assert len(found) == 1
    assert "xdp" in ObjectFile(Path(found.pop())).sections
    assert sorted(each.suffix for each in kept(cache)) == [".json", ".o"]


def test_a_killed_build_leaves_whole_files_or_none(source, cache):
    """SIGKILL at ten moments of a first compile: what is in the cache is a whole object, perhaps with its manifest."""
    code = f"from pathlib import Path; from lab.bpf.build import build; print(flush=True); build(Path({str(source)!r}))"
    for moment in range(10):
        builder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        builder.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            builder.wait(timeout=moment * 0.02)
        builder.kill()
        builder.communicate()
        left = kept(cache) if cache.exists() else []
        assert {each.suffix for each in left} <= {".o", ".json"}
        assert all("xdp" in ObjectFile(each).sections for each in left if each.suffix == ".o")
        for each in left:
            each.unlink()


def test_without_clang_the_error_says_how_to_get_it(source, monkeypatch):
    """FeatureMissing, with the packages."""
    monkeypatch.setenv("PATH", "/nowhere")
    building._compiler_identity.cache_clear()
    with pytest.raises(FeatureMissing, match="clang is not installed"):
        build(source)


def test_a_source_that_is_not_there_is_an_error():
    """By its path."""
    with pytest.raises(BuildError, match="no such file"):
        build(Path("/nowhere/x.bpf.c"))


def test_the_first_error_is_shown_and_not_the_warnings_before_it(source):
    """Fifty warnings come before the error; the message begins with the error."""
    warnings = "".join(f"static int w{n}(void *p) {{ int q = p; return q; }}\n" for n in range(50))
    source.write_text(SOURCE.replace("SEC(", warnings + "SEC(", 1).replace("return OWN", "return NOWHERE"))
    with pytest.raises(BuildError) as caught:
        build(source)
    assert "NOWHERE" in caught.value.kernel.splitlines()[0]


def test_more_words_for_clang_reach_it(source):
    """cflags of load() come here."""
    source.write_text(SOURCE.replace("return OWN", "return WORD"))
    assert build(source, flags=["-DWORD=2"]).exists()


def test_a_cache_that_cannot_be_written_is_not_swept(cache, monkeypatch):
    """It is for whoever keeps an object to say so."""
    cache.mkdir(parents=True, mode=0o700)
    (cache / "old.json").touch()
    age(cache / "old.json", 91 * 24 * 3600)

    def refused(path: Path) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refused)
    building.sweep(cache)
    assert (cache / "old.json").exists()


def test_once_a_day_what_was_made_long_ago_goes(source, cache):
    """Of two objects of 91 days the first goes with the first compilation, the other a day later."""
    day = 24 * 3600
    cache.mkdir(parents=True, mode=0o700)
    for name, gone in (("first.bpf.o", True), ("second.bpf.o", False)):
        (cache / name).touch()
        age(cache / name, 91 * day)
        build(source, flags=[f"-DTIME={len(name)}"])
        assert (cache / name).exists() != gone
    age(cache / "swept", day + 1)
    made = build(source, flags=["-DTIME=1"])
    assert not (cache / "second.bpf.o").exists() and made.exists()
