"""What this kernel and machine can do: there, not there, or could not tell.

The thing is tried, never the version looked at: distributions carry features back and leave others out. What is tried
is tried in a namespace of its own and is gone afterwards.

>>> state("ringbuf")
<State ringbuf: yes>
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lab.errors import FeatureMissing, LabError, NeedsRoot
from lab.kernel import capabilities, probe_bpf, probe_net
from lab.kernel.probe_net import Absent
from lab.kernel.scratch import Scratch

Answer = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Feature:
    """`gives` is what the lab does with it, `since` where it came from ("" where it was always there)."""

    name: str
    gives: str
    since: str
    mend: str
    probe: Callable[[Scratch], str | None]
    """Returns where it is there, perhaps with a remark; raises Absent, or any other error for no answer."""
    is_tool: bool = False


@dataclass(frozen=True)
class State:
    """The answer of one probe; `detail` holds the kernel's words, or a remark on what is there."""

    feature: Feature
    answer: Answer
    detail: str = ""
    own_mend: str = ""
    """How to get it, where `detail` has a way of its own."""

    @property
    def name(self) -> str:
        """As in FEATURES."""
        return self.feature.name

    @property
    def there(self) -> bool:
        """False also where it could not be told: nothing may rest on a guess."""
        return self.answer == "yes"

    @property
    def mend(self) -> str:
        """How to get it: "" where it is there."""
        if self.there:
            return ""
        if self.answer == "unknown" and capabilities.lacking():
            return "run as root: only root can tell"
        return self.own_mend or self.feature.mend

    @property
    def sentence(self) -> str:
        """What is missing, in whose words, since when it exists, and how to get it."""
        if self.there:
            return f"{self.name} is there"
        since = f"; it came with {self.feature.since}" if self.feature.since else ""
        if self.answer == "unknown":
            return f"could not tell whether {self.name} is there ({self.detail}){since}; {self.mend}"
        where = "machine" if self.feature.is_tool else "kernel"
        return f"this {where} has no {self.name} ({self.detail}){since}; to get it: {self.mend}"

    @property
    def excused(self) -> bool:
        """Whether nobody could expect it here: the kernel is older, or it is a tool that a machine does without."""
        if self.feature.is_tool:
            return bool(os.environ.get("LAB_VM"))
        return not came_before(self.feature, os.uname().release)

    def __repr__(self) -> str:
        return f"<State {self.name}: {self.answer}>"


def state(name: str) -> State:
    """Whether a feature is there; LabError, with names that look alike, for one that nobody knows."""
    with Scratch() as scratch:
        return _state(_named(name), scratch)


def probe() -> list[State]:
    """All features, in the order of FEATURES, by one scratch namespace."""
    with Scratch() as scratch:
        return [_state(feature, scratch) for feature in FEATURES.values()]


def require(name: str) -> None:
    """FeatureMissing, with its sentence, unless the feature is there; NeedsRoot where only root could tell."""
    found = state(name)
    if found.there:
        return
    kind = NeedsRoot if found.answer == "unknown" and capabilities.lacking() else FeatureMissing
    raise kind(f"{name}: {_head(found)}", kernel=found.detail, mend=found.mend)


def is_strict() -> bool:
    """LAB_STRICT=1: a skip is a claim, and a wrong one is a failure."""
    return os.environ.get("LAB_STRICT") == "1"


def came_before(feature: Feature, release: str) -> bool:
    """Whether a kernel should have it: it came with an older or this version. A kernel may still be built without.

    >>> came_before(FEATURES["tcx"], "6.1.0-56-amd64")
    False
    """
    since = re.search(r"Linux (\d+)\.(\d+)", feature.since)
    version = re.match(r"(\d+)\.(\d+)", release)
    if not since or not version:
        return not feature.is_tool
    return tuple(map(int, since.groups())) <= tuple(map(int, version.groups()))


def _head(found: State) -> str:
    where = "machine" if found.feature.is_tool else "kernel"
    what = f"this {where} lacks it" if found.answer == "no" else f"could not tell whether this {where} has it"
    return what + (f" (it came with {found.feature.since})" if found.feature.since else "")


_known: dict[str, State] = {}
"""Answers, of this process: doubts are not kept, because the next attempt may do better."""


def _named(name: str) -> Feature:
    if name not in FEATURES:
        close = get_close_matches(name, FEATURES) or list(FEATURES)
        raise LabError(f"there is no feature {name!r}", mend=f"there are {', '.join(close)}")
    return FEATURES[name]


def _state(feature: Feature, scratch: Scratch) -> State:
    found = _known.get(feature.name) or _tried(feature, scratch)
    if found.answer != "unknown":
        _known[feature.name] = found
    return found


