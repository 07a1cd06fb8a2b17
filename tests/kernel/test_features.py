"""What `lab.features` says of this kernel is what the kernel does; it leaves nothing behind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Direction, Topology, features
from lab.errors import FeatureMissing, LabError
from lab.features import FEATURES, Feature, State
from lab.kernel import mounts, netns
from lab.kernel.probe_net import Absent, absent_on
from lab.kernel.scratch import Scratch

TOPOLOGY = Topology.pair("client", "server")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test probes anew."""
    monkeypatch.setattr(features, "_known", {})


def feature(probe: Callable[[Scratch], str | None], *, since: str = "Linux 9.9") -> Feature:
    return Feature("novelty", "something new", since, "a kernel with CONFIG_NOVELTY", probe)


def refusing(number: int) -> Callable[[Scratch], str | None]:
    """A probe that the kernel refuses with this errno, of which EINVAL is the answer no."""

    def probe(_scratch: Scratch) -> None:
        with absent_on(errno.EINVAL):
            raise OSError(number, os.strerror(number))

    return probe


@pytest.fixture
def novelty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Feature], State]]:
    """Puts a feature into the catalogue and asks for it."""

    def ask(made: Feature) -> State:
        monkeypatch.setitem(FEATURES, made.name, made)
        return features.state(made.name)

    yield ask


def test_every_feature_has_an_answer() -> None:
    """Root is told yes or no of everything; what is missing says why and how to get it."""
    found = features.probe()

    assert [each.name for each in found] == list(FEATURES)
    for each in found:
        assert each.answer in ("yes", "no"), each.sentence
        assert each.there or (each.detail and each.mend and each.mend in each.sentence)


@pytest.mark.parametrize("name", ["xdp_native", "xdp_generic", "ringbuf", "cls_bpf"])
def test_what_every_kernel_of_the_matrix_has_is_there(name: str) -> None:
    """XDP on veth, ring buffers and cls_bpf exist from 5.10 on."""
    assert features.state(name).there
    features.require(name)


def test_an_unknown_feature_is_an_error_and_no_skip() -> None:
    """A word that was misspelt in a marker must not skip its scenario for ever."""
    with pytest.raises(LabError, match="no feature 'tcxx'") as raised:
        features.state("tcxx")
    assert "tcx" in raised.value.mend


def kernel_config() -> dict[str, bool]:
    """The options that this kernel was built with; {} where it does not tell."""
    path = Path("/proc/config.gz")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines() if path.exists() else []
    return {line.partition("=")[0]: True for line in lines if line.startswith("CONFIG_")}


CONFIGS = {
    "vlan": "CONFIG_VLAN_8021Q",
    "vxlan": "CONFIG_VXLAN",
    "bridge": "CONFIG_BRIDGE",
    "netem": "CONFIG_NET_SCH_NETEM",
    "fq": "CONFIG_NET_SCH_FQ",
    "htb": "CONFIG_NET_SCH_HTB",
    "netkit": "CONFIG_NETKIT",
    "kprobe": "CONFIG_KPROBE_EVENTS",
    "kprobe_multi": "CONFIG_FPROBE",
    "btf": "CONFIG_DEBUG_INFO_BTF",
    "cls_bpf": "CONFIG_NET_CLS_BPF",
    "tracepoint": "CONFIG_BPF_EVENTS",
    "cgroup2": "CONFIG_CGROUPS",
}


def test_the_answers_agree_with_how_the_kernel_was_built() -> None:
    """Where the kernel shows its configuration, each probe says what the option says."""
    config = kernel_config()
    if not config:
        pytest.skip("this kernel has no /proc/config.gz (CONFIG_IKCONFIG_PROC) to compare with")

    seen = {name: features.state(name).there for name in CONFIGS}

    assert seen == {name: option in config for name, option in CONFIGS.items()}


