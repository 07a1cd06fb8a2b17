"""monitor_traffic beside the kernel: rules of alerts, the history's file, the screen, what the API refuses."""

from __future__ import annotations

import json
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from click.testing import CliRunner

from lab.bpf.companion import companion
from lab.errors import LabError
from lab.wait import wait_until

monitor = companion("monitor_traffic")
alerts, exporters, histories, rows, samples, screens = (
    monitor.part(name) for name in ("alerts", "exporter", "history", "rows", "sample", "screen")
)

EVER = {"since": 0, "until": 1 << 40, "limit": 10_000}
KINDS = ("FLOW_OPENED", "TCP_FLOW_OPENED", "SEGMENT_RETRANSMITTED", "CONNECTED", "ACCEPTED", "FAILED", "CLOSED")


def flow(number: int, address: str = "10.0.0.1", packets: int = 3) -> Any:
    """A row that moved 3 packets of 100 bytes."""
    opener = rows.Side(address, 40_000 + number, packets, 300, 0x1B, "ESTABLISHED", 850, 0, 0, 7)
    answerer = rows.Side("10.0.0.2", 80, 2, 200, 0x1B, "NO_STATE", 0, 0, 0, 0)
    made = rows.Flow("tcp", opener, answerer, 1, 2, 3)
    return samples.Row(made, 1.0, True, packets, 300, 2, 200, 0, "curl")


class Flows(list[Any]):
    """A list that is asked as samples.Flows is."""

    packets = bytes = np.array([[3, 2]])

    def top(self, count: int, by: str = "rate") -> list[Any]:
        """The first."""
        return self[:count]

    def by_state(self) -> dict[tuple[str, str], int]:
        """All alike."""
        return {("tcp", "ESTABLISHED"): len(self)}

    def rtt_quantiles(self, fractions: Any) -> dict[float, float]:
        """All alike."""
        return dict.fromkeys(fractions, 0.00085)


class Ports(list[Any]):
    """As samples.Ports."""

    def top(self, count: int) -> list[Any]:
        """The first."""
        return self[:count]


def sample(at: float = 1000.0, count: int = 3, **changed: Any) -> Any:
    """A period in which so many flows moved."""
    port = samples.PortRow(rows.Port("tcp", 80, 3, 300, 2, 200), 1.0, 300, 200, 3, 2)
    said: dict[str, Any] = {
        "at": at,
        "seconds": 1.0,
        "flows": Flows(flow(number) for number in range(count)),
        "ports": Ports([port]),
        "interfaces": (samples.Interface("eth0", "XDP", 30, 3000, 3.0, 300.0),),
        "untracked": {"NOT_IP": 1, "NO_ROOM": 0},
        "happened": dict.fromkeys(KINDS, 0),
        "connections": dict.fromkeys(("CONNECTED", "CLOSED"), 0),
        "grown": dict.fromkeys(KINDS, 0),
        "events": (),
        "left_out": 0,
        "evicted": 0,
    }
    return SimpleNamespace(**{**said, **changed})


# ---- The command's options ----


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        ("--alert 'flow-rate above 3'", "'3' is no threshold of flow-rate, which is written as 10Mbit/s or 1MB/s"),
        ("--listen nowhere", "'nowhere' is neither a port nor ADDRESS:PORT"),
        ("--listen 99999", "'99999' is neither a port nor ADDRESS:PORT"),
        ("--history h.db --history-size 3", "'3' is no size: 100kB or more"),
        ("--history h.db --history-age ever", "'ever' is no time"),
        ("--top 0", "0 is not in the range"),
        ("--by colour", "'colour' is not one of"),
        ("--flows 3", "3 is not in the range"),
    ],
)
def test_a_wrong_option(words: str, telling: str) -> None:
    """Status 2 and a sentence that names the option; nothing is opened for it."""
    found = CliRunner().invoke(monitor.command, shlex.split(words))
    assert (found.exit_code, telling in found.output) == (2, True), found.output
    assert words.split()[-2].strip("'") in found.output or "--alert" in found.output