def _tried(feature: Feature, scratch: Scratch) -> State:
    try:
        return State(feature, "yes", feature.probe(scratch) or "")
    except Absent as error:
        return State(feature, "no", str(error), error.mend)
    except OSError as error:
        return State(feature, "unknown", error.strerror or str(error))
    except LabError as error:
        return State(feature, "unknown", error.kernel or error.what)


def _tool(command: str, _scratch: Scratch) -> str:
    path = shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise Absent("not on the PATH")
    return path


def _not_emulated(why: str) -> None:
    if os.environ.get("LAB_VM") == "tcg":
        raise Absent(f"this machine's processor is emulated: {why}", mend=_KVM)


def _own_speed(_scratch: Scratch) -> None:
    _not_emulated("time in it says nothing")


def _bcc(scratch: Scratch) -> str:
    _not_emulated("BCC's compiler takes 50 s there for each program")
    return _bcc_compiler(scratch)


def _bcc_compiler(_scratch: Scratch) -> str:
    """Debian's package (not its namesake on PyPI) and its library; importing it would cost 200 ms."""
    found = find_spec("bcc")
    if found is None or not found.origin:
        raise Absent("Python finds no package bcc")
    if not (Path(found.origin).parent / "libbcc.py").is_file():
        raise Absent(f"{found.origin} is another project's bcc")
    if b"libbcc.so.0\0" not in Path("/etc/ld.so.cache").read_bytes():
        raise Absent("libbcc.so.0 is not installed")
    release = os.uname().release
    if Path(f"/lib/modules/{release}/build").exists():
        return "with this kernel's headers"
    return f"no headers of {release}: C that reads the kernel's own structures does not compile"


def _room(_scratch: Scratch) -> str:
    """What a hundred thousand connections take, both ends and their processes: 1.2 GiB, and some more."""
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_mib = int(told["MemAvailable"].split()[0]) // 1024
    if free_mib < ROOM_MIB:
        raise Absent(f"{free_mib:,} MiB of memory are free, and {ROOM_MIB:,} are wanted")
    return f"{free_mib:,} MiB of memory are free"


def _device(kind: str, since: str, config: str, gives: str) -> Feature:
    probing = partial(probe_net.interface, kind=kind)
    module = {"vlan": "8021q"}.get(kind, kind)
    return Feature(kind, gives, since, f"a kernel with {config} (perhaps: modprobe {module})", probing)


def _queueing(kind: str, config: str, gives: str) -> Feature:
    probing = partial(probe_net.queueing, kind=kind)
    return Feature(kind, gives, "", f"a kernel with {config} (perhaps: modprobe sch_{kind})", probing)


def _program(name: str, package: str, gives: str) -> Feature:
    return Feature(name, gives, "", f"sudo apt-get install {package}", partial(_tool, name), is_tool=True)


def _by_name(features: Iterable[Feature]) -> dict[str, Feature]:
    return {feature.name: feature for feature in features}


_NATIVE = partial(probe_net.xdp_on_veth, flags=probe_net.XDP_FLAGS_DRV_MODE)
_GENERIC = partial(probe_net.xdp_on_veth, flags=probe_net.XDP_FLAGS_SKB_MODE)
_TRACER = "a kernel with CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS; or tp_btf"
_KPROBES = "a kernel with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS; or tp_btf, raw_tp, a tracepoint instead"
_STREAMS = "a kernel with CONFIG_NET_SOCK_MSG and CONFIG_BPF_STREAM_PARSER"
ROOM_MIB = 1536
_KVM = "hardware virtualisation (KVM) for the machine"
_BCC = "sudo apt-get install python3-bpfcc, then make setup"
_CGROUPS = "mount -t cgroup2 none /sys/fs/cgroup, in a kernel with CONFIG_CGROUPS"

