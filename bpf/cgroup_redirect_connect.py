"""What user space does with cgroup_redirect_connect: its rules, its proxy, and what it says to both.

redirector = Redirector(program)
redirector.send_to("127.0.0.1", "::1", tcp=15001, udp=15010)   # where the proxy listens
redirector.exempt(proxy_group)                                 # the proxy's own connections go out as they are
redirector.redirect("198.51.100.0/24", port=80)                # at any time, while it runs
with attached(program, clients=group, proxy=proxy_group): ...

Run as a script it is a proxy for TCP and UDP that needs no privileges: it asks getsockopt(SO_ORIGINAL_DST).

    python bpf/cgroup_redirect_connect.py 15001 15010 8 127.0.0.1 ::1
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from lab.errors import LabError

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
UDP_PORTS = 8
"""As many peers of one UDP socket can be told apart."""
LOCAL = ("127.0.0.0/8", "::1", "0.0.0.0", "::")
"""What connect() takes for this machine itself."""
FOR_PROXY = "tell_original"

Prefix = IPv4Network | IPv6Network


# ---- The program's side ----


class Redirector:
    """Writes the maps of a loaded program; local destinations are direct until a rule of the same prefix says not."""

    def __init__(self, program: Any) -> None:
        self.program = program
        for prefix in LOCAL:
            for protocol in PROTOCOLS:
                self.direct(prefix, protocol=protocol)

    def send_to(
        self, ipv4: str = "", ipv6: str = "", *, tcp: int = 15001, udp: int = 15010, udp_ports: int = UDP_PORTS
    ) -> None:
        """Where the proxy listens: one TCP port, and `udp_ports` UDP ports from `udp` on; "" is not in this family."""
        if not 1 <= udp_ports <= UDP_PORTS:
            raise ValueError(f"udp_ports={udp_ports}: 1 to {UDP_PORTS}")
        self.program.maps["proxy"][0] = {
            "address4": ipv4 or "::",
            "address6": ipv6 or "::",
            "tcp_port": tcp,
            "udp_port": udp,
            "udp_ports": udp_ports,
        }

    def redirect(self, prefix: str, *, port: int = 0, protocol: str = "tcp") -> None:
        """What goes to this prefix, and port (0: any), goes to the proxy; replaces the rule of the same three."""
        self._write(prefix, port, protocol, "REDIRECT")

    def direct(self, prefix: str, *, port: int = 0, protocol: str = "tcp") -> None:
        """An exception: what goes there goes there."""
        self._write(prefix, port, protocol, "DIRECT_RULE")

    def remove(self, prefix: str, *, port: int = 0, protocol: str = "tcp") -> None:
        """KeyError when there is no such rule."""
        del self.program.maps["rules"][_rule_key(prefix, port, protocol)]

    def exempt(self, group: Any) -> None:
        """Processes directly in this cgroup (anything with a `cgroup_fd`) are not redirected."""
        self.program.maps["exempt"][os.fstat(group.cgroup_fd).st_ino] = 1

    def _write(self, prefix: str, port: int, protocol: str, action: str) -> None:
        key = _rule_key(prefix, port, protocol)
        self.program.maps["rules"][key] = {"action": action, "bits": key["prefixlen"] - 32}


def _rule_key(prefix: str, port: int, protocol: str) -> dict[str, Any]:
    found = ip_network(prefix)
    bits = found.prefixlen + (96 if found.version == 4 else 0)
    return {
        "prefixlen": 32 + bits,
        "protocol": PROTOCOLS[protocol],
        "port": port,
        "address": mapped(str(found.network_address)),
    }


def mapped(address: str) -> IPv6Address:
    """IPv4 as ::ffff:a.b.c.d, as the maps have it.

    >>> mapped("10.0.0.1")
    IPv6Address('::ffff:a00:1')
    """
    found = ip_address(address)
    return found if found.version == 6 else IPv6Address(b"\0" * 10 + b"\xff\xff" + found.packed)


@contextmanager
def attached(program: Any, *, clients: Any, proxy: Any = None) -> Iterator[None]:
    """All hooks of the clients on their cgroup, and what answers the proxy on the proxy's (None: the same)."""
    with ExitStack() as stack:
        for name, each in program.programs.items():
            stack.enter_context(each.attach((proxy or clients) if name == FOR_PROXY else clients))
        yield


