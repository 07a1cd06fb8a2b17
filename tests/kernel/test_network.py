"""A Network on the real kernel: up or not at all, silent, and gone without a trace in this process."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab.errors import FeatureMissing, NetworkError
from lab.kernel import ethtool, netns
from lab.model.journal import journal
from lab.net.network import Network
from lab.net.topology import Bridge, NamespaceSpec, Route, Topology, Veth, Vlan, Vxlan
from lab.wait import wait_until

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ETH_P_ALL = 3


def one_datagram(net: Network, source: str, sink: str, family: int) -> bytes:
    """What arrives at `sink` of a datagram sent from `source`, which is answered and answered again."""
    kind = FAMILIES[family]
    with (
        net[sink.partition("/")[0]].socket(kind, socket.SOCK_DGRAM) as server,
        net[source.partition("/")[0]].socket(kind, socket.SOCK_DGRAM) as client,
    ):
        server.bind((str(net.topology.address(sink, family)), 0))
        server.settimeout(2)
        client.settimeout(2)
        client.sendto(b"there", server.getsockname()[:2])
        message, sender = server.recvfrom(16)
        server.sendto(b"back", sender[:2])
        return message + client.recv(16)


def descriptors() -> set[str]:
    return {f"{each.name} {each.readlink()}" for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


def here() -> tuple[int, int]:
    descriptor = netns.open_current()
    try:
        return netns.identity(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("topology", "source", "sink"),
    [
        (Topology.pair("client", "server"), "client", "server"),
        (Topology.chain("client", "dut", "server"), "client", "server"),
        (Topology.chain("a", "b", "c", "d", "e"), "a", "e"),
        (Topology.star("hub", leaves=3), "leaf1", "leaf3"),
        (Topology.star("hub", leaves=3), "leaf2", "hub"),
        (Topology.bridge("switch", leaves=("x", "y", "z")), "x", "z"),
        (Topology.bridge("switch", leaves=2), "leaf2", "switch"),
        (Topology.bridge("switch", leaves=2, neighbours="dynamic"), "leaf1", "leaf2"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_first_datagram_arrives_and_is_answered(topology: Topology, source: str, sink: str, family: int) -> None:
    """As soon as a network is up, the first datagram passes both ways."""
    with Network(topology) as net:
        assert one_datagram(net, source, sink, family) == b"thereback"


def test_a_quiet_network_carries_only_what_is_sent() -> None:
    """No ARP, ND, MLD, DAD or router frame passes any interface, from its making to a second after it came up."""
    count = 20
    with Network(Topology.chain("client", "dut", "server")) as net:
        sniffers = {}
        for each in net.interfaces:
            sniffers[each.name] = each.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sniffers[each.name].bind((each.short_name, ETH_P_ALL))
        for family, kind in FAMILIES.items():
            with (
                net["server"].socket(kind, socket.SOCK_DGRAM) as server,
                net["client"].socket(kind, socket.SOCK_DGRAM) as client,
            ):
                server.bind((str(net.topology.address("server", family)), 9000))
                for number in range(count):
                    client.sendto(b"%04d" % number, server.getsockname()[:2])
        seen: dict[str, list[bytes]] = {name: [] for name in sniffers}
        deadline = time.monotonic() + 1.2  # an MLD report may take a second (RFC 3810, section 9.11)
        while (left := deadline - time.monotonic()) > 0:
            for ready in select.select(list(sniffers.values()), [], [], left)[0]:
                name = next(name for name, each in sniffers.items() if each is ready)
                seen[name].append(ready.recv(2048))
        counters = {each.name: each.counters() for each in net.interfaces}
        for sniffer in sniffers.values():
            sniffer.close()

    wanted = [b"%04d" % number for number in range(count)] * 2
    assert {name: [frame[-4:] for frame in frames] for name, frames in seen.items()} == dict.fromkeys(seen, wanted)
    passed = {name: (each.rx_packets, each.tx_packets) for name, each in counters.items()}
    assert passed == {
        "client/eth0": (0, 2 * count),
        "dut/eth0": (2 * count, 0),
        "dut/eth1": (0, 2 * count),
        "server/eth0": (2 * count, 0),
    }


@pytest.mark.parametrize("make", [Topology.star, Topology.bridge])
def test_a_silent_hub_has_sent_nothing(make) -> None:
    """Half a second after bring-up, no interface of a star or of a bridge has seen a frame."""
    with (
        Network(make("hub", leaves=4)) as net,
        net["hub"].socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sniffer,
    ):
        poll = select.poll()
        poll.register(sniffer, select.POLLIN)
        assert poll.poll(500) == []
        assert {(each.counters().rx_packets, each.counters().tx_packets) for each in net.interfaces} == {(0, 0)}


def test_a_dynamic_network_asks() -> None:
    """With neighbours="dynamic" the kernel sends ARP: the silence of the other tests is not for want of looking."""
    with Network(Topology.pair("client", "server", neighbours="dynamic", ipv6=None)) as net:
        assert one_datagram(net, "client", "server", 4) == b"thereback"
        wait_until(
            lambda: net.interface("server/eth0").counters().rx_packets >= 2, what="an ARP request and a datagram"
        )


def test_without_ipv6_there_is_none() -> None:
    """ipv6=None leaves the family off: no address, and sending fails at once."""
    with Network(Topology.pair("client", "server", ipv6=None)) as net:
        assert net.interface("client/eth0").ipv6 is None
        assert net["client"].sysctl("net.ipv6.conf.eth0.disable_ipv6") == "1"
        assert one_datagram(net, "client", "server", 4) == b"thereback"


def test_interfaces_are_as_described() -> None:
    """Index, MAC, MTU, queues and offloads of the kernel's interfaces are those of the description."""
    topology = Topology.pair("client", "server", mtu_bytes=3000, queues=3, offloads={"tx": False, "gro": True})
    with Network(topology) as net:
        for spec in topology.interfaces:
            each = net.interface(spec.name)
            with each.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                offloads = {name: ethtool.offload(control, "eth0", name) for name in ("tx", "gro")}
            link = each.namespace.popen(["ip", "-d", "link", "show", "eth0"], stdout=subprocess.PIPE, text=True)
            shown = link.communicate(timeout=10)[0]
            assert each.namespace.run(socket.if_nametoindex, "eth0") == each.ifindex == spec.ifindex
            assert offloads == {"tx": False, "gro": True}
            for word in (f"link/ether {each.mac}", "mtu 3000", "numtxqueues 3", "numrxqueues 3", "state UP"):
                assert word in shown
            assert each.peer.peer is each
            assert each.is_up()