# ---- Rules of alerts ----


@pytest.mark.parametrize(
    ("text", "above", "until", "for_s"),
    [
        ("flow-rate above 8Mbit/s", 1e6, 0.8e6, 0.0),
        ("port-rate above 2MB/s until 1MB/s for 3s of tcp/443", 2e6, 1e6, 3.0),
        ("retransmits above 5%", 0.05, 0.04, 0.0),
        ("connections above 100/s for 500ms", 100, 80, 0.5),
        ("rtt above 200ms until 0.1s of udp/53", 0.2, 0.1, 0.0),
    ],
)
def test_a_rule(text: str, above: float, until: float, for_s: float) -> None:
    """Thresholds are in the base of their unit, and a rule is written as it was said."""
    rule = alerts.rule_of(text)
    assert (rule.above, rule.until, rule.for_s) == pytest.approx((above, until, for_s))
    assert str(rule) == rule.name == text


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("", "is no rule"),
        ("flow-rate", "is no rule"),
        ("weather above 3/s", "cannot be watched; flow-rate"),
        ("flow-rate below 3MB/s", "by the word 'below'"),
        ("flow-rate above 3MB/s above 4MB/s", "by the word 'above'"),
        ("flow-rate above 3", "is written as 10Mbit/s"),
        ("flow-rate above 5%", "is written as 10Mbit/s"),
        ("flow-rate above 0bit/s", "is no threshold"),
        ("rtt above 1s until 2s", "would end before it begins"),
        ("rtt above 1s for ever", "is no time"),
        ("rtt above 1s of tcp/0", "is no service"),
        ("rtt above 1s of icmp/8", "is no service"),
    ],
)
def test_no_rule(text: str, telling: str) -> None:
    """ValueError says what is wrong with which word."""
    with pytest.raises(ValueError, match=telling.replace("(", r"\(")):
        alerts.rule_of(text)


def test_rules_of_a_file(tmp_path: Path) -> None:
    """A rule by its words or by its line, in one list."""
    path = tmp_path / "alerts.yaml"
    path.write_text("alerts:\n  - rtt above 1s\n  - watch: connections\n    above: 9/s\n    name: flood\n")
    assert [(rule.name, rule.above) for rule in alerts.rules_in(path)] == [("rtt above 1s", 1), ("flood", 9)]


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("", "line 1: there is no list named alerts"),
        ("alerts: 3", "line 1: alerts is no list"),
        ("alerts:\n  - rtt above 1s\n  - rtt above 1\n", "line 3: '1' is no threshold"),
        ("alerts:\n  - watch: rtt\n    above: 1s\n    colour: red\n", "line 4: 'colour' means nothing here"),
        ("alerts:\n  - watch: rtt\n    watch: rtt\n", "line 3: watch stands there twice"),
        ("alerts:\n  - watch: [rtt]\n", "line 2: watch is no single value"),
        ("alerts:\n  - watch: rtt\n", "line 2: rtt needs a threshold"),
        ("rules: []\n", "line 1: 'rules' means nothing here"),
        ("alerts:\n  - {watch: rtt\n", "line 3"),
        ("alerts: &a [*a]\n", "line 1"),
    ],
)
def test_a_wrong_file_names_its_line(tmp_path: Path, text: str, telling: str) -> None:
    """LabError, one sentence with the file and the line."""
    path = tmp_path / "alerts.yaml"
    path.write_text(text)
    with pytest.raises(LabError) as caught:
        alerts.rules_in(path)
    assert telling in str(caught.value) and str(path) in str(caught.value)


def test_one_name_one_rule() -> None:
    """Two rules of one name would be counted as one."""
    with pytest.raises(LabError, match="two alerts are named 'rtt above 1s'"):
        alerts.named_apart([alerts.rule_of("rtt above 1s")] * 2)


# ---- What fires when ----


