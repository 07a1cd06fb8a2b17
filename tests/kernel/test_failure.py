"""Programs that are broken on purpose: the terminal, the report and the replay name what is wrong with each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from scapy.utils import PcapNgReader

from lab import Mode, Network, Stream, Topology
from lab.cli import run as lab
from lab.kernel import belongings
from lab.replay.again import replay
from lab.replay.folder import Failure, read_failure
from lab.report import html
from lab.traffic import recorder
from tests.kernel import chromium

BROKEN = Path(__file__).parents[1] / "broken"
FAULTS = {
    "dropped_return_path": ("the return path is cut", "firewall/eth1", "ICMP echo reply 10.0.1.2 > 10.0.0.1"),
    "lost_update": ("lost updates", "map frames counted 20", "__sync_fetch_and_add"),
    "off_by_one": ("off by one", "lacks 9009", "the last of 9000 to 9009"),
    "wrong_byte_order": ("wrong byte order", "no entry 9000, but 10275", "its 2 bytes swapped"),
    "wrong_checksum": ("wrong checksum", "server/eth0", "UDP.dport (8080 at first, 9000 at last)"),
}
PAIR = Topology.pair("client", "server", offloads={"tx": False})


@dataclass(frozen=True)
class Session:
    """One pytest session over all broken programs: what it printed, and what it stored."""

    said: str
    runs: Path

    def failure(self, stem: str) -> Failure:
        """What is kept of one."""
        folders = (self.runs / "failures").iterdir()
        every = [read_failure(self.runs / "failures", each.name) for each in folders]
        return next(each for each in every if stem in each.nodeid)

    def text(self, stem: str) -> str:
        """What the terminal showed of one, with blanks for line ends."""
        parts = self.said.split("- bpflab: what happened -")
        return next(" ".join(part.split()) for part in parts if f"failures/{self.failure(stem).id}" in part)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Run once for all tests here, in a process of its own."""
    runs = tmp_path_factory.mktemp("broken") / "runs"
    files = sorted(map(str, (BROKEN / "scenarios").glob("red_*.py")))
    options = ["-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", str(BROKEN), "--lab-runs", str(runs)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    return Session(done.stdout, runs)


@pytest.mark.parametrize("stem", FAULTS)
def test_the_terminal_names_the_fault(session: Session, stem: str) -> None:
    """What is likely wrong, where, and how to do it again stand below the failure."""
    said = session.text(stem)
    assert [word for word in FAULTS[stem] if word not in said] == []
    assert f"Again: lab replay {session.failure(stem).id} --runs {session.runs}" in said


@pytest.mark.parametrize("stem", FAULTS)
def test_it_happens_again(session: Session, stem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every outcome of the replay is that of the failure, and the exit status says so."""
    failure = session.failure(stem)
    assert lab(["replay", failure.id, "--runs", str(session.runs)]) == (1 if stem != "lost_update" else 0)
    said = capsys.readouterr().out
    assert failure.headline.split(":")[0] in said
    assert ("It happens again" in said) == (stem != "lost_update")  # a replay runs on one CPU


def test_a_replay_shows_the_verdict_of_each_frame(session: Session) -> None:
    """The frames as they came to the program are run by PROG_RUN too: 20 went to port 8080 and pass."""
    done = replay(session.failure("wrong_checksum"))
    passed = ("wrong_checksum at server/eth0", "TC_ACT_OK", "UDP 10.0.0.1:40000 > 10.0.0.2:8080")
    assert done.verdicts == {passed: 20}
    assert done.losses == ["20 dropped at server/eth0: UDP_CSUM"]
    assert done.remarks == []


def test_a_replay_sees_that_the_source_was_mended(session: Session, tmp_path: Path) -> None:
    """With the sources as they are now, one that drops the whole range comes out otherwise."""
    failure = session.failure("off_by_one")
    source = Path(failure.script["sources"][0])
    mended = tmp_path / source.name
    mended.write_text(source.read_text().replace("port < last", "port <= last"))
    script = {**failure.script, "sources": [str(mended)]}
    done = replay(Failure(failure.id, "", "", script, {}, failure.folder), now=True)
    differing = [each for each in done.outcomes if not each.is_same]
    assert [(each.what, each.now) for each in differing] == [
        ("off_by_one: UDP 10.0.0.1:40000 > 10.0.0.2:9009", "XDP_DROP")
    ]


def test_a_replay_leaves_nothing(session: Session) -> None:
    """Network, programs and recorder are given back."""
    failure = session.failure("wrong_byte_order")
    replay(failure)
    before = belongings.now()
    replay(failure)
    assert {each.name.split(":")[0] for each in belongings.now() - before} <= {"net", "socket"}  # closed soon


def test_the_frames_are_kept_with_the_reason_of_their_end(session: Session) -> None:
    """frames.pcapng has every interface's frames, and a comment where a frame was seen last."""
    reader = PcapNgReader(str(session.failure("wrong_checksum").folder / "frames.pcapng"))
    comments = [packet.comment for packet in reader if packet.comment]
    assert len(comments) == 20
    assert all(comment.startswith(b"last seen here: dropped, UDP_CSUM") for comment in comments)


@pytest.fixture
def browser() -> Iterator[chromium.Browser]:
    executable = chromium.find()
    if executable is None:
        pytest.skip("no browser (Debian: apt-get install chromium)")
    with chromium.browser(executable) as page:
        yield page


def test_the_first_screen_of_the_report_names_each_fault(
    session: Session, browser: chromium.Browser, tmp_path: Path
) -> None:
    """Of a run with one failure, at 1280 and 390 px, light and dark; and nothing is wider than the window."""
    (stored,) = session.runs.glob("*.json")
    run = json.loads(stored.read_text())
    for stem, words in FAULTS.items():
        folder = tmp_path / stem
        folder.mkdir()
        results = [each for each in run["results"] if each["program"] == stem]
        (folder / stored.name).write_text(json.dumps({**run, "results": results}))
        page = html.write(folder, folder / "index.html")
        for (width, height), dark in product(((1280, 900), (390, 844)), (False, True)):
            browser.resize(width, height, dark=dark)
            browser.open(page)
            seen = browser.value(
                "[...document.querySelectorAll('.failures code')].filter(each => each.getBoundingClientRect().bottom"
                " < innerHeight).map(each => each.textContent).join(' ')"
            )
            assert [word for word in words if word not in seen] == [], f"{stem} at {width} px"
            assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


# ---- The recorder ----


@pytest.fixture
def recording() -> Iterator[recorder.Recorder]:
    found = recorder.the_recorder()
    assert found is not None, recorder.why_not()
    yield found


def test_the_recorder_sees_its_own_network_only(recording: recorder.Recorder, bpf: object) -> None:
    """Frames of another network that is up at the same time are not among the records."""
    send = partial(Stream.udp, "client", "server", dst_port=9000)
    with Network(PAIR) as watched, Network(PAIR) as other, recording.watching(watched):
        other.send(send(count=5))
        assert recording.records(recording.start) == []
        watched.send(send(count=3))
        seen = recording.records(recording.start)
        assert {each.interface for each in seen if each.kind == "received"} == {"server/eth0"}
        assert len({each.raw for each in seen}) == 3


@pytest.mark.parametrize("mode", list(Mode))
def test_what_xdp_drops_is_recorded(recording: recorder.Recorder, mode: Mode) -> None:
    """Native or generic, the frame and the place of its end are there."""
    from lab import bpf

    with Network(PAIR) as net, recording.watching(net), bpf.load("xdp_filter") as program:
        program.maps["deny_ports"][9000] = 1
        with program.attach(net["server"].interface("eth0"), mode=mode):
            net.send(Stream.udp("client", "server", dst_port=9000, count=7))
        (loss,) = [each for each in recording.losses() if each.interface == "server/eth0"]
        assert (loss.kind, loss.frames) == ("dropped", 7)
        assert "xdp" in loss.place


def test_a_paused_recorder_writes_nothing(recording: recorder.Recorder) -> None:
    """A flood pauses it by itself."""
    from lab.traffic import frames

    with Network(PAIR) as net, recording.watching(net):
        template = frames.udp(net, "client", "server", dst_port=9000)
        net.flood("client/eth0", template, count=1000)
        assert recording.position == recording.start
        net.send(Stream.udp("client", "server", dst_port=9000, count=1))
        assert recording.position > recording.start
