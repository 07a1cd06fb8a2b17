"""A pair of namespaces on two hosts, which here are namespaces of the test with an sshd and a veth for a cable."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from lab import LabError, Mode, Network, Stream, Topology, Veth, wait_until
from lab.errors import NetworkError
from lab.kernel.netlink import RouteSocket
from lab.kernel.nic import Nic, look_at
from lab.model.likeness import unlike
from lab.model.run import Run
from lab.net.cable import OutOfReach
from lab.physical import host as hosts
from lab.physical.loan import Loan
from lab.traffic import frames
from tests.kernel.ssh import needs_ssh, start_sshd

TOPOLOGY = Topology.of(
    ["desk", "alpha"],
    [
        Veth("desk/mgmt0", "alpha/mgmt0"),
        Veth("desk/eth1", "alpha/eth2", ipv4=None, ipv6=None),
        Veth("desk/eth3", "alpha/eth4", ipv4=None, ipv6=None),
    ],
    ipv6=None,
)
CHECKOUT = Path(__file__).parents[2]
DROP = CHECKOUT / "tests" / "bpf" / "drop.bpf.c"

pytestmark = needs_ssh

LASTING = """
import sys, time
from lab import Network, Topology
with Network(Topology.physical("eth1", peer=sys.argv[1])) as net:
    print("up", flush=True)
    time.sleep(60)
"""
THREE = """
import pytest, socket
from lab import Topology
TOPOLOGY = Topology.pair("client", "server")
@pytest.mark.topology(Topology.star("hub", leaves=2))
def test_three(net):
    pass
def test_three_sockets(net):
    net["client"].socket(socket.AF_INET)