def connecting(raised: Any, rates: list[int]) -> list[str]:
    """What each second of so many new TCP flows changed: "+" fired, "-" over."""
    told = []
    for at, rate in enumerate(rates):
        flows = SimpleNamespace(is_new=np.array([], bool), now=SimpleNamespace(fields={"protocol": np.array([])}))
        changed = raised.check(sample(at, grown={"TCP_FLOW_OPENED": rate}, flows=flows))
        told.append("".join("-" if each.ended is not None else "+" for each in changed) or ".")
    return told


def test_hysteresis() -> None:
    """It fires above one threshold, lasts between the two, and is over at the lower."""
    raised = alerts.Alerts([alerts.rule_of("connections above 10/s until 5/s", "many")])
    assert connecting(raised, [10, 11, 6, 11, 5, 6, 11, 0]) == [".", "+", ".", ".", "-", ".", "+", "-"]
    assert raised.fired == {"many": 2}


def test_for_a_time() -> None:
    """It fires when it has been above for so long, and one period below begins anew."""
    raised = alerts.Alerts([alerts.rule_of("connections above 10/s for 2s", "many")])
    assert connecting(raised, [11, 11, 9, 11, 11, 11, 11, 0]) == [".", ".", ".", ".", ".", "+", ".", "-"]


# ---- The history's file ----


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def opened(path: Path, age_s: float = 3600, size_bytes: int = 1 << 24) -> Any:
    return histories.History(path, age_s=age_s, size_bytes=size_bytes)


