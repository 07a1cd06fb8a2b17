"""Kept networks: made of one that is up, found again by their names, looked into, ended."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.keep import keeper
from lab.kernel import belongings
from lab.net.text_drawing import to_text
from lab.wait import wait_until

if TYPE_CHECKING:
    from lab.net.network import Network

ALPHABET = "abcdefghjkmnpqrstuvwxyz"  # none that looks like another one
LISTENER = re.compile(rf"^\w+: \w+ \w+ 00010000 .* @{keeper.ADDRESS[1:]}([{ALPHABET}]{{4}})$", re.MULTILINE)
BPF_PROGRAM, BPF_MAP = "anon_inode:bpf-prog", "anon_inode:bpf-map"
BPF_DESCRIPTORS = ("anon_inode:bpf", "anon_inode:[perf_event]")
READY_WITHIN_S = 5.0
_CREDENTIALS = struct.Struct("=iII")

_given: set[int] = set()


@dataclass(frozen=True)
class Kept:
    """One kept network."""

    name: str
    """Four letters, to say it by."""
    pid: int
    """Its keeper, which holds every descriptor."""
    title: str
    """Where it comes from: the test's nodeid, or the file of a topology."""
    since: float
    """Seconds since the epoch."""
    namespaces: dict[str, int]
    """The keeper's descriptor of each namespace: /proc/<pid>/fd/<this>."""
    interfaces: dict[int, str]
    """By ifindex, which no two interfaces of a network share."""
    drawing: str
    """As lines of text."""
    svg: str

    def path(self, namespace: str) -> str:
        """For nsenter(1): `nsenter --net=PATH`."""
        return f"/proc/{self.pid}/fd/{self.namespaces[namespace]}"

    @contextmanager
    def opened(self) -> Iterator[dict[str, int]]:
        """A descriptor of each namespace, for the length of the block."""
        with _asked(self.name, b"describe") as client:
            _, descriptors = _description(client)
        try:
            yield dict(zip(self.namespaces, descriptors, strict=True))
        finally:
            for each in descriptors:
                os.close(each)

    def down(self) -> None:
        """Ends it; the kernel then takes the namespaces down, within some 100 ms."""
        with _asked(self.name, b"down"):
            pass
        wait_until(lambda: self.name not in _names(), within_s=READY_WITHIN_S, what=f"the keeper of {self.name} to end")


def keep(title: str, network: Network) -> Kept:
    """A keeper for the namespaces of a network that is up, and for every BPF object that this process has open."""
    topology = network.topology
    namespaces = {each.name: each.netns_fd for each in network.namespaces}
    interfaces = {each.ifindex: each.name for each in network.interfaces}
    name = _new_name()
    descriptors = sorted({*namespaces.values(), *_bpf_descriptors()})
    about = Kept(name, 0, title, time.time(), namespaces, interfaces, to_text(topology), topology.to_svg())
    process = subprocess.Popen(
        [sys.executable, "-I", keeper.__file__, name, *map(str, namespaces.values())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=descriptors,
        start_new_session=True,
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as given, process.stdout as told:
        given.write(json.dumps(asdict(about)).encode())
        given.close()
        if told.readline() != b"ready\n":
            raise LabError(f"keep {title}: the keeping process ended with status {process.wait()}")
    process.returncode = 0  # it is to outlive this process: no warning when it is still running then
    return replace(about, pid=process.pid)


def every_kept() -> list[Kept]:
    """Those of this user on this machine, oldest first."""
    found = []
    for name in _names():
        with suppress(OSError, LabError):  # ended between the two looks, or another user's, or of no use
            found.append(_described(name))
    return sorted(found, key=lambda each: each.since)


def find(name: str) -> Kept:
    """The kept network of this name; the only one where the name is empty."""
    there = every_kept()
    found = [each for each in there if name in ("", each.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in there)
    if not there:
        raise LabError(none_kept(), mend="pytest --keep-on-failure keeps that of a failed test; lab up FILE")
    if not name:
        raise LabError(f"{len(there)} networks are kept: say which", mend=names)
    raise LabError(f"no kept network is called {name!r}", mend=f"there is {names}")


def none_kept() -> str:
    """What to say where this user keeps none: others may, root for instance."""
    return "no network of yours is kept, but of another user" if _names() else "no network is kept"


def _names() -> list[str]:
    """The kernel lists abstract sockets with an @ for their zero byte (proc_net(5)); a listener's is flagged 10000.

    Any user may give a socket any name, line ends and all.
    """
    return sorted(set(LISTENER.findall(Path("/proc/net/unix").read_text(errors="replace"))))


def _new_name() -> str:
    taken = set(_names())
    while (name := "".join(secrets.choice(ALPHABET) for _ in range(4))) in taken:
        pass
    return name


def _bpf_descriptors() -> Iterator[int]:
    """Programs, maps, and the attachments that no earlier keeper has got: nobody closes those in this process.

    The recorder of frames and its like are not the network's, and would go on at every packet of the machine.
    """
    passed_over = _given | belongings.lasting_descriptors()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor of the folder itself
            number, kind = int(descriptor.name), str(descriptor.readlink())
            if kind.startswith(BPF_DESCRIPTORS) and number not in passed_over:
                if kind not in (BPF_PROGRAM, BPF_MAP):
                    _given.add(number)
                yield number


@contextmanager
def _asked(name: str, word: bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(keeper.LONGEST_SILENCE_S)
        client.connect(keeper.ADDRESS + name)
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] != os.geteuid():
            raise LabError(f"{name} is kept by another user", mend="run it as that user")
        client.sendall(word)
        yield client


def _described(name: str) -> Kept:
    with _asked(name, b"describe") as client:
        pid = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        text, descriptors = _description(client)
    for each in descriptors:
        os.close(each)
    data = json.loads(text)
    interfaces = {int(number): name for number, name in data["interfaces"].items()}
    return Kept(**{**data, "pid": pid, "interfaces": interfaces})


def _description(client: socket.socket) -> tuple[bytes, list[int]]:
    text, descriptors = bytearray(), list[int]()
    while True:
        data, more, _, _ = socket.recv_fds(client, 1 << 16, keeper.DESCRIPTORS_A_MESSAGE, socket.MSG_CMSG_CLOEXEC)
        descriptors += more
        if not data:
            break
        text += data
    if b"." not in text:
        raise LabError("the keeping process gave no answer")
    return bytes(text.partition(b".")[2]), descriptors
