"""`lab compare` as a person calls it: programs, commits, knobs and stored runs."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from lab import cli
from lab.contest.checkout import checkout
from lab.contest.frames import frame_named
from lab.contest.named import named
from lab.contest.paths import path_of
from lab.errors import LabError, TrafficError

BUSY = Path(__file__).parents[1] / "bpf" / "busy.bpf.c"
QUICK = ("--resolution", "20%", "--budget", "2s", "--frame", "udp4")
BENCHMARK = '''
from lab.bench.workload import Workload

def workload_plain(bpf):
    """A plain datagram."""
    from lab.contest.frames import frame_named

    return Workload(bpf.load("burner"), frame_named("udp4"))
'''


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A stranger's repository of two commits: the second one makes its program slower, from 50 rounds to 400."""
    for folder in ("bpf", "benchmarks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "benchmarks" / "bench_burner.py").write_text(BENCHMARK)
    git(tmp_path, "init", "-q")
    for rounds in (50, 400):
        source = BUSY.read_text().replace("rounds;", f"rounds = {rounds};", 1)
        (tmp_path / "bpf" / "burner.bpf.c").write_text(source)
        git(tmp_path, "add", ".")
        git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", f"{rounds} rounds")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def test_a_commit_is_compared_with_its_parent(project, capsys) -> None:
    """The workload of the benchmark runs on both trees; slower for certain than 50 % is exit status 1."""
    status = cli.run(["compare", "burner@HEAD~1", "burner", "--fail-if-slower", "50%", "--budget", "5s"])
    said = capsys.readouterr()
    assert status == 1
    assert "A plain datagram, 1 flow" in said.out and "% slower" in said.out
    assert "over 50 %" in said.err
    (stored,) = (project / "reports" / "runs").glob("*.json")
    (result,) = json.loads(stored.read_text())["results"]
    assert result["notes"]["comparison"][0]["verdict"] == "slower"


def test_the_other_way_round_it_is_faster(project, capsys) -> None:
    """And no reason to fail; --no-store leaves nothing behind."""
    status = cli.run(["compare", "burner", "burner@HEAD~1", "--fail-if-slower", "5%", "--budget", "5s", "--no-store"])
    assert status == 0
    assert "% faster" in capsys.readouterr().out
    assert not (project / "reports").exists()


def test_knob_settings_are_compared(capsys) -> None:
    """One object, a knob set twice; --json prints what was found and nothing else."""
    status = cli.run(["compare", f"{BUSY}:rounds=100", f"{BUSY}:rounds=300", "--json", "--no-store", *QUICK])
    (found,) = json.loads(capsys.readouterr().out)
    assert status == 0
    assert found["verdict"] == "slower"
    assert found["a"].endswith(":rounds=100")


@pytest.mark.needs("live_frames")
@pytest.mark.parametrize(("rounds", "status"), [(20_000, 1), (100, 0)])
def test_rates_are_compared_on_a_path(rounds, status, capsys) -> None:
    """By live frames on a veth where no benchmark names a path: the same words, and the same exit status for CI."""
    told = [f"{BUSY}:rounds=100", f"{BUSY}:rounds={rounds}", "--metric", "rate", "--fail-if-slower", "50%"]
    assert cli.run(["compare", *told, "--json", "--no-store", *QUICK]) == status
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["metric"], found["method"]) == ("rate", "live_frames duet")
    assert (found["verdict"] == "slower") == bool(status)
    assert "server/eth0, native, 1 flow" in found["subject"]


@pytest.mark.needs("live_frames")
def test_the_benchmark_says_on_which_path(project, capsys) -> None:
    """Its PATH, of the tree of the first contender; frames that don't pass the program there are no rate."""
    benchmark = project / "benchmarks" / "bench_burner.py"
    benchmark.write_text(
        BENCHMARK.replace(
            "from lab.bench", "from lab import Mode, Topology\nfrom lab.bench.path import Path\nfrom lab.bench"
        )
        + "CHAIN = Topology.chain('a', 'b', 'c')\n"
        + "PATH = Path(CHAIN, source='a/eth0', at='c/eth0', sink='b/eth0', mode=Mode.NATIVE)\n"
    )
    found = path_of(named("burner"))
    assert found and found.at == "c/eth0"
    assert cli.run(["compare", "burner", "burner", "--metric", "rate", "--no-store"]) == 2
    assert "at c/eth0: it met 0 of 1000 frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch", "nosuch"], "load nosuch: there is no bpf/nosuch.bpf.c"),
        ([f"{BUSY}:rounds", f"{BUSY}"], "'rounds' is not knob=value"),
        ([f"{BUSY}:speed=3", f"{BUSY}", "--frame", "udp4"], "there is no knob 'speed'"),
        ([f"{BUSY}", f"{BUSY}", "--frame", "nonsense"], "take 'nonsense' as a frame"),
        ([f"{BUSY}", f"{BUSY}", "--budget", "never"], "'never' is not a time"),
        ([f"{BUSY}", f"{BUSY}", "--fail-if-slower", "200%"], "not between 0 and 100 %"),
        ([f"{BUSY}", f"{BUSY}", "--flows", "3", "--frame", "udp4"], "3 flows: not a power of two"),
        (["a.json", "b.json"], "there is no file a.json"),
        ([f"{BUSY}@6.1", f"{BUSY}"], "two kernels cannot take turns in one run"),
        (["sockops_track_connection", "sockops_track_connection", "--metric", "rate"], "is on no path of packets"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, capsys) -> None:
    """Exit status 2, and nothing is measured."""
    assert cli.run(["compare", "--no-store", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("has_filter", [True, False])
def test_a_commit_is_unpacked_by_old_pythons_too(project, has_filter, monkeypatch) -> None:
    """Debian 12's Python 3.11.2 has no tarfile.data_filter: the same files are there, and no link leads outside."""
    (project / "bpf" / "away").symlink_to("/etc")
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a link")
    if not has_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    root = checkout(project, "HEAD")
    assert (root / "bpf" / "burner.bpf.c").read_bytes() == (project / "bpf" / "burner.bpf.c").read_bytes()
    assert not (root / "bpf" / "away").is_symlink()


def test_a_commit_that_is_not_there(project) -> None:
    """Neither a commit nor a program of a commit is guessed."""
    with pytest.raises(LabError, match="git knows no such commit"):
        named("burner@nosuch")
    with pytest.raises(LabError, match="there is no other in commit HEAD"):
        named("other@HEAD")


def test_frames_by_name(tmp_path) -> None:
    """Built in, as hexadecimal, or the first of a capture file."""
    from lab.traffic.codec import codec

    built_in = frame_named("tcp6")
    assert frame_named(built_in.hex()) == built_in
    capture = tmp_path / "one.pcap"
    codec().wrpcap(str(capture), [codec().Ether(built_in)])
    assert frame_named(str(capture)) == built_in
    with pytest.raises(TrafficError, match="not hexadecimal"):
        frame_named("zz")
