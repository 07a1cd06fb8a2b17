"""Programs in BCC style run, attach and are asserted about as all others are."""

from __future__ import annotations

import gc
import os
import socket
import sys
from pathlib import Path

import pytest

from lab import Action, Cgroup, Direction, Mode, Network, Stream, Topology
from lab.bpf import bcc, bcc_headers
from lab.bpf.build import cache_folder
from lab.bpf.loader import Loader
from lab.errors import BuildError, FeatureMissing, LoadError, MapError, VerifierError

pytestmark = pytest.mark.needs("bcc")

TOPOLOGY = Topology.pair("client", "server")

COUNT = """
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

struct flow { __be32 source; __be16 port; u16 unused; };
struct seen { u64 packets, bytes; };

BPF_HASH(flows, struct flow, struct seen, 64);
BPF_PERCPU_ARRAY(verdicts, struct seen, 5);

int count(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(udp + 1) > end || ethernet->h_proto != htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP)
		return XDP_PASS;

	struct flow flow = {.source = ip->saddr, .port = udp->dest};
	struct seen none = {}, *seen = flows.lookup_or_try_init(&flow, &none);
	if (seen) {
		seen->packets++;
		seen->bytes += end - data;
	}
	return udp->dest == htons(PORT) ? XDP_DROP : XDP_PASS;
}
"""

ONE_LINE = "int pass(struct xdp_md *ctx) { return XDP_PASS; }"


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_a_packet_is_dropped_and_counted(net: Network, bpf: Loader, mode: Mode) -> None:
    """The denied port loses all, its neighbour none; the map, typed by BTF, has both flows under their address."""
    program = bpf.load_bcc(COUNT, "count", "xdp", PORT=9000)

    with program.attach(net.interface("server/eth0"), mode=mode):
        denied = net.send(Stream.udp("client", "server", dst_port=9000, count=10))
        passed = net.send(Stream.udp("client", "server", dst_port=9001, count=10))
        client = net.interface("client/eth0").ipv4

        assert (denied.received, passed.received) == (0, 10)
        flows = program.maps["flows"]
        assert {key.port: value.packets for key, value in flows.items()} == {9000: 10, 9001: 10}
        assert flows[client, 9000, 0].packets == 10


def test_it_runs_on_a_frame(bpf: Loader) -> None:
    """BPF_PROG_RUN gives the verdict by its name, and the facts are the verifier's."""
    program = bpf.load_bcc(COUNT, "count", "xdp", PORT=9000)

    assert program.run(bytes(64)).action is Action.XDP_PASS
    assert (program.type, program.section, program.stem) == ("xdp", "xdp", "count")
    assert program.facts.instructions > 10
    assert program.facts.verified_instructions > 10
    assert set(program.facts.maps) == {"flows", "verdicts"}


def test_maps_are_written_as_all_maps_are(bpf: Loader) -> None:
    """Addresses, wire order, batches, per-CPU totals and the matcher work on BCC's tables."""
    program = bpf.load_bcc(COUNT, "count", "xdp", PORT=9000)
    flows, verdicts = program.maps["flows"], program.maps["verdicts"]

    flows.update({("10.0.0.1", port, 0): {"packets": port} for port in (1, 2)})

    assert flows[{"source": "10.0.0.1", "port": 2}] == {"packets": 2, "bytes": 0}
    flows.eventually().has(("10.0.0.1", 1, 0), {"packets": 1})
    assert verdicts.total(0) == {"packets": 0, "bytes": 0}
    with pytest.raises(MapError, match="no map 'flow'"):
        program.maps["flow"]


def test_a_file_is_loaded_like_a_text(bpf: Loader, tmp_path: Path) -> None:
    """A path names the program's stem; macros and flags of the compiler reach it."""
    source = tmp_path / "passing.c"
    source.write_text("int f(struct xdp_md *ctx) { return FIRST + SECOND; }\n")

    program = bpf.load_bcc(source, "f", "xdp", cflags=["-DFIRST=1"], SECOND=True)

    assert program.run(bytes(64)).action is Action.XDP_PASS
    assert program.stem == "passing"


