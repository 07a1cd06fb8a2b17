"""How fast a network comes up and goes: ours, `ip -batch`, and raw netlink written straight down as the floor.

All three build the same network: namespaces, veths with fixed indexes and MACs (and the bridge), both address families,
loopbacks, and in a star the static neighbours, default routes and forwarding. A bridge here has dynamic neighbours,
because those of N leaves grow with the square of N. "Up" means that frames pass: ours and the floor wait for carriers
and for addresses to be local; `ip -batch` does not, and is given that. The arms are interleaved in one run, and each
waits until the kernel has swept what the one before left. Times are in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import pytest

from lab.kernel import netns
from lab.kernel.netlink import Request, RouteSocket
from lab.net.network import Network
from lab.net.topology import Topology
from lab.wait import wait_until

LEAVES = {2: 15, 10: 11, 100: 4, 500: 3}
IP_BATCH_ROUNDS = {2: 3, 10: 2, 100: 1, 500: 1}
SHAPES: dict[str, Callable[..., Topology]] = {"star": Topology.star, "bridge": Topology.bridge}
FLOOR_RATIO = 1.3
TEARDOWN_MS = 5.0

Teardown = Callable[[], None]


@dataclass
class Times:
    """Milliseconds of one arm: up, and until the call that takes it down returns."""

    up: list[float]
    down: list[float]


def ours(topology: Topology) -> Teardown:
    """What a scenario does."""
    return Network(topology).up().close


# --- the floor: one process, straight down, nothing but the kernel's own interface -------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
NEW = 0x1 | 0x200 | 0x400
UP, QUIET, QUIET_MASK = 0x1, 0x80, 0x80 | 0x1000


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def send(sock: socket.socket, messages: list[bytes], chunk: int = 200) -> None:
    """Every message in few calls, an acknowledgement of the last one of each."""
    for start in range(0, len(messages), chunk):
        *most, last = messages[start : start + chunk]
        kind, flags = struct.unpack_from("=HH", last, 4)
        sock.send(b"".join(most) + message(kind, flags | 0x4, last[16:]))
        code = struct.unpack_from("=i", sock.recv(65536), 16)[0]
        if code:
            raise OSError(-code, os.strerror(-code))


def link(kind: int, flags: int, index: int, on: int, mask: int, attributes: bytes = b"") -> bytes:
    return message(kind, flags, struct.pack("=BxHiII", 0, 0, index, on, mask) + attributes)


def address(index: int, packed: bytes, length: int) -> bytes:
    family = 2 if len(packed) == 4 else 10
    body = struct.pack("=BBBBi", family, length, 0, 0, index) + attribute(2, packed) + attribute(1, packed)
    return message(20, NEW, body + (attribute(8, struct.pack("=I", 2)) if family == 10 else b""))


def neighbour(index: int, packed: bytes, mac: bytes) -> bytes:
    body = struct.pack("=BxxxiHBB", 2 if len(packed) == 4 else 10, index, 0x80, 0, 0)
    return message(28, 0x1 | 0x100 | 0x400, body + attribute(1, packed) + attribute(2, mac))


def default_route(index: int, gateway: bytes) -> bytes:
    body = struct.pack("=BBBBBBBBI", 2 if len(gateway) == 4 else 10, 0, 0, 0, 254, 4, 0, 1, 0)
    return message(24, NEW, body + attribute(5, gateway) + attribute(4, struct.pack("=i", index)))


def write(path: str, value: bytes) -> None:
    descriptor = os.open("/proc/sys/net/" + path, os.O_WRONLY)
    os.write(descriptor, value)
    os.close(descriptor)


def device(name: str, mac: bytes) -> bytes:
    return attribute(3, name.encode() + b"\0") + attribute(1, mac) + attribute(4, struct.pack("=I", 1500))


def floor(topology: Topology) -> Teardown:
    """The same network by raw netlink; what can be known before is known (no checks, no names, no objects)."""
    leaves, star = len(topology.veths), not topology.bridges
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    descriptors, sockets = floor_namespaces(leaves + 1, star)
    macs = [b"\2\0" + struct.pack(">I", index) for index in range(2 * leaves + 3)]
    send(sockets[0], floor_links(leaves, star, macs, descriptors))
    hub = [link(19, 1, 1, UP, UP)]
    for leaf in range(leaves):
        near, far = (star_settings if star else bridge_settings)(leaf, macs)
        hub += near
        send(sockets[leaf + 1], far)
    if not star:
        hub += [address(2 * leaves + 2, b"\x0a\0\0\1", 22), address(2 * leaves + 2, b"\xfd" + bytes(14) + b"\1", 64)]
    send(sockets[0], hub)
    if star:
        LIBC.setns(descriptors[0], CLONE_NEWNET)
        write("ipv4/ip_forward", b"1")
        write("ipv6/conf/all/forwarding", b"1")
    LIBC.setns(home, CLONE_NEWNET)
    os.close(home)
    await_carriers(sockets[0], leaves, star)
    for number, each in enumerate(sockets):
        await_local(each, (leaves if star else 1) if number == 0 else 1)
    return lambda: floor_down(sockets, descriptors)


def floor_namespaces(number: int, star: bool) -> tuple[list[int], list[socket.socket]]:
    descriptors, sockets = [], []
    for _ in range(number):
        if LIBC.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        if star:
            write("ipv6/conf/default/addr_gen_mode", b"1")
        write("ipv4/tcp_congestion_control", b"reno")
        descriptors.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        sockets.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
        sockets[-1].setsockopt(270, 12, 1)  # NETLINK_GET_STRICT_CHK
    return descriptors, sockets


def floor_links(leaves: int, star: bool, macs: list[bytes], descriptors: list[int]) -> list[bytes]:
    on, mask = (UP | QUIET, UP | QUIET_MASK) if star else (UP, UP)
    bridge, links, master = 2 * leaves + 2, [], b""
    if not star:
        info = attribute(18, attribute(1, b"bridge\0") + attribute(2 | 0x8000, attribute(23, b"\0")))
        links.append(link(16, NEW, bridge, on, mask, device("br0", macs[bridge]) + info))
        master = attribute(10, struct.pack("=I", bridge))
    for leaf in range(leaves):
        near, far = 2 + 2 * leaf, 3 + 2 * leaf
        peer = struct.pack("=BxHiII", 0, 0, far, on & ~UP, mask & ~UP) + device("eth0", macs[far])
        peer += attribute(28, struct.pack("=I", descriptors[leaf + 1]))
        info = attribute(18, attribute(1, b"veth\0") + attribute(2 | 0x8000, attribute(1 | 0x8000, peer)))
        links.append(link(16, NEW, near, on, mask, device(f"eth{leaf}", macs[near]) + master + info))
    return links


def star_settings(leaf: int, macs: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    near, far = 2 + 2 * leaf, 3 + 2 * leaf
    net4, net6 = b"\x0a" + struct.pack(">H", leaf), b"\xfd\0" + bytes(4) + struct.pack(">H", leaf) + bytes(7)
    hub, inside = [], [link(19, 1, 1, UP, UP), link(19, 1, far, UP, UP)]
    for net, length in ((net4, 24), (net6, 64)):
        hub += [address(near, net + b"\1", length), neighbour(near, net + b"\2", macs[far])]
        inside += [address(far, net + b"\2", length), neighbour(far, net + b"\1", macs[near])]
        inside.append(default_route(far, net + b"\1"))
    return hub, inside


def bridge_settings(leaf: int, macs: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    far, host = 3 + 2 * leaf, struct.pack(">H", leaf + 2)
    addresses = [address(far, b"\x0a\0" + host, 22), address(far, b"\xfd" + bytes(13) + host, 64)]
    return [], [link(19, 1, 1, UP, UP), link(19, 1, far, UP, UP), *addresses]


def await_carriers(hub: socket.socket, leaves: int, star: bool) -> None:
    """Until every end at the hub forwards: a network that drops frames is not up."""
    for index in range(2, 2 * leaves + (2 if star else 4), 2):
        while True:
            hub.send(link(18, 1, index, 0, 0, attribute(29, struct.pack("=I", 8))))
            if attribute(16, b"\6") in hub.recv(65536):  # IFLA_OPERSTATE is IF_OPER_UP
                break


def await_local(sock: socket.socket, addresses: int) -> None:
    """Until the IPv6 addresses are local: as many routes in the local table, and one for ::1, at least."""
    route = struct.pack("=BBBBBBBBI", 10, 0, 0, 0, 0, 0, 0, 0, 0) + attribute(15, struct.pack("=I", 255))
    found = 0
    while found <= addresses:
        sock.send(message(26, 0x301, route))
        found, done = 0, False
        while not done:
            data, at = sock.recv(1 << 20), 0
            while at + 16 <= len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                done |= kind == 3
                found += kind == 24 and data[at + 16 + 7] == 2  # RTN_LOCAL
                at += (size + 3) & ~3


def floor_down(sockets: list[socket.socket], descriptors: list[int]) -> None:
    for sock in sockets:
        sock.close()
    for descriptor in descriptors:
        os.close(descriptor)


# --- ip -batch ---------------------------------------------------------------------------------------------------


def ip(*arguments: str, commands: list[str] | None = None) -> None:
    text = "".join(f"{command}\n" for command in commands or ())
    subprocess.run(["ip", *arguments], input=text, text=True, check=True, timeout=60)


def ip_batch(topology: Topology) -> Teardown:
    """As with a careful shell script: one batch for the namespaces and veths, one in each namespace."""
    tag = f"bench-{os.getpid()}"
    names = {spec.name: f"{tag}-{place}" for place, spec in enumerate(topology.namespaces)}

    def down() -> None:
        ip("-batch", "-", commands=[f"netns del {name}" for name in names.values()])

    ip("-batch", "-", commands=[f"netns add {name}" for name in names.values()])
    try:
        ip("-n", names[topology.namespaces[0].name], "-batch", "-", commands=links_for_ip(topology, names))
        for name, known_as in names.items():
            ip("-n", known_as, "-batch", "-", commands=settings_for_ip(topology, name))
    except BaseException:
        down()
        raise
    return down


def links_for_ip(topology: Topology, names: dict[str, str]) -> list[str]:
    layout = topology.layout
    bridges = [layout.interfaces[bridge.name] for bridge in topology.bridges]
    links = [f"link add {each.short_name} index {each.ifindex} type bridge mcast_snooping 0" for each in bridges]
    for veth in topology.veths:
        a, b = layout.interfaces[veth.a], layout.interfaces[veth.b]
        master = f" master {a.master.split('/')[1]}" if a.master else ""
        links.append(
            f"link add {a.short_name} index {a.ifindex} address {a.mac}{master} type veth "
            f"peer name {b.short_name} index {b.ifindex} address {b.mac} netns {names[b.namespace]}"
        )
    return links


def settings_for_ip(topology: Topology, namespace: str) -> list[str]:
    layout = topology.layout
    quiet = " arp off multicast off addrgenmode none" if layout.static else ""
    inside = ["link set lo up"]
    for each in layout.of_namespace[namespace]:
        inside.append(f"link set {each.short_name} up{quiet}")
        for own in each.addresses:
            inside.append(f"addr add {own} dev {each.short_name}" + (" nodad" if own.version == 6 else ""))
        for known in layout.neighbours.get(each.name, ()):
            inside.append(f"neigh replace {known.address} lladdr {known.mac} dev {each.short_name} nud permanent")
    return inside + [f"route add {hop.prefix} via {hop.via}" for hop in layout.routes[namespace]]


# --- the race ----------------------------------------------------------------------------------------------------


def swept() -> Callable[[], None]:
    """Waits until the kernel is done with namespaces closed before: namespaces die in order, and so one more is closed.

    A veth joins it to a namespace that stays; when the veth's other end is gone, so are all that were closed earlier.
    """
    with netns.restored():
        netns.unshare()
        doomed, doomed_fd = RouteSocket(), netns.open_current()
        netns.unshare()
        witness = RouteSocket()
    peer = struct.pack("=BxHiII", 0, 0, 3, 0, 0) + attribute(28, struct.pack("=I", doomed_fd))
    info = attribute(18, attribute(1, b"veth\0") + attribute(2, attribute(1, peer)))
    body = struct.pack("=BxHiII", 0, 0, 2, 0, 0) + info
    witness.batch([Request(16, NEW, body, ("make the witness",))])
    question = Request(18, 0x1, struct.pack("=BxHiII", 0, 0, 2, 0, 0), ("look at the witness",))

    def wait() -> None:
        doomed.close()
        os.close(doomed_fd)
        wait_until(lambda: witness.ask_each([question])[0].kind == 2, within_s=20, what="the sweep of namespaces")
        witness.close()

    return wait


def race(topology: Topology, rounds: int, ip_rounds: int) -> dict[str, Times]:
    arms = {"ours": ours, "floor": floor, "ip -batch": ip_batch}
    times = {name: Times([], []) for name in arms}
    for number in range(rounds):
        order = [*arms.items()][number % 2 :] + [*arms.items()][: number % 2]
        for name, build in order:
            if name == "ip -batch" and number >= ip_rounds:
                continue
            wait = swept()
            start = time.perf_counter()
            down = build(topology)
            built = time.perf_counter()
            down()
            times[name].down.append((time.perf_counter() - built) * 1e3)
            times[name].up.append((built - start) * 1e3)
            wait()
    return times


def table(shape: str, results: dict[int, dict[str, Times]]) -> str:
    lines = [
        f"{shape:>8} | {'floor':>8} {'ours':>8} {'ratio':>6} {'per leaf':>9} {'ip -batch':>10} | down: {'ours':>7}"
    ]
    for leaves, times in results.items():
        up = {name: median(each.up) for name, each in times.items()}
        lines.append(
            f"{leaves:>8} | {up['floor']:8.1f} {up['ours']:8.1f} {up['ours'] / up['floor']:6.2f} "
            f"{up['ours'] / leaves:9.2f} {up['ip -batch']:10.1f} | {median(times['ours'].down):13.2f}"
        )
    return "\n".join(lines)


@pytest.mark.parametrize("shape", SHAPES)
def test_bring_up_is_close_to_the_floor_and_linear(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Up within 1.3 of raw netlink's time at 2 to 500 leaves, linear in them; tear-down of 100 returns within 5 ms."""
    floor(SHAPES[shape](hub := "hub", leaves=2))()
    ours(SHAPES[shape](hub, leaves=2))()
    results = {
        leaves: race(SHAPES[shape](hub, leaves=leaves, neighbours="auto" if shape == "star" else "dynamic"), rounds,
                     IP_BATCH_ROUNDS[leaves])
        for leaves, rounds in LEAVES.items()
    }  # fmt: skip
    with capsys.disabled():
        print("\n" + table(shape, results))
    for leaves, times in results.items():
        ratio = median(times["ours"].up) / median(times["floor"].up)
        assert ratio <= FLOOR_RATIO, f"{leaves} leaves: {ratio:.2f} of the floor"
    per_leaf = {leaves: median(times["ours"].up) / leaves for leaves, times in results.items()}
    assert per_leaf[500] < 2 * per_leaf[10], "not linear"
    assert median(results[100]["ours"].down) < TEARDOWN_MS