def test_a_program_goes_where_its_feature_says(net, bpf, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """tcx there: the lab attaches by TCX; tcx missing: it takes cls_bpf by itself."""
    source = tmp_path / "passing.bpf.c"
    source.write_text('#include <linux/bpf.h>\n__attribute__((section("tc"), used)) int f(void *c) { return 0; }\n')

    with bpf.load(source).attach(net.interface("server/eth0"), direction=Direction.INGRESS) as attachment:
        assert ("tcx" in attachment.how) == features.state("tcx").there


def looks_like() -> tuple[object, ...]:
    """What a probe could leave behind: descriptors, the namespace, mounts, cgroups."""
    here = netns.open_current()
    try:
        own = netns.identity(here)
    finally:
        os.close(here)
    place = mounts.mounted("cgroup2")
    groups = sorted(each.name for each in Path(place).iterdir() if f"-{os.getpid()}-" in each.name) if place else []
    table = Path("/proc/thread-self/mounts").read_text()
    return sorted(os.listdir("/proc/self/fd")), own, table, groups  # noqa: PTH208 (names, not paths)


def test_probing_leaves_no_trace() -> None:
    """After all probes the process has the descriptors, namespace and mounts that it had."""
    features.probe()  # what is opened once for good (libbpf) is open now
    features._known.clear()
    before = looks_like()

    features.probe()

    assert looks_like() == before


def test_all_probes_are_quick_and_import_nothing_heavy() -> None:
    """A fresh process: all answers without scapy, pyroute2 and bcc."""
    code = (
        "import sys, json; from lab import features; found = features.probe();"
        "print(json.dumps([len(found), sorted({'scapy', 'pyroute2', 'bcc'} & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == [len(FEATURES), []]
    assert done.stderr == ""


def test_yes_and_no_are_kept_and_a_doubt_is_not(novelty) -> None:  # type: ignore[no-untyped-def]
    """The kernel is asked once for an answer, and again after every doubt."""
    asked: dict[int, int] = {0: 0, errno.EINVAL: 0, errno.EIO: 0}
    for number in asked:
        features._known.clear()

        def probe(scratch: Scratch, number: int = number) -> str | None:
            asked[number] += 1
            return refusing(number)(scratch) if number else None

        novelty(feature(probe))
        novelty(feature(probe))

    assert asked == {0: 1, errno.EINVAL: 1, errno.EIO: 2}


@pytest.mark.parametrize(
    ("number", "answer"),
    [(errno.EINVAL, "no"), (errno.ENOSYS, "no"), (errno.EPERM, "unknown"), (errno.ENOMEM, "unknown")],
)
def test_only_what_the_kernel_says_of_the_thing_is_a_no(novelty, number: int, answer: str) -> None:  # type: ignore[no-untyped-def]
    """An error that says nothing of the feature is neither yes nor no."""
    found = novelty(feature(refusing(number)))

    assert (found.answer, found.there, found.detail) == (answer, False, os.strerror(number))


def test_the_sentence_says_what_since_when_and_how(novelty) -> None:  # type: ignore[no-untyped-def]
    """A skip names the missing thing, the kernel's words, the first kernel and the way to it."""

    def probe(_scratch: Scratch) -> str | None:
        raise Absent("Unknown novelty")

    found = novelty(feature(probe))

    assert found.sentence == (
        "this kernel has no novelty (Unknown novelty); it came with Linux 9.9; to get it: a kernel with CONFIG_NOVELTY"
    )
    with pytest.raises(FeatureMissing, match="novelty: this kernel lacks it") as raised:
        features.require("novelty")
    assert (raised.value.kernel, raised.value.mend) == ("Unknown novelty", "a kernel with CONFIG_NOVELTY")


def test_a_tool_is_missing_from_the_machine_and_not_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With an empty PATH clang is missing, and its package is named."""
    monkeypatch.setenv("PATH", str(tmp_path))

    sentence = features.state("clang").sentence

    assert sentence == "this machine has no clang (not on the PATH); to get it: sudo apt-get install clang"


def test_another_bcc_is_not_taken_for_debians(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package of the same name on PyPI is another project."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bcc", raising=False)

    found = features.state("bcc")

    assert (found.answer, "another project's" in found.detail) == ("no", True)


def test_without_privileges_nothing_is_claimed() -> None:
    """A process without capabilities is never told that a feature is missing: only root can tell (NeedsRoot)."""
    code = """
from lab import features
from lab.errors import NeedsRoot
assert {s.answer for s in features.probe() if s.name in ("xdp_native", "tcx", "ringbuf", "jit", "netem")} == {"unknown"}
try:
    features.require("tcx")
except NeedsRoot as error:
    print(error.mend)
"""
    # Reading stays allowed: the checkout may lie where only root looks, in /root.
    drop = ["setpriv", *(f"--{kind}=-all,+dac_read_search" for kind in ("bounding-set", "inh-caps", "ambient-caps"))]
    if os.geteuid() != 0:
        pytest.skip("only root can give up being root: sudo")
    done = subprocess.run([*drop, "--reuid=65534", sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("run as root: only root can tell\n", "")


def test_an_emulated_machine_is_told_what_would_help_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There BCC may well be installed: what it lacks is a processor."""
    monkeypatch.setenv("LAB_VM", "tcg")
    assert "BCC's compiler takes 50 s" in features.state("bcc").sentence
    assert (
        features.state("bcc").mend
        == features.state("own_speed").mend
        == "hardware virtualisation (KVM) for the machine"
    )