def test_indexes_are_distinct_in_the_whole_network() -> None:
    """No two interfaces share an index or a MAC, so both ends of a veth are up at once."""
    with Network(Topology.star("hub", leaves=5)) as net:
        assert len({each.ifindex for each in net.interfaces}) == len({each.mac for each in net.interfaces}) == 10


def test_sysctls_are_set_where_they_are_described() -> None:
    """Those of the topology hold everywhere, those of a namespace only there, and forwarding only in routers."""
    spec = NamespaceSpec("b", sysctls={"net.ipv4.conf.eth0.accept_local": 1, "net.ipv4.ip_default_ttl": 9})
    topology = Topology.chain("a", "r", "b", sysctls={"net.ipv4.tcp_sack": 0}).extended(namespaces=[spec])
    with Network(topology) as net:
        sack = {each.name: each.sysctl("net.ipv4.tcp_sack") for each in net.namespaces}
        ttl = {each.name: each.sysctl("net.ipv4.ip_default_ttl") for each in net.namespaces}
        forwards = {each.name: each.sysctl("net.ipv4.ip_forward") for each in net.namespaces}
        filters = {each.sysctl("net.ipv4.conf.eth0.rp_filter") for each in net.namespaces}
        assert sack == {"a": "0", "r": "0", "b": "0"}
        assert (ttl["b"], ttl["a"] == ttl["r"] != "9") == ("9", True)
        assert forwards == {"a": "0", "r": "1", "b": "0"}
        assert filters == {"0"}
        assert net["b"].sysctl("net.ipv4.conf.eth0.accept_local") == "1"
        net["a"].set_sysctl("net.ipv4.ip_default_ttl", 7)
        assert (net["a"].sysctl("net.ipv4.ip_default_ttl"), net["r"].sysctl("net.ipv4.ip_default_ttl")) == (
            "7",
            ttl["r"],
        )