def test_tc_programs_go_to_tc(net: Network, bpf: Loader) -> None:
    """A tc program at ingress drops what comes, and no longer when it is detached."""
    program = bpf.load_bcc("int drop(struct __sk_buff *skb) { return 2; }", "drop", "tc")

    with program.attach(net.interface("server/eth0"), direction=Direction.INGRESS):
        assert net.send(Stream.udp("client", "server", dst_port=9000, count=5)).received == 0
    assert net.send(Stream.udp("client", "server", dst_port=9000, count=5)).received == 5


CONNECT = "int deny(struct bpf_sock_addr *ctx) { return 0; }"


@pytest.mark.needs("cgroup2")
def test_a_cgroup_hook_denies_a_connection(bpf: Loader) -> None:
    """cgroup/connect4 is loaded with the attach type of its section: connect() gives EPERM inside, and not outside."""
    program = bpf.load_bcc(CONNECT, "deny", "cgroup/connect4")

    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with outside, Cgroup() as group, program.attach(group), group.entered():
        outside.connect(("127.0.0.1", 9))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside, pytest.raises(PermissionError):
            inside.connect(("127.0.0.1", 9))


TRACE = """
BPF_ARRAY(exits, u64, 1);

TRACEPOINT_PROBE(sched, sched_process_exit)
{
	u32 first = 0;
	u64 *exits_seen = exits.lookup(&first);
	if (exits_seen && args->pid == bpf_get_current_pid_tgid() >> 32)
		__sync_fetch_and_add(exits_seen, 1);
	return 0;
}
"""


@pytest.mark.needs("tracepoint")
def test_a_tracepoint_counts_only_while_it_is_attached(bpf: Loader) -> None:
    """TRACEPOINT_PROBE names its hook by itself, and is attached by `attach` and not, as BCC would, by the load."""
    program = bpf.load_bcc(TRACE, "tracepoint__sched__sched_process_exit")
    exits = program.maps["exits"]
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    assert exits[0] == 0

    with program.attach() as attachment:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        exits.eventually().holds(lambda counts: counts[0] >= 1, "an exit was counted")

    assert attachment.how == "tracepoint sched/sched_process_exit"


CALLS = """
BPF_PROG_ARRAY(stages, 2);
int first(struct xdp_md *ctx) { stages.call(ctx, 1); return XDP_ABORTED; }
int second(struct xdp_md *ctx) { return XDP_TX; }
"""


def test_a_tail_call_goes_to_another_function_of_the_text(bpf: Loader) -> None:
    """Functions named by `also` are loaded too, and fill a prog array; an empty place is passed over."""
    program = bpf.load_bcc(CALLS, "first", "xdp", also=("second",))
    assert program.run(bytes(64)).action is Action.XDP_ABORTED

    program.maps["stages"][1] = program.programs["second"]

    assert program.run(bytes(64)).action is Action.XDP_TX


BOTH = """
BPF_PERCPU_ARRAY(runs, u64, 1);

TRACEPOINT_PROBE(bpf_trace, bpf_trace_printk) { return 0; }

RAW_TRACEPOINT_PROBE(bpf_trace_printk)
{
	int first = 0;
	u64 *seen = runs.lookup(&first);

	if (seen)
		++*seen;
	bpf_trace_printk("this tracepoint is met by its own tracer");
	return 0;
}

RAW_TRACEPOINT_PROBE(sys_enter)
{
	if (ctx->args[1] == CALL && bpf_get_current_pid_tgid() >> 32 == PID)
		bpf_trace_printk("as often as the call is made");
	return 0;
}
"""


