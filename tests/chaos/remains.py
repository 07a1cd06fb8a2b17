"""What a dead lab left, told apart from what others do on the same machine at the same time.

Processes: a round lives in a PID namespace of its own. Mounts and pins: in a mount namespace of its own, with a bpffs
of its own. Network namespaces: a veth laid into each vanishes with it. Programs, maps and attachments: they are newer
than the round, and no process of the whole machine holds them. Cgroups: they carry the number of their PID namespace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.kernel import bpf, cgroup, netlink, netns
from lab.kernel.netlink import (
    LINK,
    NEW,
    NLM_F_REQUEST,
    RTM_GETLINK,
    RTM_NEWLINK,
    Request,
    RouteSocket,
    attribute,
    nested,
    text,
    u32,
)
from lab.wait import wait_until

GET_NEXT_ID = {"prog": 11, "map": 12, "link": 31}
HOLDING = re.compile(rb"^(prog|map|link)_id:\s*(\d+)$", re.MULTILINE)
IFLA_XDP, IFLA_XDP_ATTACHED = 43, 2
Id = tuple[str, int]


class Kernel:
    """The BPF objects that are newer than this moment; `proc` is a descriptor of the machine's own /proc."""

    def __init__(self, proc: int) -> None:
        self._proc = proc
        self._last = {kind: max(_ids(kind, 0), default=0) for kind in GET_NEXT_ID}

    def orphans(self) -> list[str]:
        """Those that nobody holds: not a program, and no map of a program that is held."""
        new = {(kind, number) for kind, last in self._last.items() for number in _ids(kind, last)}
        if not new:
            return []
        held = set(self._held())
        found = new - held
        if any(kind == "map" for kind, _ in found):
            found -= {("map", each) for kind, number in held if kind == "prog" for each in _maps_of(number)}
        return [_named(each) for each in sorted(found) if _is_there(each)]

    def _held(self) -> Iterator[Id]:
        for name in os.listdir(self._proc):  # noqa: PTH208 - it is a descriptor
            if name.isdigit():
                yield from _held_by(f"/proc/self/fd/{self._proc}/{name}")


def held_by(pids: list[int]) -> set[Id]:
    """What these processes of our own PID namespace hold."""
    return {each for pid in pids for each in _held_by(f"/proc/{pid}")}


def _held_by(process: str) -> Iterator[Id]:
    folder = f"{process}/fdinfo"
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - thousands of them
            with suppress(OSError), open(f"{folder}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
                for kind, number in HOLDING.findall(file.read()):
                    yield kind.decode(), int(number)


def _ids(kind: str, number: int) -> Iterator[int]:
    """Every id that is greater, in order."""
    while True:
        attributes = bytearray(struct.pack("=III", number, 0, 0))
        try:
            bpf.bpf(GET_NEXT_ID[kind], attributes)
        except OSError as error:
            assert error.errno == errno.ENOENT
            return
        (number,) = struct.unpack_from("=I", attributes, 4)
        yield number


def _maps_of(program: int) -> list[int]:
    """Those that a program uses: nr_map_ids and map_ids of struct bpf_prog_info."""
    room = (ctypes.c_uint32 * 64)()
    with suppress(OSError):
        fd = bpf.fd_of_program(program)
        try:
            info = ctypes.create_string_buffer(128)
            struct.pack_into("=IQ", info, 52, 64, 0)
            struct.pack_into("=Q", info, 56, ctypes.addressof(room))
            attributes = bytearray(struct.pack("=IIQ", fd, 128, ctypes.addressof(info)))
            bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, attributes)
            return list(room[: struct.unpack_from("=I", info, 52)[0]])
        finally:
            os.close(fd)
    return []


def _is_there(each: Id) -> bool:
    kind, number = each
    return next(_ids(kind, number - 1), 0) == number


def names(kind: str) -> list[str]:
    """Those of all programs ("prog") or maps ("map") in the kernel, whoever's."""
    return [_name((kind, number)) for number in _ids(kind, 0)]


def _named(each: Id) -> str:
    return " ".join(filter(None, (each[0], str(each[1]), _name(each))))


def _name(each: Id) -> str:
    """ "" of what has none, and of what is gone meanwhile."""
    kind, number = each
    with suppress(OSError, KeyError):
        fd = {"prog": bpf.fd_of_program, "map": bpf.fd_of_map}[kind](number)
        try:
            info = bpf.object_info(fd)
        finally:
            os.close(fd)
        name = info[64:80] if kind == "prog" else info[24:40]
        return name.rstrip(bytes(1)).decode()
    return ""