def test_addresses_on_loopbacks_are_reached() -> None:
    """An address on a namespace's loopback is routed to and answers."""
    backend = NamespaceSpec("server", loopback=("198.51.100.7/32", "fd77::7/128"))
    topology = Topology.chain("client", "dut", "server").extended(
        namespaces=[backend, NamespaceSpec("dut", forwarding=True, routes=(Route("198.51.100.7/32", via="10.0.1.2"),))]
    )
    with (
        Network(topology) as net,
        net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("198.51.100.7", 9))
        server.settimeout(2)
        client.sendto(b"hello", ("198.51.100.7", 9))
        assert server.recv(9) == b"hello"


def test_vxlan_carries_frames() -> None:
    """Two VXLAN interfaces with one VNI are a segment of their own, over IPv4 and over IPv6 alike."""
    for options in ({}, {"ipv4": None}):
        topology = Topology.pair("a", "b", **options).extended(
            vxlans=[
                Vxlan("a/vx0", "a/eth0", "b/eth0", vni=7, ipv4="10.99.0.1/24"),
                Vxlan("b/vx0", "b/eth0", "a/eth0", vni=7, ipv4="10.99.0.2/24"),
            ]
        )
        with Network(topology) as net:
            assert one_datagram(net, "a/vx0", "b/vx0", 4) == b"thereback"
            assert net.interface("a/eth0").counters().tx_packets == 1


def test_vlan_carries_tagged_frames_or_says_that_the_kernel_has_none() -> None:
    """A VLAN interface works where the kernel has the device; elsewhere the error is FeatureMissing and says so."""
    topology = Topology.pair("a", "b").extended(
        vlans=[Vlan("a/v10", "a/eth0", 10, ipv4="10.98.0.1/24"), Vlan("b/v10", "b/eth0", 10, ipv4="10.98.0.2/24")]
    )
    try:
        with Network(topology) as net:
            assert one_datagram(net, "a/v10", "b/v10", 4) == b"thereback"
    except FeatureMissing as missing:
        assert "CONFIG_VLAN_8021Q" in missing.mend
        with netns.restored():
            netns.unshare()
            command = ["ip", "link", "add", "link", "lo", "name", "v10", "type", "vlan", "id", "10"]
            assert subprocess.run(command, capture_output=True).returncode != 0


def test_a_free_form_with_two_bridges_and_a_cable_between_them() -> None:
    """Two bridges joined by a veth are one segment."""
    topology = Topology.of(
        ["left", "right", "a", "b"],
        [Veth("left/p0", "a/eth0"), Veth("right/p0", "b/eth0"), Veth("left/up", "right/up")],
        bridges=[Bridge("left/br0", ("left/p0", "left/up")), Bridge("right/br0", ("right/p0", "right/up"))],
    )
    with Network(topology) as net:
        for family in (4, 6):
            assert one_datagram(net, "a", "b", family) == b"thereback"


def test_one_namespace_may_hold_both_ends() -> None:
    """A veth within one namespace is a loop of wire."""
    with Network(Topology.of(["only"], [Veth("only/a", "only/b")])) as net:
        assert net.interface("only/a").peer.name == "only/b"
        assert net.interface("only/a").is_up()


