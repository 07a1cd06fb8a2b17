"""A network that is kept can be found, drawn, entered and ended, and nothing else ever stays.

Each test runs in a namespace of its own: keepers are found by sockets of the namespace that they were started in.
"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Topology, wait_until
from lab.keep import keeper
from tests.kernel.door import LAB

TOPOLOGY = Topology.pair("desk", "other", ipv6=None)

FAILING = """
import pytest
from lab import Mode, Network, Topology
TOPOLOGY = Topology.pair("client", "server", ipv6=None)
def test_fixture(net, bpf):
    with bpf.load("PROGRAM", program="drop_xdp").attach(net["server"].interface("eth0"), mode=Mode.NATIVE):
        assert net.send is None
def test_own(bpf):
    with Network(Topology.chain("a", "b", "c")):
        pytest.fail("so it goes")
"""
PASSING = """
import pytest
from lab import Mode, Topology
TOPOLOGY = Topology.pair("client", "server", ipv6=None)
def test_expected(net, bpf):
    program = bpf.load("PROGRAM", program="drop_xdp")
    with pytest.raises(AssertionError), program.attach(net["server"].interface("eth0"), mode=Mode.NATIVE):
        raise AssertionError
"""
DROP = Path("tests/bpf/drop.bpf.c").resolve()


class Desk:
    """A namespace where commands are given, as on a machine of its own."""

    def __init__(self, namespace: Any, folder: Path) -> None:
        self.namespace, self.folder = namespace, folder

    def run(self, *argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """A command, to its end."""
        process = self.namespace.popen(
            argv, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said, errors = process.communicate(given, timeout=60)
        return subprocess.CompletedProcess(argv, process.returncode, said, errors)

    def lab(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """A `lab` command."""
        return self.run(*LAB, *words, given=given)

    def pytest(self, text: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A session over one file."""
        (self.folder / "test_it.py").write_text(text.replace("PROGRAM", str(DROP)))
        options = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-lab-run", "--rootdir", ".")
        return self.run(sys.executable, "-m", "pytest", *options, *words, "test_it.py")

    def kept(self) -> list[dict[str, Any]]:
        """What `lab show` says for programs."""
        return [json.loads(line) for line in self.lab("show", "--json").stdout.splitlines()]