@dataclass(frozen=True)
class Redirect:
    """A socket whose traffic goes to the proxy, and whom it asked for."""

    cookie: int
    protocol: str
    process: str
    pid: int
    peers: tuple[tuple[str, int], ...]
    since_ns: int


def redirects(maps: Any) -> Iterator[Redirect]:
    """The sockets that are redirected now."""
    names = {number: name for name, number in PROTOCOLS.items()}
    for cookie, entry in maps["redirects"].items():
        peers = tuple((_plain(peer.address), peer.port) for peer in entry.peers[: entry.used])
        yield Redirect(cookie, names[entry.protocol], entry.comm, entry.pid, peers, entry.since_ns)


def outcomes(maps: Any) -> dict[str, int]:
    """How often each enum outcome."""
    return {outcome.name: times.total() for outcome, times in maps["outcomes"].items()}


def _plain(address: IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


# ---- For a person: lab cgroup_redirect_connect ----

LOOPBACK = ("127.0.0.1", "::1")
DESTINATION = re.compile(r"(?:(tcp|udp)/)?(?:\[(.+)\]|([^\[\]:]+))(?::(\d+))?")


def load(
    bpf: Any,
    *,
    to: tuple[str, ...] = (),
    via: tuple[str, ...] = (),
    tcp_port: int = 15001,
    udp_port: int = 15010,
    exempt: tuple[Path, ...] = (),
    **knobs: Any,
) -> Any:
    """Loads it with its rules.

    Options:
        to: what is redirected: 198.51.100.0/24, tcp/198.51.100.7:80, udp/[2001:db8::/32]:53
        via: the proxy's addresses; 127.0.0.1 and ::1 if not said
        tcp_port: where it listens for TCP
        udp_port: the first of the eight ports where it listens for UDP
        exempt: cgroup whose processes are left alone
    """
    program = bpf.load("cgroup_redirect_connect", **knobs)
    redirector = Redirector(program)
    families = {ip_address(each).version: each for each in via or LOOPBACK}
    redirector.send_to(families.get(4, ""), families.get(6, ""), tcp=tcp_port, udp=udp_port)
    for each in to:
        for protocol, prefix, port in destinations(each):
            redirector.redirect(prefix, port=port, protocol=protocol)
    for folder in exempt:
        program.maps["exempt"][folder.stat().st_ino] = 1
    return program


def destinations(text: str) -> list[tuple[str, str, int]]:
    """Protocol, prefix and port (0: any) of each rule that a text stands for; LabError.

    >>> destinations("tcp/198.51.100.0/24:80")
    [('tcp', '198.51.100.0/24', 80)]
    """
    found = DESTINATION.fullmatch(text)
    try:
        if not found:
            raise ValueError("no destination")
        protocol, bracketed, plain, port = found.groups()
        prefix = str(ip_network(bracketed or plain))
    except ValueError as error:
        mend = "198.51.100.0/24, tcp/198.51.100.7:80 or udp/[2001:db8::/32]:53"
        raise LabError(f"redirect {text}: {error}", mend=mend) from error
    return [(each, prefix, int(port or 0)) for each in ([protocol] if protocol else PROTOCOLS)]


def attach(program: Any, place: Any, *, serve: bool = False) -> Iterator[Any]:
    """All hooks on one cgroup.

    Options:
        serve: also runs the proxy that comes with it, exempt, until all is taken back
    """
    if serve:
        yield from _serve_on(program, place)
    for each in program.programs.values():
        yield from place.attach(each)


def _serve_on(program: Any, place: Any) -> Iterator[Any]:
    """The proxy, in a cgroup of its own, which may lie outside of the clients'; and what answers it there."""
    from lab.bpf.attachment import Attachment
    from lab.kernel import process
    from lab.kernel.cgroup import Cgroup

    entry = program.maps["proxy"][0]
    addresses = [_plain(each) for each in (entry.address4, entry.address6) if int(each)]
    command = proxy_command(addresses, entry.tcp_port, entry.udp_port)
    undo = ExitStack()
    group = undo.enter_context(Cgroup())
    program.maps["exempt"][os.fstat(group.cgroup_fd).st_ino] = 1
    with group.entered():
        child = process.spawn(place.netns.netns_fd, command, stdout=subprocess.PIPE)
    undo.callback(process.kill, child)
    with child.stdout as said:
        is_ready = said.readline()
    if not is_ready:
        undo.close()
        raise LabError(
            f"serve: the proxy ended with {child.returncode}", mend="--tcp-port and --udp-port that are free"
        )
    how = f"TCP {entry.tcp_port}, UDP {entry.udp_port} and the next {entry.udp_ports - 1}, process {child.pid}"
    yield Attachment("the proxy", " and ".join(addresses), how, {}, undo)
    yield program.programs[FOR_PROXY].attach(group)


def view(program: Any) -> list[Any]:
    """The redirected sockets, the rules, and what was decided."""
    from lab.model.table import Table

    now_ns = time.monotonic_ns()
    names = {number: name for name, number in PROTOCOLS.items()}
    living = sorted(redirects(program.maps), key=lambda each: each.since_ns)
    sockets = [
        (each.process, each.pid, each.protocol, address, port, round((now_ns - each.since_ns) / 1e9, 1))
        for each in living
        for address, port in each.peers
    ]
    rules = [
        (names[key.protocol], f"{_plain(key.address)}/{_length(key)}", key.port or "any", rule.action.name, rule.hits)
        for key, rule in program.maps["rules"].items()
    ]
    counted = [(name.lower(), times) for name, times in outcomes(program.maps).items() if times]
    return [
        Table(f"{len(living)} redirected sockets", ("process", "pid", "protocol", "to", "port", "age s"), sockets),
        Table("rules", ("protocol", "prefix", "port", "action", "hits"), sorted(rules, key=lambda row: -row[-1])),
        Table("decided", ("outcome", "times"), counted),
    ]


def _length(key: Any) -> int:
    bits = key.prefixlen - 32
    return bits - 96 if key.address.ipv4_mapped and bits >= 96 else bits


def summary(program: Any) -> str:
    """What was decided, in a sentence."""
    times = outcomes(program.maps)
    refused = times["NO_PROXY"] + times["NO_ROOM"]
    direct = times["DIRECT"] + times["DIRECT_EXEMPT"] + times["DIRECT_PROXY"]
    return f"{times['REDIRECTED']} redirected, {direct} direct, {refused} refused"


# ---- The proxy: plain Python, no privileges ----

SO_ORIGINAL_DST = 80
ADDRESS4, ADDRESS6 = struct.Struct("=H2s4s8x"), struct.Struct("=H2s4x16s4x")
UDP_IDLE_S = 30
CHUNK_BYTES = 65_536


def proxy_command(addresses: list[str], tcp: int, udp: int, udp_ports: int = UDP_PORTS) -> list[str]:
    """What starts the proxy; it says a line of JSON for each flow, the first one {"ready": true}."""
    return [sys.executable, __file__, str(tcp), str(udp), str(udp_ports), *addresses]


def original(connected: socket.socket) -> tuple[str, int]:
    """Where the client of this socket wanted to go; OSError when nobody knows (it was not redirected)."""
    try:
        _, port, packed = ADDRESS4.unpack(connected.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, ADDRESS4.size))
    except OSError:
        raw = connected.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, ADDRESS6.size)
        _, port, packed = ADDRESS6.unpack(raw)
    return str(ip_address(packed)), int.from_bytes(port, "big")