@pytest.mark.needs("tracepoint")
def test_functions_of_several_hooks_share_their_maps_and_count_what_they_miss(bpf: Loader) -> None:
    """Each is of the section that its name says; a tracer that calls its own tracepoint is not run in itself."""
    names = ("tracepoint__bpf_trace__bpf_trace_printk", "raw_tracepoint__bpf_trace_printk", "raw_tracepoint__sys_enter")
    call = {"x86_64": 110, "aarch64": 173}[os.uname().machine]  # getppid
    program = bpf.load_bcc(BOTH, names[0], also=names[1:], PID=os.getpid(), CALL=call)
    met, calling = (program.programs[name] for name in names[1:])
    assert [each.type for each in program.programs.values()] == ["tracepoint", "raw_tracepoint", "raw_tracepoint"]

    with met.attach(), calling.attach():
        for _ in range(3):
            os.getppid()

    assert program.maps["runs"].total(0) == met.misses >= 3
    assert calling.misses == 0


EVENTS = """
struct event {
	u8 first;
	u64 length;
	__be32 address;
	__be16 port;
	u8 mac[6];
	char name[5];
	s16 below;
	bool yes;
};
BPF_RINGBUF_OUTPUT(ring, 8);
BPF_PERF_OUTPUT(perf);

int tell(struct xdp_md *ctx)
{
	struct event event = {.first = 7, .address = htonl(0x0a000001), .port = htons(9000), .name = "five", .yes = true};
	event.length = ctx->data_end - ctx->data;
	event.mac[5] = 5;
	event.below = -1;
	ring.ringbuf_output(&event, sizeof(event), 0);
	perf.perf_submit(ctx, &event, sizeof(event));
	return XDP_DROP;
}
"""


@pytest.mark.needs("ringbuf")
def test_events_arrive_typed(bpf: Loader) -> None:
    """What a program sends to a ring buffer or a perf buffer is read in order, as the struct that it submits."""
    program = bpf.load_bcc(EVENTS, "tell", "xdp")
    ring, perf = program.maps["ring"], program.maps["perf"]
    perf.listen()

    for length in (60, 61):
        program.run(bytes(length))

    told = {"first": 7, "port": 9000, "mac": bytes([0, 0, 0, 0, 0, 5]), "name": "five", "below": -1, "yes": True}
    for events in (ring.events(count=2), perf.events(count=2)):
        assert events == [{**told, "length": length, "address": 0x0A000001} for length in (60, 61)]


SENDS_RAW = """
struct inner { u32 length; };
struct outer { struct inner inner; };
BPF_RINGBUF_OUTPUT(ring, 8);

int tell(struct xdp_md *ctx)
{
	struct outer outer = {.inner = {.length = 60}};
	ring.ringbuf_output(&outer, sizeof(outer), 0);
	return XDP_DROP;
}
"""


@pytest.mark.needs("ringbuf")
def test_events_of_unknown_shape_are_bytes(bpf: Loader) -> None:
    """A struct in a struct is spelled by BCC without its members: no guess is made."""
    program = bpf.load_bcc(SENDS_RAW, "tell", "xdp")

    program.run(bytes(60))

    assert program.maps["ring"].events(count=1) == [(60).to_bytes(4, sys.byteorder)]


def test_what_clang_refuses_is_said_in_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    """The error has the line; nothing is printed beside it."""
    with pytest.raises(BuildError, match="with BCC") as raised:
        bcc.load("int f(struct xdp_md *ctx) { return nonsense; }", "f", "xdp")

    assert "undeclared identifier 'nonsense'" in raised.value.kernel
    assert capfd.readouterr() == ("", "")


def test_what_the_verifier_refuses_has_its_line_and_its_log(capfd: pytest.CaptureFixture[str]) -> None:
    """As with every other program: the sentence, the source line, the whole log as an attribute."""
    with pytest.raises(VerifierError, match=r"main\.c") as raised:
        bcc.load("int f(struct xdp_md *ctx) { return *(int *)(long)ctx->data; }", "f", "xdp")

    assert "invalid access to packet" in raised.value.kernel
    assert "processed" in raised.value.log
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fn", "section", "telling"),
    [("pas", "xdp", "it has pass"), ("pass", "", "which hook"), ("pass", "xpd", "which hook")],
)
def test_what_cannot_be_meant_is_refused(fn: str, section: str, telling: str) -> None:
    """A function that is not there, and a section that names no hook."""
    with pytest.raises(LoadError, match=telling):
        bcc.load(ONE_LINE, fn, section)


