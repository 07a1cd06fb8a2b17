"""`lab attach` and `lab <stem>`: a program on the interfaces of a machine, which here is a namespace of the test."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Cgroup, Stream, Topology, wait_until
from lab.bpf.attach.xdp import programs_at
from tests.kernel.door import LAB, door

TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})

COUNT = """\
// SPDX-License-Identifier: GPL-2.0-only
/* count_port: counts datagrams to a port. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
const volatile __be16 port = 0;
const volatile __be32 source = 0;
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); }
	seen SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
struct event { __be32 source; __be16 port; };
const struct event *unused __attribute__((unused));
SEC("SECTION")
int count_port(struct CONTEXT *ctx)
{
	void *end = (void *)(long)ctx->data_end, *data = (void *)(long)ctx->data;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	if ((void *)(udp + 1) > end || ip->protocol != 17 || (port && udp->dest != port))
		return PASS;
	if (source && ip->saddr != source)
		return PASS;
	__u32 slot = 0;
	__u64 *count = bpf_map_lookup_elem(&seen, &slot);
	if (count)
		__sync_fetch_and_add(count, 1);
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		event->source = ip->saddr;
		event->port = udp->dest;
		bpf_ringbuf_submit(event, 0);
	}
	return PASS;
}
char _license[] SEC("license") = "GPL";
"""
XDP = {"SECTION": "xdp", "CONTEXT": "xdp_md", "PASS": "XDP_PASS"}
TC = {"SECTION": "tc", "CONTEXT": "__sk_buff", "PASS": "0"}

VIEW = '''\
"""count_port: what it saw."""
from typing import Literal
from lab.model.table import Table

def load(bpf, *, room: int = 4, **knobs):
    """room: entries of the map"""
    return bpf.load("count_port", max_entries={"seen": room}, **knobs)

def view(program, *, unit: Literal["packets", "dozens"] = "packets"):
    """unit: what is counted in"""
    yield Table("port", (unit,), [(program.maps["seen"][0] // (12 if unit == "dozens" else 1),)])
    while True:
        yield Table("again", ("room",), [(len(program.maps["seen"]),)])

def summary(program):
    return f"{program.maps['seen'][0]} counted"
'''


SUMMARY = '''\
"""count_port: what it saw."""
def summary(program):
    return f"{program.maps['seen'][0]} counted"
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "bpf").mkdir()
    write(tmp_path, XDP)
    return tmp_path


def write(project: Path, words: dict[str, str], companion: str = "") -> None:
    text = COUNT
    for word, meant in words.items():
        text = text.replace(word, meant)
    (project / "bpf" / "count_port.bpf.c").write_text(text)
    if companion:
        (project / "bpf" / "count_port.py").write_text(companion)


def read_until(terminal: int, enough: Callable[[str], bool]) -> str:
    """What appears in the terminal, until it is enough or nothing comes any more."""
    shown = ""
    while not enough(shown):
        assert select.select([terminal], [], [], 10)[0], f"nothing more after {shown!r}"
        shown += os.read(terminal, 4096).decode()
    return shown


def refused(net: Any, project: Path, *words: str) -> str:
    """What a command says that ends by itself, with status 2."""
    with door(net["server"], project, *words) as lab:
        _, said = lab.process.communicate(timeout=20)
        assert lab.process.returncode == 2, said
    assert not programs_at(net.interface("server/eth0"))
    return said


def test_attached_until_interrupted(net: Any, project: Path) -> None:
    """It says how and which program, which is then at the interface; Ctrl-C detaches it and says what it saw."""
    with door(net["server"], project, "attach", "count_port", "--interface", "eth0", "--knob", "port=9000") as lab:
        said = lab.attached()
        (number,) = programs_at(net.interface("server/eth0")).values()
        net.send(Stream.udp("client", "server", dst_port=9000, count=3))
        net.send(Stream.udp("client", "server", dst_port=9001, count=2))
        assert lab.line() == "Ctrl-C detaches it.\n"
        status, ended = lab.end()

    assert said == f"attached count_port to eth0: native XDP, program {number}\n"
    assert (status, ended) == (0, "\ndetached count_port; it saw: seen: 1 entry\n")
    assert not programs_at(net.interface("server/eth0"))


NETFILTER = """\
// SPDX-License-Identifier: GPL-2.0-only
/* count_port: counts what comes to a netfilter hook. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
	seen SEC(".maps");
SEC("netfilter")
int count_port(void *ctx)
{
	__u32 slot = 0;
	__u64 *count = bpf_map_lookup_elem(&seen, &slot);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 1;
}
char _license[] SEC("license") = "GPL";
"""


def test_netfilter_stands_at_a_hook_of_both_families(net: Any, project: Path) -> None:
    """--hook says which, and is refused where nothing is of netfilter; IPv4 and IPv6 are both seen."""
    assert "--hook means nothing" in refused(net, project, "attach", "count_port", "-i", "eth0", "--hook", "input")
    (project / "bpf" / "count_port.bpf.c").write_text(NETFILTER)
    (project / "bpf" / "count_port.py").write_text(SUMMARY)
    assert "at which hook?" in refused(net, project, "attach", "count_port")
    with door(net["server"], project, "attach", "count_port", "--hook", "input") as lab:
        said = [lab.attached(), lab.attached()]
        for ip in (4, 6):
            net.send(Stream.udp("client", "server", dst_port=9000, count=3, ip=ip))
        status, ended = lab.end()
    assert [line.partition(",")[0] for line in said] == [
        f"attached count_port to this namespace: netfilter input IPv{ip}" for ip in (4, 6)
    ]
    assert (status, ended.splitlines()[-1]) == (0, "detached count_port; it saw: 6 counted")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_service_manager_ends_it_as_ctrl_c_does(net: Any, project: Path, number: int) -> None:
    """SIGTERM and SIGHUP detach, status 0."""
    with door(net["server"], project, "attach", "count_port", "--interface", "eth0") as lab:
        lab.attached()
        assert lab.line()
        status, said = lab.end(number)

    assert (status, said) == (0, "\ndetached count_port; it saw: nothing in its maps\n")


def test_killed_it_leaves_nothing(net: Any, project: Path) -> None:
    """SIGKILL: the program is off the interface as soon as the process is gone."""
    with door(net["server"], project, "attach", "count_port", "-i", "eth0") as lab:
        lab.attached()
        assert programs_at(net.interface("server/eth0"))
        lab.process.kill()
        lab.process.wait()
        wait_until(lambda: not programs_at(net.interface("server/eth0")), within_s=5, what="an interface without XDP")


def test_of_another_namespace_by_its_process(net: Any, project: Path) -> None:
    """--netns PID: the command itself stays where it is, and the names are those of the other namespace."""
    sleeper = net["server"].popen(["sleep", "60"])
    with door(net["client"], project, "attach", "count_port", "-i", "eth0", "--netns", str(sleeper.pid)) as lab:
        assert "native XDP" in lab.attached()
        assert programs_at(net.interface("server/eth0"))
        assert not programs_at(net.interface("client/eth0"))


def test_a_loopback_gets_generic_xdp_and_the_reason(net: Any, project: Path) -> None:
    """Where the driver has no XDP the fallback is said with the kernel's words; --mode native refuses instead."""
    with door(net["server"], project, "attach", "count_port", "-i", "lo") as lab:
        said = lab.attached()
    assert said.startswith("attached count_port to lo: generic XDP, program ")
    assert "(no native XDP: " in said

    assert "native XDP refused" in refused(net, project, "attach", "count_port", "-i", "lo", "--mode", "native")


def test_tc_is_asked_which_way(net: Any, project: Path) -> None:
    """A program of section tc needs --direction; with it the program counts what passes that way."""
    write(project, TC)
    assert "--direction ingress" in refused(net, project, "attach", "count_port", "-i", "eth0")

    with door(net["server"], project, "attach", "count_port", "-i", "eth0", "--direction", "egress") as lab:
        assert "tcx egress" in lab.attached() or "cls_bpf egress" in lab.attached()
        net.send(Stream.udp("server", "client", dst_port=9, count=2))
        lab.line()
        assert lab.end() == (0, "\ndetached count_port; it saw: seen: 1 entry\n")


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (("count_prt", "-i", "eth0"), "count_port"),
        (("count_port", "-i", "eth7"), "there are lo, eth0"),
        (("count_port",), "--interface, of lo, eth0"),
        (("count_port", "-i", "eth0", "-k", "prt=1"), "there are port"),
        (("count_port", "-i", "eth0", "-k", "port=many"), "port='many'"),
        (("count_port", "-i", "eth0", "-k", "port=70000"), "port=70000"),
        (("count_port", "-i", "eth0", "-k", "port"), "--knob name=value"),
        (("count_port", "-i", "eth0", "--direction", "ingress"), "--direction means nothing to count_port (xdp)"),
        (("count_port", "-i", "eth0", "--socket", "tcp/99"), "no tcp socket waits on port 99"),
        (("count_port", "-i", "eth0", "--socket", "99"), "tcp/8080"),
        (("count_port", "-i", "eth0", "--netns", "no-such"), "no network namespace 'no-such'"),
        (("count_port", "-i", "eth0", "--cgroup", "/no/such"), "open cgroup /no/such"),
        (("count_port", "-i", "eth0", "--cgroup", "/tmp"), "no folder of cgroup v2"),
        (("count_port", "-i", "eth0", "--mode", "fast"), "'native', 'generic'"),
    ],
)
def test_bad_input_is_a_sentence(net: Any, project: Path, words: tuple[str, ...], telling: str) -> None:
    """It names what there is instead, ends with status 2, and nothing was attached."""
    assert telling in refused(net, project, "attach", *words)


TWO = """\
// SPDX-License-Identifier: GPL-2.0-only
/* two_ways: passes, or drops. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp")
int let_through(struct xdp_md *ctx)
{
	return XDP_PASS;
}
SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}
char _license[] SEC("license") = "GPL";
"""


def test_one_of_several_programs(net: Any, project: Path) -> None:
    """Two XDP programs have no room on one interface: --program says which; a wrong name is met with those there."""
    (project / "bpf" / "two_ways.bpf.c").write_text(TWO)
    assert "--program, of let_through, drop" in refused(net, project, "attach", "two_ways", "-i", "eth0")
    assert "let_through, drop" in refused(net, project, "attach", "two_ways", "-i", "eth0", "--program", "dorp")

    with door(net["server"], project, "attach", "two_ways", "-i", "eth0", "--program", "drop") as lab:
        assert lab.attached().startswith("attached drop to eth0")
        assert net.send(Stream.udp("client", "server", dst_port=9, count=3)).received == 0


def test_knobs_are_read_by_their_type(net: Any, project: Path) -> None:
    """A port in hex and an address as text reach the program in wire order: it counts just that sender."""
    write(project, XDP, VIEW)
    client = net.topology.address("client", 4)
    for address, counted in ((client, 1), ("192.0.2.1", 0)):
        options = ("--knob", "port=0x2328", "-k", f"source={address}", "--interface", "eth0")
        with door(net["server"], project, "attach", *options, "count_port") as lab:
            lab.attached()
            net.send(Stream.udp("client", "server", dst_port=9000, count=1))
            net.send(Stream.udp("client", "server", dst_port=9001, count=1))
            lab.line()
            assert lab.end()[1].endswith(f"it saw: {counted} counted\n")


def test_events_of_a_program_without_a_companion(net: Any, project: Path) -> None:
    """`lab <stem> --json` prints its ring buffer's records, a line each, as they come."""
    with door(net["server"], project, "count_port", "-i", "eth0", "--json") as lab:
        lab.attached()
        net.send(Stream.udp("client", "server", dst_port=9000, count=2))
        events = [json.loads(lab.line()) for _ in range(2)]
        status, said = lab.end()

    assert status == 0, said
    assert [each["port"] for each in events] == [9000, 9000]


def test_the_companions_view_with_its_options(net: Any, project: Path) -> None:
    """Options come from keyword-only parameters; --once shows one period; the summary goes to standard error."""
    write(project, XDP, VIEW)
    words = ("count_port", "-i", "eth0", "--once", "--every", "10ms", "--unit", "dozens", "--room", "2")
    with door(net["server"], project, *words, "--json") as lab:
        said, errors = lab.process.communicate(timeout=20)
        assert lab.process.returncode == 0, errors
    assert json.loads(said) == {"port": [{"dozens": 0}]}

    with door(net["server"], project, *words) as lab:
        said, errors = lab.process.communicate(timeout=20)
    assert said == "port\ndozens\n     0\n"
    assert errors.splitlines()[-1] == "0 counted"


def test_a_live_view_in_a_pipe(net: Any, project: Path) -> None:
    """A generator is asked once a period; --for ends it; each time it prints anew, without escape sequences."""
    write(project, XDP, VIEW)
    with door(net["server"], project, "count_port", "-i", "eth0", "--every", "10ms", "--for", "25ms") as lab:
        said, _ = lab.process.communicate(timeout=20)

    assert said == "port\npackets\n      0\n\n" + "again\nroom\n   4\n\n" * 2


def test_a_terminal_is_redrawn(net: Any, project: Path) -> None:
    """In a terminal the view is drawn over the one before, and Ctrl-C typed there ends it."""
    write(project, XDP, VIEW)
    leader, follower = os.openpty()
    process = net["server"].popen(
        [*LAB, "count_port", "-i", "eth0", "--every", "20ms"],
        cwd=project,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
    )
    os.close(follower)
    shown = read_until(leader, lambda text: text.count("again") > 1)
    process.send_signal(signal.SIGINT)
    shown += read_until(leader, lambda text: "counted" in text)
    assert process.wait(timeout=20) == 0
    os.close(leader)
    assert "\x1b[" in shown
    assert shown.rstrip().endswith("0 counted")


def test_what_a_help_page_says(project: Path) -> None:
    """The companion's options with their docstrings' words, without loading anything."""
    write(project, XDP, VIEW)
    said = subprocess.run(
        [*LAB, "count_port", "--help"], cwd=project, capture_output=True, text=True, check=True
    ).stdout
    assert "--unit [packets|dozens]" in said
    assert "what is counted in" in said
    assert "entries of the map" in said
    assert "--events" not in said


def test_a_cgroup_program_sees_only_its_cgroup(net: Any, project: Path) -> None:
    """--cgroup PATH: packets of sockets made inside are counted, of others not."""
    write(project, {**TC, "SECTION": "cgroup_skb/egress", "PASS": "1", "sizeof(struct ethhdr)": "0"}, VIEW)
    with Cgroup() as group, door(net["client"], project, "attach", "count_port", "--cgroup", str(group.path)) as lab:
        assert f"cgroup {group.path}" in lab.attached()
        with net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            outside.sendto(b"x", (str(net.topology.address("server", 4)), 9))
        with group.entered(), net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
            inside.sendto(b"x", (str(net.topology.address("server", 4)), 9))
        lab.line()
        assert lab.end()[1].endswith("it saw: 1 counted\n")


REUSEPORT = """\
// SPDX-License-Identifier: GPL-2.0-only
/* turn_away: no socket gets anything. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
__u64 asked;
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
	asked_map SEC(".maps");
SEC("sk_reuseport")
int turn_away(struct sk_reuseport_md *context)
{
	__u32 slot = 0;
	__u64 *count = bpf_map_lookup_elem(&asked_map, &slot);
	if (count)
		__sync_fetch_and_add(count, 1);
	return SK_DROP;
}
char _license[] SEC("license") = "GPL";
"""


def test_a_listening_socket_of_another_process(net: Any, project: Path) -> None:
    """--socket udp/7000 finds the waiting socket of this test; the program decides for it, until it is detached."""
    (project / "bpf" / "turn_away.bpf.c").write_text(REUSEPORT)
    with net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("0.0.0.0", 7000))
        server.settimeout(5)
        with (
            net["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            door(net["server"], project, "attach", "turn_away", "--socket", "udp/7000") as lab,
        ):
            assert "no udp socket waits on port 7001" in refused(
                net, project, "attach", "turn_away", "--socket", "udp/7001"
            )
            client.connect((str(net.topology.address("server", 4)), 7000))
            assert "sk_reuseport" in lab.attached()
            client.send(b"lost")
            lab.line()
            assert lab.end()[1].endswith("asked_map: 1 entry\n")
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            client.send(b"taken")
        assert server.recv(10) == b"taken"
