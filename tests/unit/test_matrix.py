"""What a machine is made of: kernels found, modules in order, the archive, the judgement on its end."""

from __future__ import annotations

import lzma
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.features import FEATURES, came_before
from lab.matrix import fetch, image, kernel
from lab.matrix.init import init
from lab.matrix.initramfs import initramfs
from lab.matrix.machine import Machine
from lab.matrix.modules import Module, ModuleFolder
from lab.matrix.offers import Offer, document, unexpected
from lab.matrix.session import Lane, Matrix
from lab.matrix.watch import watch
from lab.model.run import Environment, Result, Run

HERE = Environment("6.1.0", "cpu", 2, 1, "", False, "on")


def unpacked(root: Path, release: str) -> Path:
    """A folder as `dpkg -x` of a kernel's package leaves it."""
    modules = root / "lib/modules" / release
    (modules / "kernel").mkdir(parents=True)
    (modules / "modules.builtin").write_text("kernel/fs/built_in.ko\n")
    (root / "boot").mkdir(exist_ok=True)
    (root / "boot" / f"vmlinuz-{release}").touch()
    return modules


def module(folder: Path, name: str, *, needs: str = "", packed: bool = False) -> None:
    """A file with no more of a module than what it depends on."""
    content = b"\x7fELF\0depends=" + needs.encode() + b"\0name=" + name.encode() + b"\0"
    path = folder / "kernel" / f"{name}.ko{'.xz' if packed else ''}"
    path.write_bytes(lzma.compress(content) if packed else content)


def result(nodeid: str, outcome: str) -> Result:
    """Of a scenario of the program x."""
    return Result(nodeid, "scenario", "x", nodeid, outcome, "because", 0.1)


def lane(name: str, *results: Result, lost: str = "") -> Lane:
    """A part of a session that has ended."""
    run = Run("id", "2026-01-01T00:00:00+00:00", 1.0, (), HERE, results)
    return Lane(name, name, Path("/nowhere"), run=run if results else None, lost=lost, status=0)


def test_a_kernel_is_found_by_its_beginning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """6.1 means the newest 6.1, and never 6.12."""
    for release in ("6.1.0-9-amd64", "6.1.0-56-amd64", "6.12.5-amd64"):
        unpacked(tmp_path / release, release)
    monkeypatch.setattr(kernel, "kernel_folder", lambda: tmp_path)

    assert [each.release for each in kernel.find(["6.1", "6.12"])] == ["6.1.0-56-amd64", "6.12.5-amd64"]
    assert {each.series for each in kernel.find()} >= {"6.1", "6.12"}
    with pytest.raises(LabError, match=r"no kernel 6\.13"):
        kernel.find(["6.13"])


def test_a_kernel_is_found_by_its_path(tmp_path: Path) -> None:
    """The unpacked folder, the vmlinuz in it, or the folder of a build."""
    unpacked(tmp_path / "package", "6.1.0-1-amd64")
    build = tmp_path / "build"
    for name, text in (("include/config/kernel.release", "6.19.0-mine\n"), ("arch/x86/boot/bzImage", "")):
        (build / name).parent.mkdir(parents=True)
        (build / name).write_text(text)

    words = (f"{tmp_path}/package", f"{tmp_path}/package/boot/vmlinuz-6.1.0-1-amd64", str(build))
    by_folder, by_file, built = (kernel.find([word])[0] for word in words)
    assert by_folder == by_file and by_folder.release == "6.1.0-1-amd64"
    assert (built.release, built.modules) == ("6.19.0-mine", build)
    with pytest.raises(LabError, match="no kernel with its modules"):
        kernel.find([f"{tmp_path}/nowhere"])


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    """Compressed or not; what the kernel has within is left out, what nobody has is named."""
    folder = unpacked(tmp_path, "6.1.0")
    module(folder, "low")
    module(folder, "mid", needs="low,built_in", packed=True)
    module(folder, "top", needs="mid")
    found = ModuleFolder(folder)

    assert [each.name for each in found.needed_for(["top", "low"])] == ["low", "mid", "top"]
    assert found.needed_for(["mid"])[1].content.startswith(b"\x7fELF")
    with pytest.raises(LabError, match="no module 9p"):
        found.needed_for(["9p"])