def test_a_period_comes_back(path: Path) -> None:
    """After the file was closed and opened again, with its flows, and for nobody but its owner."""
    with opened(path) as history:
        history.keep(sample(1000))
    with opened(path) as history:
        (period,) = history.ask("periods", **EVER)
        flows = history.ask("flows", **EVER)
    assert (period["at"], period["flows"], period["packets"]) == (1000, 3, 5)
    assert [(each["opener_port"], each["bytes_out"], each["process"]) for each in flows] == [
        (40_000 + number, 300, "curl") for number in range(3)
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_may_be_asked(path: Path) -> None:
    """By time, address, port and number of rows."""
    with opened(path) as history:
        for at in (1000, 1001, 1002):
            history.keep(sample(at))
        assert len(history.ask("flows", since=1001, until=1001, limit=100)) == 3
        assert len(history.ask("flows", **EVER, port=40_001)) == 3
        assert len(history.ask("flows", **EVER, address="10.0.0.9")) == 0
        assert [each["at"] for each in history.ask("periods", since=0, until=9999, limit=2)] == [1002, 1001]


def test_old_periods_go(path: Path) -> None:
    """What is older than allowed goes with its flows when the next period comes."""
    with opened(path, age_s=10) as history:
        for at in (1000, 1005, 1011, 1012):
            history.keep(sample(at))
        assert [each["at"] for each in history.ask("periods", **EVER)] == [1012, 1011, 1005]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM flows").fetchone() == (9,)


def test_the_file_stays_small(path: Path) -> None:
    """300 periods of 200 flows in 1 MB: the latest are there, and the file with its log is no larger than 2.5 MB."""
    most = 0
    with opened(path, age_s=1e9, size_bytes=1_000_000) as history:
        for at in range(300):
            history.keep(sample(at, 200))
            most = max(most, history.bytes)
        kept = [each["at"] for each in history.ask("periods", **EVER)]
        assert history.trouble == ""
    assert 10 < len(kept) < 150 and kept[0] == 299
    assert most < 2_500_000
    assert path.stat().st_size <= 1_050_000


WRITER = """
import sys
sys.path[:0] = {paths!r}
from tests.unit.test_monitor_traffic import Path, opened, sample
with opened(Path({path!r})) as history:
    for at in range(100_000):
        history.keep(sample(at, 50))
        print(at, flush=True)
"""


def test_killed_in_the_middle(path: Path) -> None:
    """SIGKILL while it writes: the file is whole, and has every period that was said to be kept."""
    script = WRITER.format(paths=[str(Path(__file__).parents[2]), *sys.path], path=str(path))
    root = Path(monitor.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 40:
                break
        process.send_signal(signal.SIGKILL)
    with opened(path) as history:
        assert history.trouble == ""
        assert len(history.ask("periods", **EVER)) >= 41
        history.keep(sample(1 << 20))
        assert history.kept == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_foreign_file_is_left_alone(path: Path) -> None:
    """Somebody's own database, or one of another version, is not written to; one sentence says why."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (it)")
    before = path.read_bytes()
    with opened(path) as history:
        assert "it is a database of something else; not recorded" in history.trouble
        history.keep(sample())
        assert (history.kept, history.lost) == (0, 1)
    assert path.read_bytes() == before


def test_another_version(path: Path) -> None:
    """A file that a later monitor wrote is not written to."""
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "its schema is version 99, and this monitor writes version 1" in opened(path).trouble


def test_no_database_at_all(path: Path) -> None:
    """Text is no database, and stays the text that it was."""
    path.write_text("dear diary, " * 1000)
    with opened(path) as history:
        history.keep(sample())
        assert "file is not a database" in history.trouble
        with pytest.raises(sqlite3.Error, match="not a database"):
            history.ask("periods", **EVER)
    assert path.read_text() == "dear diary, " * 1000


def test_trouble_passes(path: Path, tmp_path: Path) -> None:
    """Where the folder is missing periods are lost and counted; when it is there they are kept, and all is said."""
    with opened(tmp_path / "later" / "h.db") as history:
        history.keep(sample())
        assert history.trouble == (
            f"history in {tmp_path}/later/h.db: No such file or directory; not recorded, will be tried again"
        )
        (tmp_path / "later").mkdir()
        history.keep(sample())
        assert (history.kept, history.lost, history.trouble) == (1, 1, "")


def test_a_question_that_takes_too_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is broken off, because the next period waits for it; and the file is as usable as before."""
    monkeypatch.setattr(histories, "PATIENCE_S", -1)
    monkeypatch.setattr(histories, "LOOKED_AT", 10)
    with opened(path) as history:
        for at in range(20):
            history.keep(sample(at))
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            history.ask("flows", **EVER)
        history.keep(sample(20))
        assert (history.kept, history.trouble) == (21, "")


def test_two_write_one_file(path: Path) -> None:
    """Two monitors with one file: both are recorded, each as a run of its own."""
    with opened(path) as one, opened(path) as other:
        for at in range(5):
            one.keep(sample(at))
            other.keep(sample(at + 0.5))
        periods = one.ask("periods", **EVER)
    assert len(periods) == 10 and len({each["run"] for each in periods}) == 2
    assert (one.lost, other.lost) == (0, 0)


# ---- The screen ----


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 10), (20, 5), (132, 43)])
def test_the_screen_fits(width: int, height: int) -> None:
    """No line is longer than the terminal, there are fewer of them, and both ends show their ports."""
    address = "2001:db8:1234:5678:9abc:def0:1234:5678"
    seen = sample(flows=Flows(flow(number, address) for number in range(60)), evicted=3)
    raised = alerts.Alerts([alerts.rule_of("connections above 1/s", "flood " * 40)])
    connecting(raised, [5])
    lines = screens.Screen(screens.Seen(seen, raised, ["history: " + "x" * 300])).lines(width, height)
    assert len(lines) < height
    if width >= 80:
        assert max(len(line) for line, _ in lines) <= width
        shown = [line for line, _ in lines if line.startswith("tcp ")]
        assert len(shown) >= 8 and all(":4000" in line and ":80" in line for line in shown[:8])


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (999.6, "1k"), (12_345, "12.3k"), (123_456, "123k"), (1.5e9, "1.5G")]
)
def test_numbers_are_short(number: float, text: str) -> None:
    """Three digits and a unit."""
    assert screens.scaled(number) == text


# ---- The API ----