"""


@dataclass
class Two:
    """The desk, where tests run, and alpha, which ssh reaches; the cable goes from desk's eth1 to alpha's eth2."""

    net: Any
    ssh: str
    folder: Path
    before: tuple[Nic, Nic]

    @property
    def alpha(self) -> str:
        return f"root@{self.net['alpha'].interface('mgmt0').ipv4}"

    @property
    def peer(self) -> str:
        return f"ssh:{self.alpha}/eth2"

    def pair(self, **options: Any) -> Topology:
        return Topology.physical("eth1", peer=self.peer, **options)

    def nics(self) -> tuple[Nic, Nic]:
        return look(self.net["desk"], "eth1"), look(self.net["alpha"], "eth2")

    def start(self, *argv: str, folder: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        started: subprocess.Popen[str] = self.net["desk"].popen(
            [sys.executable, *argv],
            cwd=folder or self.folder,
            env={**os.environ, "LAB_SSH": self.ssh, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return started

    def pytest(self, *words: str, **environment: str) -> tuple[int, str]:
        """In the checkout, over the cable; the run is stored in the test's own folder."""
        option = f"eth1,{self.peer}"
        argv = ["-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "--lab-runs", str(self.folder / "runs")]
        with self.start(*argv, "--physical", option, *words, folder=CHECKOUT, **environment) as process:
            said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def stored(self) -> Run:
        (path,) = (self.folder / "runs").glob("*.json")
        return Run.from_dict(json.loads(path.read_text()))

    def await_all_as_before(self) -> None:
        def restored() -> bool:
            try:
                return self.nics() == self.before
            except NetworkError:
                return False

        wait_until(restored, within_s=30, what="both interfaces to be as they were")
        wait_until(lambda: not _of_the_lab(self.folder), within_s=30, what="the end of agent and guards")


@pytest.fixture
def two(net: Any, tmp_path: Path) -> Two:
    """Nothing runs yet."""
    ssh = start_sshd(net, ["alpha", "desk"], tmp_path, asking="desk")
    folder = tmp_path / "project"
    folder.mkdir()
    return Two(net, ssh, folder, (look(net["desk"], "eth1"), look(net["alpha"], "eth2")))


@pytest.fixture
def desk(two: Two, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    """This thread is at the desk."""
    monkeypatch.setenv("LAB_SSH", two.ssh)
    with two.net["desk"].enter():
        yield two
    hosts.leave(two.alpha)


def look(namespace: Any, name: str) -> Nic:
    """What the interface is now."""
    with (
        namespace.enter(),
        closing(RouteSocket()) as routes,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control,
    ):
        return look_at(routes, control, name)


def _of_the_lab(folder: Path) -> list[str]:
    """Processes of the lab's two hosts that work in the folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if (each / "cwd").readlink() == folder and "lab.physical" in (each / "cmdline").read_text():
                found.append(each.name)
        except OSError:
            continue
    return found


def test_streams_arrive_in_both_directions(desk: Two) -> None:
    """UDP, TCP and ICMP, over IPv4 and IPv6, from either host: all of it, once, in order."""
    with Network(desk.pair()) as net:
        streams = [
            make(*ends, count=200, flows=4, ip=ip, **({} if make is Stream.icmp else {"dst_port": 9000}))
            for ends in (("client", "server"), ("server", "client"))
            for make in (Stream.udp, Stream.tcp, Stream.icmp)
            for ip in (4, 6)
        ]
        for stream in streams:
            delivery = net.send(stream)
            assert (delivery.received, delivery.reordered, delivery.duplicated) == (200, 0, 0), stream.name


def test_a_program_at_this_end_decides(desk: Two, bpf: Any) -> None:
    """What it drops is lost, as on a veth; without it everything comes. How far it came is told too."""
    with Network(desk.pair()) as net:
        with bpf.load(DROP, program="drop_xdp").attach(net.interface("server/eth0"), mode=Mode.NATIVE):
            dropped = net.send(Stream.udp("client", "server", dst_port=9000, count=50))
        passed = net.send(Stream.udp("client", "server", dst_port=9000, count=50))
    assert (dropped.offered, dropped.received, dropped.reached) == (50, 0, "server/eth0")
    assert passed.received == 50


def test_frames_are_seen_at_both_ends(desk: Two) -> None:
    """An echo request comes in here, and its reply there, each once."""
    with Network(desk.pair()) as net:
        request = frames.icmp(net.topology, "client", "server")
        received = net.exchange(request, at="client/eth0", count=2)
    assert [each["ICMP"].type for each in received["server/eth0"]] == [8]
    assert [each["ICMP"].type for each in received["client/eth0"]] == [0]
    assert (received.offered, received.left) == (1, 1)


def test_floods_are_counted_at_the_other_end(desk: Two) -> None:
    """Every frame, from either host; and a paced one takes the time that it should."""
    with Network(desk.pair(ipv6=None)) as net:
        there = frames.udp(net.topology, "client", "server", dst_port=9, payload=bytes(22))
        here = frames.udp(net.topology, "server", "client", dst_port=9, payload=bytes(22))
        for source, frame in (("client/eth0", there), ("server/eth0", here)):
            flood = net.flood(source, frame, flows=64, count=5000)
            assert (flood.offered, flood.received) == (5000, 5000), source
        paced = net.flood("client/eth0", there, seconds=0.2, rate_pps=50_000, sink="server/eth0")
    assert paced.received == paced.offered and 5_000 < paced.offered <= 10_000  # a busy machine sends fewer in the time
    assert paced.duration_s > 0.19


@pytest.mark.parametrize(("ends", "refusing"), ((("client", "server"), "eth2"), (("server", "client"), "eth1")))
def test_what_the_driver_refuses_was_not_offered(desk: Two, ends: tuple[str, str], refusing: str) -> None:
    """Nothing takes XDP's frames off the veth that is the cable: its driver refuses them, and none is a loss."""
    with Network(desk.pair(ipv6=None)) as net:
        net.take_in = lambda undo, here: None  # type: ignore[attr-defined]
        frame = frames.udp(net.topology, *ends, dst_port=9, payload=bytes(22))
        with pytest.raises(LabError, match=f"{refusing} took none of 100 live frames"):
            net.flood(f"{ends[0]}/eth0", frame, count=100)


def test_a_link_that_is_away_for_a_while_is_waited_for(desk: Two) -> None:
    """As some drivers do when a program is attached: the stream goes when the carrier is back."""
    with Network(desk.pair(ipv6=None)) as net:

        def link(state: str) -> None:
            with net["server"].popen(["ip", "link", "set", "eth0", state]) as done:
                assert done.wait() == 0

        link("down")
        back = Timer(0.2, link, ["up"])
        back.start()
        flood = net.flood("client/eth0", frames.udp(net.topology, "client", "server", dst_port=9), count=100)
        back.join()
    assert (flood.offered, flood.received) == (100, 100)


def test_both_ends_may_be_on_one_host(desk: Two) -> None:
    """A veth with both of its ends there, reached by ssh to itself: to try it out without a second machine."""
    subprocess.run(["ip", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8"], check=True)
    own = f"root@{desk.net['desk'].interface('mgmt0').ipv4}"
    try:
        with Network(Topology.physical("eth7", peer=f"ssh:{own}/eth8")) as net:
            assert net.send(Stream.udp("client", "server", dst_port=9000, count=50)).received == 50
    finally:
        hosts.leave(own)


def test_iperf3_runs_between_the_hosts(desk: Two) -> None:
    """Client there and server here, and the other way round; both say what was received."""
    with Network(desk.pair(ipv6=None)) as net:
        for ends in (("client", "server"), ("server", "client")):
            assert net.iperf3(*ends, seconds=1).bits_per_second > 1e6


def test_what_is_out_of_reach_says_so(desk: Two, bpf: Any) -> None:
    """Sockets, processes, captures and programs at the other end: one sentence each, no crash and no wrong answer."""
    with Network(desk.pair()) as net:
        for attempt in (
            lambda: net["client"].socket(socket.AF_INET),
            lambda: net["client"].popen(["true"]),
            lambda: net.capture("client/eth0"),
            lambda: bpf.load(DROP, program="drop_xdp").attach(net.interface("client/eth0"), mode=Mode.NATIVE),
        ):
            with pytest.raises(OutOfReach, match=f"client is on {desk.alpha}"):
                attempt()
        assert net.interface("client/eth0").is_up()
        with pytest.raises(NetworkError, match="eth1 is in another network of this process"):
            Network(desk.pair()).up()


def test_interfaces_come_back_as_they_were(desk: Two) -> None:
    """Name, index, MAC, MTU, flags and offloads, on both hosts, whatever the topology made of them meanwhile."""
    other = desk.pair(mtu_bytes=3000, offloads={"tx": False, "gro": True}, neighbours="dynamic")
    with Network(other) as net:
        for host, name in (("desk", "eth1"), ("alpha", "eth2")):
            with pytest.raises(NetworkError, match=f"there is no interface {name}"):
                look(desk.net[host], name)
        assert net.interface("client/eth0").offloads()["tx"] is False
        assert net.send(Stream.udp("client", "server", dst_port=9000, frame_bytes=3000, count=10)).received == 10
    assert desk.nics() == desk.before


def test_a_half_that_does_not_come_up_leaves_nothing(desk: Two) -> None:
    """The other half is refused when this one stands already: both interfaces are where they were."""
    sysctls = {"net.ipv4.conf.eth0.no_such_sysctl": 1}
    with pytest.raises(LabError, match="no_such_sysctl"):
        Network(desk.pair(sysctls=sysctls)).up()
    assert desk.nics() == desk.before


def test_refusals_come_before_anything_is_touched(desk: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """In use, not there, not reached, at another commit: one sentence, and both interfaces are as they were."""
    mgmt = desk.net["desk"].interface("mgmt0").ipv4

    def refused(here: str, peer: str) -> str:
        with pytest.raises(LabError) as raised:
            Network(Topology.physical(here, peer=peer)).up()
        return str(raised.value)

    assert f"mgmt0 is in use: it has the address {mgmt}" in refused("mgmt0", desk.peer)
    assert "there is no interface eth9" in refused("eth9", desk.peer)
    subprocess.run(["ip", "route", "add", "198.51.100.0/24", "dev", "eth3"], check=True)
    assert "eth3 is in use: the route to 198.51.100.0/24 goes out of it" in refused("eth3", desk.peer)
    assert f"host {desk.alpha}: there is no interface eth9" in refused("eth1", f"ssh:{desk.alpha}/eth9")
    assert f"host {desk.alpha}: mgmt0 is in use" in refused("eth1", f"ssh:{desk.alpha}/mgmt0")
    assert "ssh cannot reach it" in refused("eth1", "ssh:root@10.99.99.99/eth2")
    hosts.leave(desk.alpha)
    monkeypatch.setenv("LAB_SSH", "no-such-command")
    assert "no-such-command is not installed" in refused("eth1", desk.peer)
    monkeypatch.setenv("LAB_SSH", desk.ssh)
    here = hosts.read_environment(CHECKOUT)
    monkeypatch.setattr(hosts, "read_environment", lambda _: type(here)(**{**vars(here), "commit": "f" * 40}))
    assert "here at ffffffffffff" in refused("eth1", desk.peer)
    assert desk.nics() == desk.before


def test_two_ends_that_are_not_on_one_cable_are_told(desk: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have a carrier, and no frame comes over."""
    monkeypatch.setattr("lab.physical.network.CARRIER_WITHIN_S", 0.3)
    with pytest.raises(NetworkError, match=r"no frame of eth4 on .* came to eth1 within 0.3 s"):
        Network(Topology.physical("eth1", peer=f"ssh:{desk.alpha}/eth4")).up()
    assert desk.nics() == desk.before


@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGINT), ids=("killed", "interrupted"))
def test_nothing_is_left_of_a_lab_that_ends(two: Two, number: int) -> None:
    """However it ends: interfaces as they were on both hosts, though the kernel would end a veth with its namespace."""
    process = two.start("-c", LASTING, two.peer)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert len(_of_the_lab(two.folder)) >= 2
        process.send_signal(number)
    two.await_all_as_before()


def test_nothing_is_left_when_the_connection_breaks(two: Two) -> None:
    """The other host loses sight of the desk: it gives its interface back, and so does the desk, with a sentence."""
    script = LASTING.replace("time.sleep(60)", "sys.stdin.read(); net['client'].counters()")
    process = two.start("-c", script, two.peer)
    with process:
        assert process.stdout is not None
        for each in two.net["alpha"].processes:
            each.kill()
        said = process.communicate(timeout=60)[0]
    assert f"host {two.alpha}: ssh cannot reach it" in said
    two.await_all_as_before()


def test_a_second_lab_waits_for_the_first(desk: Two) -> None:
    """It is told who has the interface when that takes too long, and gets it when it is given back."""
    first = Loan("eth1")
    second = desk.start("-c", "from lab.physical.loan import Loan; Loan('eth1', within_s=0.2)", folder=desk.folder)
    with second:
        assert "eth1 is lent to another lab (process " in second.communicate(timeout=30)[0]
    waiting = desk.start("-c", LASTING, desk.peer)
    with waiting:
        wait_until(lambda: len(_of_the_lab(desk.folder)) > 0, within_s=20, what="the second to ask")
        assert waiting.poll() is None
        first.give_back()
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "up\n"
        waiting.send_signal(signal.SIGINT)
    desk.await_all_as_before()


def test_scenarios_run_over_the_cable(two: Two) -> None:
    """Unchanged, by an option; what two hosts cannot do is skipped with the reason."""
    (two.folder / "test_three.py").write_text(THREE)
    words = ("scenarios/test_xdp_filter.py", str(two.folder / "test_three.py"), "-k", "denied_port_is_dropped or three")
    status, said = two.pytest(*words, "-rs")
    assert status == 0, said
    assert "2 skipped" in said
    assert "not on two hosts: star: it has 3 namespaces, and the cable of --physical has two ends" in said
    assert f"not on two hosts: client is on {two.alpha}: no program, socket or process of this host" in said
    passed = [each.nodeid for each in two.stored().results if each.outcome == "passed"]
    assert any("test_only_the_denied_port_is_dropped[native]" in each for each in passed)
    assert two.pytest(str(two.folder / "test_three.py"), LAB_STRICT="1")[0] == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    "option", ("eth1", "eth1,alpha/eth2", "lo,ssh:alpha/eth2", "eth1,ssh:-oProxyCommand=true/eth2")
)
def test_an_option_that_names_no_cable_is_refused(two: Two, option: str) -> None:
    """Before anything is collected, with what it should look like."""
    with two.start("-m", "pytest", "--physical", option) as process:
        said, _ = process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert "physical: " in said
    assert "mend: " in said


def test_a_benchmark_runs_over_the_cable(two: Two) -> None:
    """The rate, by a benchmark that knows nothing of it; the stored run tells of both hosts and is unlike a veth's."""
    status, said = two.pytest("benchmarks/bench_xdp_filter.py", "-k", "test_rate")
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), said  # its limit is of a quiet machine
    run = two.stored()
    measurements = [each for result in run.results for each in result.measurements]
    assert len(measurements) == 1, said
    (measured,) = measurements
    assert (measured.metric, measured.method) == ("rate", "live_frames, two hosts")
    assert 0 < measured.summary["ndr_pps"] <= measured.interval[1]
    assert run.environment.settings["cable.host"] == two.alpha
    assert run.environment.settings["cable.here"].startswith("eth1, veth, ")
    plain = {name: value for name, value in run.environment.settings.items() if not name.startswith("cable.")}
    on_veth = type(run.environment)(**{**vars(run.environment), "settings": plain})
    assert any("and a veth" in each for each in unlike(run.environment, on_veth))