def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    """Process 1, the modules, and the plan that begins by loading them."""
    if not shutil.which("cpio"):
        pytest.skip("this machine has no cpio; to get it: apt-get install cpio")
    archive = initramfs(Path(sys.executable), [Module("low", b"x" * 5)], ["up lo"], ["/bin/sh", "-c"], {"A": "1"})
    subprocess.run(["cpio", "-i", "--quiet", "--no-absolute-filenames"], input=archive, cwd=tmp_path, check=True)

    assert (tmp_path / "plan").read_text() == "module /modules/low\nup lo\n"
    assert (tmp_path / "argv").read_bytes() == b"/bin/sh\0-c\0"
    assert (tmp_path / "modules/low").read_bytes() == b"xxxxx"


def test_the_disk_has_folders_by_their_real_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of an environment that is reached by way of a link, the disk has what the link leads to."""
    packages = tmp_path / "environment/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / ".venv").symlink_to("environment")
    monkeypatch.setattr(image.sysconfig, "get_path", lambda name: str(tmp_path / ".venv/site-packages"))
    assert image.whole_folders() == [packages.resolve()]


def test_process_1_is_a_static_program() -> None:
    """It needs no library: there is none where it starts."""
    assert b"/ld-linux" not in init().read_bytes()


@pytest.mark.parametrize(
    ("said", "script", "reason"),
    [
        ("init: the worker ended with status 0\n", "exit 0", ""),
        ("[ 1.0] Kernel panic - not syncing: no more\n", "exit 0", "kernel panic: no more"),
        ("init: the worker ended with status 3\n", "exit 0", "its worker ended with status 3"),
        ("init: mount 9p host: No such device\n", "exit 0", "it could not be set up: mount 9p host: No such device"),
        ("", "kill -9 $$", "QEMU was killed (SIGKILL)"),
        ("", "sleep 60", "it did not start within 0.2 s"),
        ("", "printf . >&0; sleep 60", "it hangs: no beat for 0.2 s"),
    ],
)
def test_the_end_of_a_machine_is_judged(tmp_path: Path, said: str, script: str, reason: str) -> None:
    """By what its console said, how it ended, and whether its beats came."""
    ours, theirs = socket.socketpair()
    console = tmp_path / "console.txt"
    console.write_text(said)
    with ours, theirs:
        process = subprocess.Popen(["sh", "-c", f"exec 2>&-; {script}"], stdin=theirs)
        theirs.close()
        assert watch(Machine(process, ours), console, boot_s=0.2 if "sleep" in script else 5, silence_s=0.2) == reason
    assert process.poll() is not None


def test_a_lost_machine_is_no_failure() -> None:
    """Status 2; with a failure elsewhere 1; with neither 0."""
    good, bad = lane("a", result("t", "passed")), lane("b", result("t", "failed"))
    lost = lane("c", lost="kernel panic: x")

    assert Matrix("id", Path(), (good,)).status == 0
    assert Matrix("id", Path(), (good, lost)).status == 2
    assert Matrix("id", Path(), (good, lost, bad)).status == 1


def test_a_test_that_ran_on_no_kernel_is_named() -> None:
    """One that a single kernel ran is not."""
    lanes = (
        lane("a", result("t", "skipped"), result("u", "skipped")),
        lane("b", result("t", "passed"), result("u", "skipped")),
    )

    assert Matrix("id", Path(), lanes).ran_nowhere() == {"u": "because"}


def test_only_younger_kernels_should_have_a_feature() -> None:
    """tcx came with 6.6: 6.1 may lack it, 6.12 may not."""
    columns = {release: {"tcx": Offer("no", "Invalid argument")} for release in ("6.1.0-56-amd64", "6.12.1")}

    assert [came_before(FEATURES["tcx"], release) for release in columns] == [False, True]
    assert unexpected(columns) == ["6.12.1: no tcx, which came with Linux 6.6 (Invalid argument)"]
    assert "| `tcx` | tc programs by a link | Linux 6.6 | - | - |" in document(columns)


def test_the_newest_package_is_for_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a cloud, not for real time, not unsigned, and 100 is newer than 56."""
    names = (
        "6.1.0-56-amd64",
        "6.1.0-100-amd64",
        "6.1.0-200-cloud-amd64",
        "6.1.0-200-rt-amd64",
        "6.1.0-200-amd64-unsigned",
    )
    monkeypatch.setattr(fetch, "_run", lambda command: "\n".join(f"linux-image-{name}" for name in names))
    monkeypatch.setattr(fetch.platform, "machine", lambda: "x86_64")

    assert fetch.newest_package("6.1") == "linux-image-6.1.0-100-amd64"