@pytest.fixture
def served(path: Path) -> Any:
    """An exporter with a history of one period."""
    with opened(path) as history, exporters.Exporter(history=history, alerts=alerts.Alerts([])) as exporter:
        history.keep(sample(1000))
        exporter.show(sample(1000))
        yield exporter


def got(exporter: Any, target: str) -> Any:
    with urlopen(exporter.url + target, timeout=3) as answer:
        return json.load(answer)


def test_all_that_may_be_asked_of_the_api(served: Any) -> None:
    """Every path answers in JSON; what is bounded is."""
    assert len(got(served, "/api/flows")) == 3 and len(got(served, "/api/flows?limit=1&by=bytes")) == 1
    assert got(served, "/api/ports")[0]["number"] == 80
    assert got(served, "/api/interfaces")[0]["layer"] == "XDP"
    assert got(served, "/api/events") == got(served, "/api/alerts") == []
    assert got(served, "/api/status")["history"]["kept"] == 1
    assert len(got(served, "/api/history/flows?since=0&port=80")) == 3
    assert got(served, "/api/history/periods?since=0&until=999") == []
    assert got(served, "/api/history/flows?since=0&address=2001:db8::1") == []
    for name in ("ports", "events", "alerts"):
        got(served, f"/api/history/{name}?since=0&limit=5")


@pytest.mark.parametrize(
    ("target", "status", "telling"),
    [
        ("/", 404, "there are /metrics, /api/flows"),
        ("/api/secrets", 404, "there are"),
        ("/api/../../etc/passwd", 404, "there are"),
        ("/api/history/runs", 404, "of history there are periods"),
        ("/api/flows?by=colour", 400, "by is one of rate"),
        ("/api/flows?limit=many", 400, "limit is no number"),
        ("/api/flows?limit=-1", 400, "limit is no number"),
        ("/api/flows?limit=nan", 400, "limit is no number"),
        ("/api/flows?user=me", 400, "'user' cannot be asked for here"),
        ("/api/history/flows?address=1%27%20OR%20%271", 400, "address"),
        ("/api/history/events?port=80", 400, "'port' cannot be asked for here"),
    ],
)
def test_what_the_api_refuses(served: Any, target: str, status: int, telling: str) -> None:
    """A status and a sentence in JSON."""
    with pytest.raises(HTTPError) as caught:
        got(served, target)
    with caught.value as answer:
        assert (answer.code, answer.headers["Content-Type"]) == (status, "application/json")
        assert telling in json.load(answer)["error"]


def test_nothing_is_written_by_http(served: Any) -> None:
    """POST is refused, HEAD has no content."""
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(served.url + "/api/flows", data=b"{}"), timeout=3)
    with caught.value as answer:
        assert answer.code == 501
    with urlopen(Request(served.url + "/api/flows", method="HEAD"), timeout=3) as answer:
        assert int(answer.headers["Content-Length"]) > 2 and answer.read() == b""


def test_before_the_first_period(path: Path) -> None:
    """/api says that nothing was seen yet, /metrics is empty, and no history is kept where none was asked for."""
    with exporters.Exporter() as exporter:
        for target, status in (("/api/flows", 503), ("/api/history/flows", 404)):
            with pytest.raises(HTTPError) as caught:
                got(exporter, target)
            with caught.value as answer:
                assert answer.code == status
        with urlopen(exporter.url + "/metrics", timeout=3) as answer:
            assert answer.read() == b""


def test_a_taken_port_is_a_sentence() -> None:
    """LabError, in the kernel's words; the first goes on to serve."""
    with exporters.Exporter() as exporter:
        port = int(exporter.url.rpartition(":")[2])
        with pytest.raises(LabError, match="Address already in use"):
            exporters.Exporter(port)


def test_a_silent_client_holds_nobody_up(served: Any) -> None:
    """While one client has connected and says nothing, another is answered."""
    import socket

    host, _, port = served.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))):
        assert len(got(served, "/api/flows")) == 3
    wait_until(lambda: got(served, "/api/flows"), within_s=3, what="an answer after it hung up")