class Witness:
    """A namespace of ours, and veths from it into the namespaces that a process holds."""

    def __enter__(self) -> Witness:
        with netns.restored():
            netns.unshare()
            self._socket = RouteSocket()
        self._laid: list[int] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def watch(self, pid: int) -> int:
        """Lays a veth into each namespace that the process holds by a descriptor, but its own; how many they are."""
        held = set()
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(each.readlink()).startswith("net:"):
                    held.add((each.stat().st_ino, each))
        ours = {Path(f"/proc/{each}/ns/net").stat().st_ino for each in ("self", pid)}
        foreign = {inode: each for inode, each in held if inode not in ours}
        for place, each in enumerate(foreign.values()):
            with suppress(OSError):  # a stopped process closes nothing, but its threads may have a moment before
                descriptor = os.open(each, os.O_RDONLY)
                try:
                    self._lay(1000 + place, descriptor)
                finally:
                    os.close(descriptor)
        return len(foreign)

    def veths(self) -> list[str]:
        """Those that are still there."""
        asked = [
            Request(RTM_GETLINK, NLM_F_REQUEST, LINK.pack(0, 0, each, 0, 0), ("look for a veth",))
            for each in self._laid
        ]
        answers = self._socket.ask_each(asked)
        there = [each for each, answer in zip(self._laid, answers, strict=True) if answer.kind == RTM_NEWLINK]
        return [f"network namespace {each - 1000}" for each in there]

    def _lay(self, ifindex: int, netns_fd: int) -> None:
        peer = LINK.pack(0, 0, 100_000, 0, 0) + u32(28, netns_fd)
        info = nested(18, text(1, "veth"), nested(2, attribute(1, peer)))
        body = LINK.pack(0, 0, ifindex, 0, 0) + info
        self._socket.batch([Request(RTM_NEWLINK, NEW, body, ("lay a veth",))])
        self._laid.append(ifindex)


def processes() -> list[str]:
    """All of this PID namespace but its first, which asks; those that have ended are taken leave of."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and each.name != "1":
            with suppress(OSError):
                found.append(f"process {each.name} {(each / 'cmdline').read_bytes()[:80]!r}")
    return found


def end_processes() -> None:
    """Whatever remained, so that the next round begins with none."""
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and each.name != "1":
            with suppress(ProcessLookupError):
                os.kill(int(each.name), signal.SIGKILL)
    wait_until(lambda: not processes(), within_s=10, what="the end of what remained")


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def below(folder: Path) -> list[str]:
    """Everything in a folder; what vanishes meanwhile is passed over."""
    return [str(Path(path, name)) for path, folders, files in os.walk(folder) for name in (*folders, *files)]


def cgroups() -> list[str]:
    """Of this PID namespace; a start of the lab has swept those whose owner is dead."""
    cgroup.sweep()
    own = f"bpflab-{Path('/proc/self/ns/pid').stat().st_ino}-"
    return [f"cgroup {each.name}" for each in cgroup.root().glob(f"{own}*")]


def programs_at(control: RouteSocket, ifindex: int) -> list[str]:
    """What is attached to an interface: XDP, tcx, and qdiscs of tc."""
    body = LINK.pack(0, 0, ifindex, 0, 0)
    (answer,) = control.ask_each([Request(RTM_GETLINK, NLM_F_REQUEST, body, ("look at an interface",))])
    facts = dict(netlink.attributes(answer.body[LINK.size :]))
    xdp = dict(netlink.attributes(facts.get(IFLA_XDP, b"")))
    found = ["XDP program at the interface"] if xdp.get(IFLA_XDP_ATTACHED, b"\0")[0] else []
    tc = struct.pack("=BxxxiIII", 0, ifindex, 0, 0, 0)
    qdiscs = control.ask(Request(38, NLM_F_REQUEST | netlink.NLM_F_DUMP, tc, ("list qdiscs",)))
    found += [
        "clsact at the interface" for each in qdiscs if struct.unpack_from("=4xiI", each.body) == (ifindex, 0xFFFF0000)
    ]
    for attach_type in (46, 47):
        with suppress(OSError):
            found += ["tcx program at the interface"] * bpf.prog_query(ifindex, attach_type)
    return found