def test_a_refused_part_leaves_nothing_behind() -> None:
    """When the kernel refuses the last request, the error names it in its words and no descriptor is left."""
    topology = Topology.star("hub", leaves=5).extended(
        namespaces=[NamespaceSpec("leaf5", routes=(Route("10.77.0.0/16", via="10.0.4.1"),))]
    )
    layout = topology.layout
    hop = layout.routes["leaf5"][0]
    broken = {**layout.routes, "leaf5": (hop, hop)}
    object.__setattr__(topology, "layout", type(layout)(**{**vars(layout), "routes": broken}))
    before, home = descriptors(), here()
    with pytest.raises(NetworkError) as caught:
        Network(topology).up()
    assert "10.77.0.0/16 of leaf5" in caught.value.what
    assert caught.value.kernel == "File exists"
    assert (descriptors(), here()) == (before, home)


def test_an_error_in_the_middle_of_a_batch_is_found() -> None:
    """Only the last message is acknowledged, yet the refusal of an earlier one is raised, in the kernel's sentence."""
    topology = Topology.pair("a", "b", sysctls={"net.ipv6.conf.default.disable_ipv6": 1})
    with pytest.raises(NetworkError) as caught:
        Network(topology).up()
    assert "the address fd00::" in caught.value.what
    assert caught.value.kernel.endswith("IPv6 is disabled on this device")


