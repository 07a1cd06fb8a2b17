"""The process that lends an interface of the host to a namespace, and gives it back as it was.

Run by lab.physical.loan as `python -m lab.physical.guard FD NAME`, FD being one end of a pair of sockets. It outlives
whoever started it by as long as giving back takes: the end of the other socket, even by SIGKILL, is as good as a word.
So the interface comes back with its name, index, MAC, MTU, flags and offloads, a virtual one too, which the kernel
would end with its namespace.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from lab.errors import LabError, NetworkError
from lab.kernel import ethtool, netns
from lab.kernel.netlink import RouteSocket
from lab.kernel.nic import IFF_MULTICAST, IFF_NOARP, IFF_UP, KEPT_FLAGS, Nic, in_use, look_at, move, set_flags, settings
from lab.physical.words import error_as_dict, line
from lab.wait import wait_until

LOCK = "\0bpflab-nic-"
"""An abstract Unix socket: one for a network namespace, and gone with its process (unix(7))."""
LARGEST_MESSAGE = 65_536
_CREDENTIALS = struct.Struct("=iII")


class Guard:
    """One interface, in the namespace that this process was started in."""

    def __init__(self, name: str, lab: socket.socket) -> None:
        self.name = name
        self.lab = lab
        self.home = netns.open_current()
        self.at_home = RouteSocket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.away: tuple[RouteSocket, socket.socket] | None = None
        self.nic: Nic | None = None
        self.lent_as = ""
        self.failures: list[str] = []

    def offer(self, within_s: float) -> dict[str, Any]:
        """What the interface is; nothing of it is touched. An error when another lab has it, or anybody uses it."""
        self._lock(within_s)
        self.nic = look_at(*self.at_home, self.name)
        if why := in_use(self.at_home[0], self.nic):
            raise NetworkError(
                f"{self.name} is in use: {why}",
                mend="an interface that nobody uses, or free this one: ip addr, ip route",
            )
        return self.nic.as_dict()

    def take(self, netns_fd: int, wish: dict[str, Any]) -> dict[str, Any]:
        """Moves it into the namespace, with the index, name, MAC and MTU that are wished for; what it is then."""
        assert self.nic is not None
        with netns.inside(netns_fd):
            self.away = RouteSocket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        move(self.at_home[0], self.nic.ifindex, netns_fd, wish["ifindex"], f"move {self.name} into a namespace")
        self.lent_as = self.name
        there = look_at(*self.away, self.name)
        if there.ifindex != wish["ifindex"]:
            raise NetworkError(f"{self.name} keeps its index {there.ifindex}", mend="Linux 5.13 or newer")
        self._set(there, wish)
        return look_at(*self.away, self.lent_as).as_dict()

    def _set(self, there: Nic, wish: dict[str, Any]) -> None:
        assert self.away is not None
        routes, _ = self.away
        for each in settings(there, self.name, name=wish["name"], mac=wish["mac"], mtu_bytes=wish["mtu_bytes"]):
            try:
                routes.batch([each])
            except LabError as error:
                raise NetworkError(
                    f"{' '.join(map(str, each.what))}: refused",
                    kernel=error.kernel,
                    mend="ip -d link says what it takes",
                ) from error
            self.lent_as = wish["name"]  # the name came first, if it had to
        quiet = IFF_NOARP if wish["silent"] else IFF_MULTICAST
        routes.batch([set_flags(there.ifindex, quiet, IFF_NOARP | IFF_MULTICAST, f"{self.name} flags")])

    def give_back(self) -> list[str]:
        """As it was; what did not succeed, in words."""
        if not self.lent_as or self.away is None or self.nic is None:
            return []
        self.failures = []
        routes, control = self.away
        try:
            now = look_at(routes, control, self.lent_as)
        except LabError as error:
            return [str(error)]
        was, noarp = self.nic, IFF_NOARP | IFF_MULTICAST
        self._try("set it down", routes.batch, [set_flags(now.ifindex, 0, IFF_UP, "down")])
        for name, on in was.offloads.items():
            if now.offloads.get(name, on) != on:
                self._try(f"offload {name}", ethtool.set_offload, control, self.lent_as, name, on)
        for each in settings(now, self.name, name=was.name, mac=was.mac, mtu_bytes=was.mtu_bytes):
            self._try(str(each.what[1]), routes.batch, [each])
        self._try("flags", routes.batch, [set_flags(now.ifindex, was.flags, noarp, "set flags")])
        if self._try("move it back", self._move_home, routes, now.ifindex):
            self.lent_as = ""
            back = look_at(*self.at_home, was.name)
            self._try("set it up", self.at_home[0].batch, [set_flags(back.ifindex, was.flags, KEPT_FLAGS, "up")])
        return self.failures

    def _try(self, what: str, step: Callable[..., object], *arguments: object) -> bool:
        try:
            step(*arguments)
        except (LabError, OSError) as error:
            self.failures.append(f"{what}: {error}")
            return False
        return True

    def _move_home(self, routes: RouteSocket, ifindex: int) -> None:
        """With its old number, unless a new interface has that by now."""
        assert self.nic is not None
        try:
            move(routes, ifindex, self.home, self.nic.ifindex, "move it home")
        except NetworkError:
            move(routes, ifindex, self.home, 0, "move it home")

    def _lock(self, within_s: float) -> None:
        self._held = held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

        def got() -> bool:
            if select.select([self.lab], [], [], 0)[0]:  # it asks one thing at a time: this is its end
                raise BrokenPipeError
            try:
                held.bind(LOCK + self.name)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return False
            held.listen()
            return True

        try:
            wait_until(got, within_s=within_s, what=f"{self.name} to be given back")
        except LabError as error:
            raise NetworkError(
                f"{self.name} is lent to another lab (process {self._holder()}), for more than {within_s:g} s by now",
                mend="wait for its end, or use another interface",
            ) from error

    def _holder(self) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            try:
                asking.connect(LOCK + self.name)
                pid, _, _ = _CREDENTIALS.unpack(
                    asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                )
            except OSError:
                return "unknown"
            return str(pid)


def main() -> None:
    """Serves "offer", "take" and "back" until the other end is gone."""
    lab = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: lab.shutdown(socket.SHUT_RD))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard = Guard(sys.argv[2], lab)
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(lab, LARGEST_MESSAGE, 1)
            if not message:
                return
            lab.send(_answer(guard, json.loads(message), descriptors))
            for each in descriptors:
                os.close(each)
    except OSError:  # nobody is there to hear the answer
        return
    finally:
        guard.give_back()


def _answer(guard: Guard, asked: dict[str, Any], descriptors: list[int]) -> bytes:
    try:
        if asked["do"] == "offer":
            return line(nic=guard.offer(asked["within_s"]))
        if asked["do"] == "take":
            return line(nic=guard.take(descriptors[0], asked["wish"]))
        return line(failures=guard.give_back())
    except BrokenPipeError:
        raise
    except Exception as error:
        return line(error=error_as_dict(error))


if __name__ == "__main__":
    main()