FEATURES = _by_name(
    (
        Feature("xdp_native", "XDP in the driver", "Linux 5.9 (link on veth)", "a newer kernel", _NATIVE),
        Feature("xdp_generic", "XDP behind the driver", "Linux 5.9 (link)", "a newer kernel", _GENERIC),
        Feature("xdp_frags", "XDP on frames above a page", "Linux 5.18", "a newer kernel", probe_net.xdp_frags),
        Feature("live_frames", "floods by BPF_PROG_RUN", "Linux 5.18", "a newer kernel", probe_net.live_frames),
        Feature("tcx", "tc programs by a link", "Linux 6.6", 'a newer kernel; or via="cls_bpf"', probe_net.tcx),
        Feature("cls_bpf", "tc programs by a filter", "Linux 4.5 (clsact)", "a kernel with CONFIG_NET_CLS_BPF and "
                "CONFIG_NET_SCH_INGRESS", probe_net.cls_bpf),
        _device("netkit", "Linux 6.7", "CONFIG_NETKIT", "interfaces of kind netkit"),
        Feature("cgroup2", "programs at cgroup hooks", "Linux 4.10", _CGROUPS, probe_bpf.cgroup2),
        Feature("sock_ops", "TCP events of a cgroup", "Linux 4.13", "a kernel with CONFIG_CGROUP_BPF",
                probe_bpf.sock_ops),
        Feature("late_callbacks", "TCP events of sockets that were there before", "Linux 6.12", "a newer kernel; or "
                "sockets that are made later", probe_bpf.late_callbacks),
        Feature("sk_lookup", "steering to a socket", "Linux 5.9", "a newer kernel", probe_bpf.sk_lookup),
        Feature("sk_reuseport", "choice in a group of sockets", "Linux 4.19", "a newer kernel", probe_bpf.sk_reuseport),
        Feature("sockmap", "messages from socket to socket", "Linux 4.14", _STREAMS, probe_bpf.sockmap),
        Feature("ringbuf", "ring buffers", "Linux 5.8", "a newer kernel", probe_bpf.ringbuf),
        Feature("tp_btf", "typed tracepoints", "Linux 5.5", "a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS",
                probe_bpf.tp_btf),
        Feature("stray_reset", "resets where nobody listens", "Linux 6.10", "a newer kernel", probe_bpf.stray_reset),
        Feature("reset_reason", "why a reset was sent", "Linux 6.12", "a newer kernel", probe_bpf.reset_reason),
        Feature("fentry", "programs at a function's entry", "Linux 5.5", _TRACER, probe_bpf.fentry),
        Feature("kprobe", "programs at any instruction", "Linux 4.17 (by perf)", _KPROBES, probe_bpf.kprobe),
        Feature("kprobe_multi", "programs at many functions", "Linux 5.18", "a kernel with CONFIG_FPROBE and "
                "CONFIG_BPF_EVENTS", probe_bpf.kprobe_multi),
        Feature("tracepoint", "programs at tracepoints", "Linux 4.7", "a kernel with CONFIG_BPF_EVENTS, and tracefs",
                probe_bpf.tracepoint),
        Feature("bpf_stats", "run time of live programs", "Linux 5.8", "a newer kernel", probe_bpf.bpf_stats),
        Feature("batch", "maps read and written by batch", "Linux 5.6", "a newer kernel", probe_bpf.batch),
        Feature("bloom", "bloom filters", "Linux 5.16", "a newer kernel", probe_bpf.bloom),
        Feature("dynptr_xdp", "frames read through a dynptr", "Linux 6.4", "a newer kernel", probe_bpf.dynptr_xdp),
        _device("vlan", "", "CONFIG_VLAN_8021Q", "VLAN interfaces in a topology"),
        _device("vxlan", "Linux 3.7", "CONFIG_VXLAN", "VXLAN tunnels in a topology"),
        _device("bridge", "", "CONFIG_BRIDGE", "Linux bridges in a topology"),
        _queueing("netem", "CONFIG_NET_SCH_NETEM", "delay and loss on a veth"),
        _queueing("fq", "CONFIG_NET_SCH_FQ", "pacing by departure time"),
        _queueing("htb", "CONFIG_NET_SCH_HTB", "shaping on a veth"),
        Feature("btf", "CO-RE, typed tracing", "Linux 5.2", "a kernel with CONFIG_DEBUG_INFO_BTF=y", probe_bpf.btf),
        Feature("jit", "programs at full speed", "", "sudo sysctl net.core.bpf_jit_enable=1, or a kernel with "
                "CONFIG_BPF_JIT", probe_bpf.jit),
        _program("clang", "clang", "compiles bpf/*.bpf.c"),
        _program("bpftool", "bpftool", "vmlinux.h"),
        _program("iperf3", "iperf3", "net.iperf3"),
        Feature("room", "a hundred thousand connections", "", f"a machine with {ROOM_MIB:,} MiB free", _room, True),
        Feature("own_speed", "rates that take a whole processor", "", _KVM, _own_speed, True),
        Feature("bcc", "BCC-style programs", "", _BCC, _bcc, True),
        Feature("bcc_compiler", "the same where a compile may take a minute", "", _BCC, _bcc_compiler, True),
    )
)  # fmt: skip
"""Every feature by its name, as `@pytest.mark.needs("tcx")` says it."""