@pytest.fixture
def desk(net: Any, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(net["desk"], tmp_path)
    yield made
    assert made.lab("down", "--all").returncode == 0


def test_the_networks_of_failed_tests_are_kept_until_told(desk: Desk) -> None:
    """Both the fixture's and one of the test's own; each with what is attached to it; `lab down` ends them."""
    said = desk.pytest(FAILING, "--keep-on-failure").stdout

    one, other = desk.kept()
    assert "2 networks are kept" in said
    assert f"lab shell {one['name']} client" in said
    assert (one["title"], list(one["namespaces"])) == ("test_it.py::test_fixture", ["client", "server"])
    assert (other["title"], list(other["namespaces"])) == ("test_it.py::test_own", ["a", "b", "c"])
    assert ("server/eth0", "xdp") in [(each["at"], each["hook"]) for each in one["attachments"]]
    assert {each["hook"] for each in one["attachments"]} == {"xdp"}, "the recorder of frames ends with the session"
    assert other["attachments"] == []

    assert desk.lab("down", "--all").returncode == 0
    assert desk.kept() == []
    for each in (one, other):
        wait_until(lambda each=each: not Path(f"/proc/{each['pid']}").exists(), what="the keeper's end")  # type: ignore[misc]


def test_without_the_option_nothing_is_kept(desk: Desk) -> None:
    """A failure by itself leaves nothing."""
    assert "2 failed" in desk.pytest(FAILING).stdout
    assert desk.kept() == []


def test_a_passed_test_keeps_nothing(desk: Desk) -> None:
    """Not even where it expected a failure."""
    assert "1 passed" in desk.pytest(PASSING, "--keep-on-failure").stdout
    assert desk.kept() == []


def test_a_kept_network_is_drawn_and_entered(desk: Desk) -> None:
    """`ip` sees the namespace's interfaces and so does /sys; what is mounted below /sys is there as before."""
    (desk.folder / "scene.py").write_text('from lab import Topology\nTOPOLOGY = Topology.pair("client", "server")\n')
    drawn = desk.lab("up", "scene.py").stdout
    assert "┌─ client " in drawn
    assert "├─────┤" in drawn
    assert "┌─ server " in desk.lab("show").stdout

    told = desk.lab("shell", "server", "ip", "-br", "addr", "show", "eth0").stdout
    assert "10.0.0.2/24" in told
    script = "ls /sys/class/net; findmnt -rno TARGET | grep -c ^/sys; echo $LAB_NAMESPACE; exit 7"
    by_script = desk.lab("shell", given=script)
    *interfaces, mounts, name = by_script.stdout.split()
    assert (interfaces, name, by_script.returncode) == (["eth0", "lo"], "client", 7)
    outside = subprocess.run(["findmnt", "-rno", "TARGET"], capture_output=True, text=True, check=True).stdout
    assert int(mounts) >= sum(line.startswith("/sys") for line in outside.splitlines())


def test_the_prompt_names_the_namespace(desk: Desk) -> None:
    """In a terminal the shell is the user's, and says where it is."""
    (desk.folder / "scene.py").write_text('from lab import Topology\nTOPOLOGY = Topology.pair("client", "server")\n')
    desk.lab("up", "scene.py")
    here, there = pty.openpty()
    environment = {**os.environ, "SHELL": "/bin/bash", "HOME": str(desk.folder)}
    process = desk.namespace.popen([*LAB, "shell", "server"], stdin=there, stdout=there, stderr=there, env=environment)
    os.close(there)
    said = b""
    try:
        wait_until(lambda: select.select([here], [], [], 0)[0], within_s=20, what="the prompt")
        while b"(server)" not in said and select.select([here], [], [], 10)[0]:
            said += os.read(here, 4096)
        assert b"(server)" in said
    finally:
        process.kill()
        process.wait()
        os.close(here)


def test_the_drawing_can_be_had_as_svg(desk: Desk) -> None:
    """The file is one SVG element."""
    (desk.folder / "scene.py").write_text('from lab import Topology\nHERE = Topology.pair("client", "server")\n')
    assert desk.lab("up", "scene.py", "--name", "HERE").returncode == 0
    assert desk.lab("show", "--svg", "it.svg").returncode == 0
    assert (desk.folder / "it.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("shell",), "no network is kept"),
        (("down",), "no network is kept"),
        (("down", "abcd"), "no network is kept"),
        (("up", "empty.py"), "has no topology TOPOLOGY"),
        (("up", "none.py"), "does not exist"),
        (("down", "--all", "abcd"), "either --all or names"),
    ],
)
def test_what_is_not_there_gets_one_sentence(desk: Desk, words: tuple[str, ...], sentence: str) -> None:
    """And exit status 2."""
    (desk.folder / "empty.py").write_text("")
    done = desk.lab(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_names_are_asked_for_where_there_are_several(desk: Desk) -> None:
    """An unknown name is met with those that there are."""
    (desk.folder / "scene.py").write_text('from lab import Topology\nTOPOLOGY = Topology.pair("client", "server")\n')
    desk.lab("up", "scene.py")
    desk.lab("up", "scene.py")
    names = [each["name"] for each in desk.kept()]
    assert all(name in desk.lab("down").stderr for name in names)
    assert all(name in desk.lab("shell", "xxxx").stderr for name in names)
    assert "client, server" in desk.lab("shell", names[0], "nowhere").stderr
    assert "nothere" in desk.lab("shell", names[0], "client", "nothere").stderr


def test_another_user_gets_no_answer(desk: Desk) -> None:
    """The keeper hands descriptors to its own user only."""
    (desk.folder / "scene.py").write_text('from lab import Topology\nTOPOLOGY = Topology.pair("client", "server")\n')
    desk.lab("up", "scene.py")
    (kept,) = desk.kept()
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); "
        f"s.connect({keeper.ADDRESS + kept['name']!r}); s.sendall(b'describe'); print(len(s.recv(100)))"
    )
    process = desk.namespace.popen(
        ["/usr/bin/python3", "-c", code], user=65534, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said, errors = process.communicate(timeout=20)
    assert said.strip() == "0" or "reset" in errors or "Broken pipe" in errors
    assert [each["name"] for each in desk.kept()] == [kept["name"]]


def test_a_socket_of_any_name_disturbs_nobody(desk: Desk) -> None:
    """Names of sockets are whatever a user likes, line ends and all; one of a network that is none answers nothing."""
    names = ["\0a\nb c\n@bpflab-kept-x", "\0bpflab-kept-", "\0bpflab-kept-mine mine", "\0bpflab-kept-deaf"]
    script = f"""
import socket, sys
every = [socket.socket(socket.AF_UNIX) for _ in range(4)]
for each, name in zip(every, {names!r}):
    each.bind(name)
    each.listen()
print("ready", flush=True)
every[3].accept()[0].close()
sys.stdin.read()
"""
    process = desk.namespace.popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        shown = desk.lab("show")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith("No network of yours is kept")
    finally:
        process.kill()
        process.communicate()