@pytest.mark.skipif(bcc_headers.has_own(), reason="this machine has its kernel's headers, so all can be compiled")
def test_headers_that_are_not_there_are_named() -> None:
    """C that wants the kernel's own headers says which package has them."""
    with pytest.raises(BuildError, match="linux-headers") as raised:
        bcc.load("#include <net/sock.h>\n" + ONE_LINE, "pass", "xdp")

    assert "net/sock.h" in raised.value.kernel


@pytest.mark.skipif(bcc_headers.has_own(), reason="this machine has its kernel's headers, and needs no others")
def test_the_headers_are_kept_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are made once, whole, in the cache; the environment is as it was."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(bcc_headers.PLACE, raising=False)

    for _ in range(2):
        bcc.load(ONE_LINE, "pass", "xdp").close()

    assert [each.name[:4] for each in cache_folder().iterdir()] == ["bcc-"]
    assert bcc_headers.PLACE not in os.environ


def living() -> int:
    """How many of BCC's objects there are; its exit handlers would keep all of them."""
    import bcc as debians

    gc.collect()
    return sum(isinstance(each, debians.BPF) for each in gc.get_objects())


def test_closing_gives_everything_back() -> None:
    """Neither descriptors nor BCC's objects stay; the maps say that they are closed."""
    bcc.load(ONE_LINE, "pass", "xdp").close()  # what is opened once for good is open now
    before = os.listdir("/proc/self/fd"), living()  # noqa: PTH208

    with bcc.load(COUNT, "count", "xdp", PORT=1) as program:
        flows = program.maps["flows"]
    del program

    assert (os.listdir("/proc/self/fd"), living()) == before  # noqa: PTH208
    with pytest.raises(MapError, match="closed"):
        flows.get(("10.0.0.1", 1, 0))


def test_compiling_leaves_mounts_and_working_directory_alone() -> None:
    """BCC works in another folder and wants tracefs; the lab's own thread sees nothing of either."""
    before = Path.cwd(), Path("/proc/thread-self/mounts").read_text()

    bcc.load(ONE_LINE, "pass", "xdp").close()

    assert (Path.cwd(), Path("/proc/thread-self/mounts").read_text()) == before


def test_a_refused_load_gives_everything_back() -> None:
    """The maps that were made before the verifier said no are gone."""
    text = "BPF_HASH(rest, u32, u32);\nint f(struct xdp_md *ctx) { u32 k = 0; rest.lookup(&k);\n"
    text += "return *(int *)(long)ctx->data; }"
    with pytest.raises(VerifierError):
        bcc.load(text, "f", "xdp")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208

    with pytest.raises(VerifierError):
        bcc.load(text, "f", "xdp")

    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_without_bcc_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where Python finds none, and where it finds PyPI's namesake."""
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(FeatureMissing, match="python3-bpfcc"):
        bcc.load(ONE_LINE, "pass", "xdp")

    (tmp_path / "bcc.py").write_text("")
    monkeypatch.delitem(sys.modules, "bcc")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FeatureMissing, match="another project's"):
        bcc.load(ONE_LINE, "pass", "xdp")
    sys.modules.pop("bcc", None)


REFUSED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 0);
	__type(key, int);
	__type(value, int);
} hollow SEC(".maps");

SEC("xdp") int f(struct xdp_md *ctx)
{
	int key = 0;

	return bpf_map_lookup_elem(&hollow, &key) ? XDP_DROP : XDP_PASS;
}
"""


def test_programs_of_both_kinds_load_in_turn(bpf: Loader, tmp_path: Path) -> None:
    """BCC takes over the one place where libbpf speaks: the lab still hears why an object of its own is refused."""
    bpf.load_bcc(ONE_LINE, "pass", "xdp")
    missing = tmp_path / "missing.bpf.c"
    missing.write_text(REFUSED)

    with pytest.raises(LoadError) as raised:
        bpf.load(missing)

    assert "hollow" in raised.value.kernel