def say(protocol: str, client: Any, wanted: Any, error: str = "") -> None:
    """A line for each flow."""
    tell({"protocol": protocol, "client": client[:2], "original": wanted, "error": error})


def tell(line: dict[str, Any]) -> None:
    """To standard output, if anybody reads it."""
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(line).encode() + b"\n")


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A TCP client: its bytes to the server that it wanted, and back, half-closes included."""
    client = writer.get_extra_info("peername")
    wanted: Any = None
    try:
        wanted = original(writer.get_extra_info("socket"))
        there_reader, there_writer = await asyncio.open_connection(*wanted)
    except OSError as error:
        say("tcp", client, wanted, str(error))
        reset(writer)  # what the client would have met
        return
    say("tcp", client, wanted)
    await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
    for each in (writer, there_writer):
        each.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of one direction; a reset of one side is passed on to the other."""
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except OSError:
        reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST and not by FIN."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Doors:
    """The UDP ports. A client's first datagram gets it a socket of its own, connected to it, so that the kernel knows
    of whom getsockopt asks; and one to whom it wanted to reach."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.flows: dict[tuple[Any, Any], Flow] = {}

    def open(self, address: str, port: int) -> None:
        """Listens on a port."""
        door = _udp_socket(address)
        door.bind((address, port))
        self.loop.add_reader(door, self.enter, door)

    def enter(self, door: socket.socket) -> None:
        """What has come to a door."""
        with suppress(BlockingIOError):
            while True:
                data, client = door.recvfrom(CHUNK_BYTES)
                flow = self.flows.get((door, client)) or self.begin(door, client)
                if flow:
                    flow.send(data)

    def begin(self, door: socket.socket, client: Any) -> Flow | None:
        """The sockets of a new client; None when nobody knows where it wants to go."""
        front = _udp_socket(client[0])
        front.bind(door.getsockname())
        front.connect(client)
        wanted: Any = None
        try:
            wanted = original(front)
            back = _udp_socket(wanted[0])
            back.connect(wanted)
        except OSError as error:
            say("udp", client, wanted, str(error))
            front.close()
            return None
        say("udp", client, wanted)
        flow = self.flows[door, client] = Flow(front, back)
        self.loop.add_reader(front, flow.pump, front, back)
        self.loop.add_reader(back, flow.pump, back, front)
        self.loop.call_later(UDP_IDLE_S, self.end_if_idle, (door, client))
        return flow

    def end_if_idle(self, key: tuple[Any, Any]) -> None:
        """Looks again later while it is used."""
        flow = self.flows[key]
        if time.monotonic() - flow.used_at < UDP_IDLE_S:
            self.loop.call_later(UDP_IDLE_S, self.end_if_idle, key)
            return
        del self.flows[key]
        for each in (flow.front, flow.back):
            self.loop.remove_reader(each)
            each.close()


@dataclass
class Flow:
    """Two connected sockets: to the client, and to whom it wanted."""

    front: socket.socket
    back: socket.socket
    used_at: float = 0.0

    def send(self, data: bytes) -> None:
        """A datagram of the client's."""
        self.used_at = time.monotonic()
        with suppress(OSError):  # nobody listens there: so it would be without a proxy
            self.back.send(data)

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        """All that waits at one, to the other."""
        self.used_at = time.monotonic()
        with suppress(OSError):
            while True:
                sink.send(source.recv(CHUNK_BYTES))


def _udp_socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


async def serve(tcp: int, udp: int, udp_ports: int, addresses: list[str]) -> None:
    """Until it is ended."""
    doors = Doors(asyncio.get_running_loop())
    servers = [await asyncio.start_server(carry, address, tcp, backlog=4096) for address in addresses]
    for address in addresses:
        for port in range(udp, udp + udp_ports):
            doors.open(address, port)
    tell({"ready": True})
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(*(int(each) for each in sys.argv[1:4]), sys.argv[4:]))