def test_the_caller_stays_where_it_is() -> None:
    """After bring-up, failing callables and tear-down the thread is in its own namespace, and others never moved."""
    home = here()
    elsewhere: list[tuple[int, int]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            elsewhere.append(here())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Network(Topology.chain("a", "b", "c")) as net:
            assert here() == home
            with pytest.raises(ZeroDivisionError):
                net["a"].run(lambda: 1 // 0)
            assert here() == home
            with net["a"].enter():
                assert here() == netns.identity(net["a"].netns_fd) != home
                assert net["b"].run(here) == netns.identity(net["b"].netns_fd)
                assert here() == netns.identity(net["a"].netns_fd)
    finally:
        stop.set()
        watcher.join()
    assert here() == home
    assert set(elsewhere) == {home}


def test_descriptors_are_given_back() -> None:
    """Ten networks leave not one descriptor, and closing twice is closing once."""
    before = descriptors()
    for _ in range(10):
        net = Network(Topology.star("hub", leaves=3)).up()
        net.close()
        net.close()
    assert descriptors() == before


def test_close_tries_every_step_and_tells_all_failures() -> None:
    """Two failing steps are both named, and what lay below them was still undone."""
    before = descriptors()
    net = Network(Topology.pair("a", "b")).up()
    order: list[str] = []
    net.on_close("first step", lambda: order.append("first"))
    net.on_close("burn the toast", lambda: 1 // 0)
    net.on_close("spill the milk", lambda: [].pop())
    with pytest.raises(NetworkError, match="2 step") as caught:
        net.close()
    assert "burn the toast" in caught.value.kernel
    assert "spill the milk" in caught.value.kernel
    assert (order, descriptors()) == (["first"], before)


def test_processes_end_with_the_network() -> None:
    """close() ends what popen() started, and what that started in turn."""
    with Network(Topology.pair("a", "b")) as net:
        shell = net["a"].popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
        assert shell.stdout is not None
        grandchild = int(shell.stdout.readline())
        assert Path(f"/proc/{shell.pid}/ns/net").stat().st_ino == netns.identity(net["a"].netns_fd)[1]
        shell.stdout.close()
    assert shell.returncode == -signal.SIGKILL
    wait_until(lambda: not running(grandchild), what="the end of the shell's child")


def test_a_process_outlives_the_thread_that_asked_for_it() -> None:
    """A process started from a short-lived thread keeps running after the thread is gone."""
    with Network(Topology.pair("a", "b")) as net:
        started: list[subprocess.Popen[bytes]] = []
        thread = threading.Thread(target=lambda: started.append(net["a"].popen(["sleep", "1000"])))
        thread.start()
        thread.join()
        with pytest.raises(subprocess.TimeoutExpired):
            started[0].wait(timeout=0.2)
        assert Path(f"/proc/{started[0].pid}/ns/net").stat().st_ino == netns.identity(net["a"].netns_fd)[1]


def test_a_process_dies_with_the_lab() -> None:
    """SIGKILL of the lab's process takes the processes in its namespaces along."""
    code = (
        "from lab.net.network import Network; from lab.net.topology import Topology\n"
        "net = Network(Topology.pair('a', 'b')).up()\n"
        "print(net['a'].popen(['sleep', '1000']).pid, flush=True)\n"
        "import signal; signal.pause()"
    )
    lab = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    child = int(lab.stdout.readline())
    assert running(child)
    lab.kill()
    lab.communicate(timeout=10)
    wait_until(lambda: not running(child), what="the end of the lab's child")


def test_a_missing_command_is_an_error_and_not_a_process() -> None:
    """popen() of what does not exist raises, and the thread is back."""
    home = here()
    with Network(Topology.pair("a", "b")) as net:
        with pytest.raises(FileNotFoundError):
            net["a"].popen(["no-such-command-anywhere"])
        assert here() == home


def test_unknown_names_are_told_with_the_known_ones() -> None:
    """Asking for what is not there names what is."""
    with Network(Topology.pair("client", "server")) as net:
        with pytest.raises(NetworkError, match="client, server"):
            net["sever"]
        with pytest.raises(NetworkError, match="server/eth0"):
            net.interface("server/eth9")
        assert net.interface("server") is net.interface("server/eth0")
    with pytest.raises(NetworkError, match="not up"):
        net["client"]


def test_counters_count() -> None:
    """Counters of an interface and of a namespace agree, and their difference is what was sent."""
    with Network(Topology.pair("client", "server")) as net:
        before = net.interface("server/eth0").counters()
        one_datagram(net, "client", "server", 4)
        after = net["server"].counters()["eth0"]
        assert ((after - before).rx_packets, (after - before).tx_packets) == (1, 1)
        assert after == net.interface("server/eth0").counters()
        assert after.rx_bytes - before.rx_bytes == 14 + 20 + 8 + len(b"there")


def test_the_drawing_is_made_only_for_a_reader() -> None:
    """A network that comes up notes its topology; the drawing is made when the note is read."""
    topology = Topology.pair("client", "server")
    with journal() as kept, Network(topology):
        assert "_svg" not in vars(topology)
    (noted,) = kept.of("topology")
    assert noted == {"name": "pair", "mermaid": topology.to_mermaid(), "svg": topology.to_svg()}
    assert "_svg" in vars(topology)


def test_hundreds_of_namespaces_come_and_go() -> None:
    """A star of 200 is up, the last leaf reaches the first, and tear-down does not wait for the kernel."""
    with Network(Topology.star("hub", leaves=200)) as net:
        assert one_datagram(net, "leaf200", "leaf1", 4) == b"thereback"
        assert one_datagram(net, "leaf200", "leaf1", 6) == b"thereback"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_the_capability_the_error_says_so() -> None:
    """A root without CAP_SYS_ADMIN is told in one error what is missing and how to mend it."""
    code = (
        "from lab.errors import NeedsRoot; from lab.net.network import Network; from lab.net.topology import Topology\n"
        "try: Network(Topology.pair('a', 'b')).up()\n"
        "except NeedsRoot as error: print(error)"
    )
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.stdout.splitlines() == [
        "make a network namespace: it needs CAP_SYS_ADMIN",
        '  kernel: "Operation not permitted"',
        "  mend:   run it as root (sudo)",
    ]


def test_a_limit_of_open_files_is_raised_or_named() -> None:
    """A soft limit that is too low is raised; a hard one is named before anything is made."""
    code = (
        "import resource, sys; from lab.errors import NetworkError\n"
        "from lab.net.network import Network; from lab.net.topology import Topology\n"
        "soft, hard = int(sys.argv[1]), int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))\n"
        "try:\n"
        "    with Network(Topology.star('hub', leaves=60)): print('up')\n"
        "except NetworkError as error: print(error)"
    )

    def said(soft: int, hard: int) -> str:
        command = [sys.executable, "-c", code, str(soft), str(hard)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    assert said(64, 1024) == "up\n"
    assert said(64, 128).startswith("open 122 more files: the hard limit of this process is 128")
