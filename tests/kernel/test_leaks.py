"""The leak check of the plugin: each kind of thing is found, by the name of its test, and nothing else is blamed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from lab.kernel import belongings

LEAKY = '''
import os, socket, subprocess, threading
import pytest
from lab import Mode, Topology

TOPOLOGY = Topology.pair("client", "server")
kept = []

def leak(thing):
    kept.append(thing)

def test_clean(net, bpf):
    """Traffic, whose packet sockets are closed in the background; a process; a program."""
    from lab.traffic import frames
    net["client"].popen(["true"])
    program = bpf.load("xdp_count_packet")
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        net.exchange(frames.udp(net, "client", "server", dst_port=9), at="client/eth0")

def test_after_it(net):
    """It is not blamed for what the one before closes late."""

def test_namespace(net):
    from lab.kernel import netns
    leak(netns.open_current())

def test_program(net):
    from lab.bpf import load
    leak(load("xdp_count_packet"))

def test_attachment(net, bpf):
    leak(bpf.load("xdp_count_packet").attach(net.interface("server/eth0"), mode=Mode.NATIVE, receiver=False))

def test_socket(net):
    leak(net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM))

def test_file(net):
    leak(open("/etc/hosts"))

def test_process(net):
    leak(subprocess.Popen(["sleep", "1000"]))

def test_thread(net):
    waiting = threading.Event()
    leak(waiting)
    threading.Thread(target=waiting.wait, name="forgotten", daemon=True).start()

def test_inside(net):
    from lab.kernel import netns
    netns.enter(net["client"].netns_fd)

def test_memory(net):
    leak(b"x" * (300 << 20))

def test_failing(net):
    """It fails already, and its traceback holds the socket."""
    unclosed = socket.socket()
    assert False, "on purpose"

def test_cycle(net):
    """What only a cycle of references holds is no leak."""
    circle = [socket.socket()]
    circle.append(circle)

def test_multiprocessing(net):
    """It starts two processes of its own, and keeps them."""
    from multiprocessing import get_context
    with get_context("forkserver").Pool(1) as pool:
        assert pool.map(abs, [-1]) == [1]

class TestPool:
    @pytest.fixture(scope="class")
    def pool(self):
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as made:
            yield made

    def test_pool(self, pool, net):
        """Its threads begin when it has work, and are gone with it."""
        assert list(pool.map(abs, [-1, -2])) == [1, 2]

@pytest.fixture(scope="module")
def shared():
    first, forgotten = socket.socket(), socket.socket()
    leak(forgotten)
    yield leak
    first.close()

def test_shared(shared, net):
    """The fixture's sockets are not the test's."""

def test_adds_to_what_is_shared(shared, net):
    """What it adds is to be gone with the module."""
    shared(socket.socket())

def test_last(shared, net):
    """The module ends behind this one."""

def test_without_a_fixture_of_the_lab():
    """It is not looked at, but for --lab-leaks=all."""
    leak(open("/etc/hosts"))
'''
KINDS = {
    "namespace": "network namespace net:",
    "program": '"xdp_count_packe"',
    "attachment": "attachment ",
    "socket": "socket socket:",
    "file": "file /etc/hosts",
    "process": "sleep 1000",
    "thread": "thread forgotten",
    "inside": "inside network namespace",
    "memory": "this process grew by 3",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is told of each test, by its name, wherever it is told: behind the next test where closing takes long."""
    place = tmp_path_factory.mktemp("leaks") / "test_leaky.py"
    place.write_text(LEAKY)
    words = [
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "--no-lab-run",
        "--tb=short",
        f"--rootdir={place.parent}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-c", os.devnull, str(place)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    parts = re.split(r"(fixture shared|test_leaky\.py::test_\w+)(?: of test_leaky\.py left| left|:) ", done.stdout)[1:]
    assert parts, done.stdout + done.stderr
    names = [each.rpartition("::")[2].removeprefix("test_") for each in parts[::2]]
    return dict(zip(names, parts[1::2], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_leak_is_named(said: dict[str, str], kind: str) -> None:
    """It is an error of the test that left it, in words."""
    assert KINDS[kind] in said[kind]


@pytest.mark.parametrize("kind", ["namespace", "program", "attachment", "socket"])
def test_who_opened_it_is_told(said: dict[str, str], kind: str) -> None:
    """For what the lab makes, by the line of the test."""
    assert f", in test_{kind}" in said[kind]


@pytest.mark.parametrize("kind", ["pool", "clean", "after_it", "failing", "cycle", "shared", "last", "multiprocessing"])
def test_nobody_else_is_blamed(said: dict[str, str], kind: str) -> None:
    """What is closed late, what a failure holds, garbage, what a longer-lived fixture has, and Python's own."""
    assert kind not in said


def test_what_was_for_life_and_ended_hides_nothing() -> None:
    """The number of a descriptor that was to last belongs to another one when that is closed."""
    with belongings.for_life():
        first = os.open("/dev/null", os.O_RDONLY)
    os.close(first)
    belongings.forget_ended()
    with open("/dev/null") as later:  # noqa: PTH123 - the same number again
        assert later.fileno() == first
        assert first in {each.number for each in belongings.now() if each.kind == "descriptor"}


def test_what_a_module_leaves_is_told_at_its_end(said: dict[str, str]) -> None:
    """By the fixture's name, and by that of the test that added something."""
    assert said["fixture shared"].startswith("1 thing behind")
    assert said["adds_to_what_is_shared"].startswith("1 thing behind")
