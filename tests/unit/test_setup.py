"""Set-up installs what is missing and nothing else; done once, it is done."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Makefile", "debian-packages.txt", "requirements.lock", "pyproject.toml")
PACKAGES = [line for line in (REPOSITORY / "debian-packages.txt").read_text().splitlines() if line and line[0] != "#"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files of set-up alone, with a bin/ that goes before the system's."""
    for name in PARTS:
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    fake(tmp_path, "dpkg-query", "\n".join(f"echo installed {package}" for package in PACKAGES))
    fake(tmp_path, "apt-get", f'echo "$@" >> {tmp_path}/apt.log')
    return tmp_path


def fake(folder: Path, command: str, script: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / command
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def make(folder: Path, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    command = ["make", "--no-print-directory", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, user=user)


def done_once(folder: Path) -> None:
    stamps = folder / ".venv" / "stamps"
    stamps.mkdir(parents=True)
    for name in ("python", "bcc", "project"):
        (stamps / name).touch()


def test_the_second_set_up_does_nothing(copy: Path) -> None:
    """With all stamps in place nothing is printed, nothing installed, and it takes less than a second."""
    done_once(copy)
    started = time.monotonic()

    done = make(copy, "setup")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (copy / "apt.log").exists()
    assert time.monotonic() - started < 1


def test_only_what_is_missing_is_installed(copy: Path) -> None:
    """A package that dpkg does not call installed, and no other, goes to apt-get, after one update."""
    present = [package for package in PACKAGES if package not in ("iperf3", "clang")]
    fake(
        copy, "dpkg-query", "\n".join(f"echo installed {package}" for package in present) + "\necho not-installed clang"
    )

    subprocess.run([copy / "scripts" / "install-packages"], env={"PATH": f"{copy}/bin:/usr/bin:/bin"}, check=True)

    update, install = (copy / "apt.log").read_text().splitlines()
    assert update.startswith("update")
    assert install.split()[-2:] == ["clang", "iperf3"]
    assert not set(install.split()) & set(present)


@pytest.mark.parametrize("part", ["requirements.lock", "pyproject.toml"])
def test_a_changed_dependency_is_installed_anew(copy: Path, part: str) -> None:
    """After a newer lock or project file, set-up is no longer done."""
    done_once(copy)
    later = time.time() + 5
    os.utime(copy / part, (later, later))

    assert "pip install" in make(copy, "--dry-run", "setup").stdout


def test_without_dpkg_one_sentence_says_what_to_do(copy: Path) -> None:
    """Another distribution: the file to read and the word that goes on without it, status 2."""
    (copy / "bin" / "dpkg-query").unlink()
    for tool in ("bash", "dirname"):
        (copy / "bin" / tool).symlink_to(f"/bin/{tool}")

    done = subprocess.run(
        [copy / "scripts" / "install-packages"], env={"PATH": f"{copy}/bin"}, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "debian-packages.txt" in done.stderr
    assert "SKIP_PACKAGES=1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_lock_names_no_machine(copy: Path) -> None:
    """Every locked version has hashes, and no index, folder or link of the machine that wrote it."""
    lock = (copy / "requirements.lock").read_text()
    pins = [line for line in lock.splitlines() if line and line[0] not in " #"]

    assert pins
    assert all("==" in pin and pin.endswith("\\") for pin in pins)
    assert lock.count("--hash=sha256:") >= len(pins)
    assert not [word for word in ("://", "--index-url", "--find-links", "file:") if word in lock]


def test_the_lock_covers_every_dependency(copy: Path) -> None:
    """Each dependency that pyproject.toml names, for use or development, is pinned."""
    import re
    import tomllib

    project = tomllib.loads((copy / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[>=<\[;]", word)[0].strip().lower() for word in wanted}
    lock = (copy / "requirements.lock").read_text()

    assert {name for name in names if not re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE)} == set()


def test_the_same_list_serves_everybody() -> None:
    """Makefile, Vagrantfile and CI name no package of the list by themselves: they go through make setup."""
    install = (REPOSITORY / "scripts" / "install-packages").read_text()
    ci = (REPOSITORY / ".ci" / "run").read_text() + (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()

    assert "debian-packages.txt" in install
    assert "make -C /bpflab setup" in (REPOSITORY / "Vagrantfile").read_text()
    assert "apt" not in ci
    assert "make test" in ci
