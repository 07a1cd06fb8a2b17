"""Evidence becomes findings, the telling one first; what does not fit is not guessed at."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from lab import Topology
from lab.failure.diagnosis import diagnose
from lab.failure.evidence import Comparison, Evidence, Loss, MapContent, Sending
from lab.failure.finding import Finding
from lab.failure.findings import findings, headline
from lab.failure.frame import read_frame, without_id
from lab.failure.text import MOST_LINES, to_text
from lab.model.journal import journal, now, step
from lab.net.spec import NamespaceSpec, Route, Veth
from lab.replay import script
from lab.replay.folder import KEPT, keep, read_failure
from lab.replay.outcome import compared
from lab.replay.script import Script, script_of, topology_as_dict, topology_from_dict
from lab.report.failure import explained
from lab.traffic.pcapng import Packet, pcapng_of

pytest_plugins = ["pytester"]
ENDS = {"src": "10.0.0.1", "dst": "10.0.0.2"}


def ether() -> Ether:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


# ---- What programs drop ----


def lost(reason: str, place: str, frame: object) -> Sending:
    """One frame of three, lost at one place."""
    loss = Loss("dropped", "server/eth0", reason, place, 1, read_frame(bytes(ether() / frame)))
    return Sending("a stream", 3, 0, "client", "server", {}, (loss,))


@pytest.mark.parametrize(
    ("reason", "place", "told"),
    [
        ("UDP_CSUM", "__udp4_lib_rcv", True),
        ("IP_CSUM", "ip_rcv_core", True),
        ("0", "__udp4_lib_rcv", True),  # before Linux 5.17
        ("NOT_SPECIFIED", "veth_xdp_rcv_skb", False),
        ("0", "do_xdp_generic", False),
        ("TC_INGRESS", "__netif_receive_skb_core", False),
        ("NO_SOCKET", "__udp4_lib_rcv", False),
    ],
)
def test_what_a_program_drops_is_no_wrong_checksum(reason: str, place: str, told: bool) -> None:
    """It may have one too: nobody dropped it for that."""
    damaged = IP(**ENDS) / UDP(sport=1, dport=2, chksum=7)
    found = diagnose(Evidence("assert", sendings=(lost(reason, place, damaged),)))
    assert [each.startswith("wrong checksum") for each in found] == [True] * told


def test_a_connection_that_is_not_made_loses_no_messages() -> None:
    """They were never sent; and a drop without a reason says where it was."""
    syn = lost("NOT_SPECIFIED", "veth_xdp_rcv_skb", IP(**ENDS) / TCP(sport=1, dport=2, flags="S"))
    (way,) = [each.lines for each in findings(Evidence("assert", sendings=(syn,))) if each.title == "On the way"]
    assert way == (
        "a stream: 0 of 3 arrived",
        "    1 dropped at server/eth0: in XDP (in veth_xdp_rcv_skb): TCP S 10.0.0.1:1 > 10.0.0.2:2",
        "    so no connection was made, and no message was sent",
    )


# ---- Frames ----


@pytest.mark.parametrize(
    ("frame", "summary"),
    [
        (IP(**ENDS) / UDP(sport=40_000, dport=9000), "UDP 10.0.0.1:40000 > 10.0.0.2:9000"),
        (Dot1Q(vlan=7) / IP(**ENDS) / UDP(sport=1, dport=2), "UDP 10.0.0.1:1 > 10.0.0.2:2"),
        (IP(**ENDS) / TCP(sport=1, dport=2, flags="SA"), "TCP SA 10.0.0.1:1 > 10.0.0.2:2"),
        (IP(**ENDS) / ICMP(), "ICMP echo request 10.0.0.1 > 10.0.0.2"),
        (IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2), "UDP [fd00::1]:1 > [fd00::2]:2"),
        (ARP(), "ARP, 42 bytes"),
    ],
)
def test_a_frame_says_who_it_is(frame: object, summary: str) -> None:
    """Protocol, addresses and ports stand in its summary, and what scapy computed are right checksums."""
    read = read_frame(bytes(ether() / frame))
    assert read.summary == summary
    assert read.wrong_checksums == ()


def test_a_wrong_checksum_is_found_and_computed() -> None:
    """What stands in the frame and what should are both given."""
    right = ether() / IP(**ENDS) / UDP(sport=1, dport=2) / b"payload"
    raw = bytearray(bytes(right))
    checksum = struct.unpack_from("!H", raw, 40)[0]
    raw[40:42] = b"\x12\x34"
    assert read_frame(bytes(raw)).wrong_checksums == (("UDP", 0x1234, checksum),)


@pytest.mark.parametrize("length", range(0, 60, 3))
def test_half_a_frame_is_read_as_far_as_it_goes(length: int) -> None:
    """No frame is too short to be read."""
    raw = bytes(ether() / IP(**ENDS) / TCP())[:length]
    assert read_frame(raw).length == len(raw)


def test_two_frames_that_differ_in_their_id_are_one() -> None:
    """Id and checksum of IPv4 are left out, the time to live is not; behind a VLAN tag as well."""
    one, other, third = (
        bytes(ether() / Dot1Q(vlan=3) / IP(**ENDS, id=number, ttl=ttl) / UDP())
        for number, ttl in ((1, 9), (2, 9), (1, 8))
    )
    assert without_id(one) == without_id(other) != without_id(third)


# ---- Guesses ----


def test_a_wrong_checksum_is_named_with_what_changed() -> None:
    """The field that the program rewrote stands beside the checksum that it forgot."""
    raw = bytearray(bytes(ether() / IP(**ENDS) / UDP(sport=1, dport=8080) / b"payload"))
    raw[36:38] = struct.pack("!H", 9000)
    loss = Loss("dropped", "server/eth0", "UDP_CSUM", "udp_rcv", 3, read_frame(bytes(raw)))
    sending = Sending(
        "udp", 3, 0, "client", "server", losses=(loss,), differences=("UDP.dport: 8080 at first, 9000 at last",)
    )
    (sentence,) = diagnose(Evidence("", sendings=(sending,)))
    assert "wrong checksum: UDP has" in sentence
    assert "UDP.dport (8080 at first, 9000 at last)" in sentence


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        ({1, 2, 3}, {1, 2, 3, 4}, "lacks 4, the last of 1 to 4"),
        ({0, 1, 2, 3}, {1, 2, 3}, "has 0 too much, the first of 0 to 3"),
        ([9000, 9001], range(9000, 9003), "lacks 9002"),
        ({1, 3, 4}, {1, 2, 3, 4}, ""),
        ({1}, {1, 2}, ""),
        ({1, 2, 3}, {2, 3, 4}, ""),
        ({"a"}, {"a", "b"}, ""),
    ],
)
def test_the_end_of_a_range_is_told_from_other_differences(left: object, right: object, words: str) -> None:
    """One number too few or too many at an end of a row of numbers is an off by one; a hole in it is not."""
    said = diagnose(Evidence("", comparison=Comparison("==", left, right)))
    assert words in said[0] if words else said == []


def test_swapped_bytes_are_recognised_in_keys_and_numbers() -> None:
    """10275 is 9000 in the other order; 12 and 12 are nothing."""
    packets = MapContent("packets", "p", "hash", ((10275, 10),), accused=True)
    (sentence,) = diagnose(Evidence("KeyError: 9000", missing_key=9000, maps=(packets,)))
    assert "wrong byte order: map packets has no entry 9000, but 10275: 10" in sentence
    assert "byte order" in diagnose(Evidence("", comparison=Comparison("==", 0x0100007F, 0x7F000001)))[0]
    assert diagnose(Evidence("", comparison=Comparison("==", 12, 13))) == []


def test_lost_updates_need_a_shared_entry_and_the_number_of_runs() -> None:
    """Too few in a per-CPU map, or of a number that nobody ran, is no lost update."""
    compared = Comparison("==", 30, 40)
    shared = MapContent("frames", "p", "array", ((0, 30),), accused=True)
    alone = MapContent("frames", "p", "percpu_array", ((0, 30),), accused=True)
    assert "lost updates" in diagnose(Evidence("", comparison=compared, maps=(shared,), runs=40))[0]
    assert diagnose(Evidence("", comparison=compared, maps=(alone,), runs=40)) == []
    assert diagnose(Evidence("", comparison=compared, maps=(shared,), runs=50)) == []


def test_nothing_known_is_nothing_guessed() -> None:
    """Without evidence there is no finding, and the headline is the error."""
    assert findings(Evidence("AssertionError: assert False")) == []
    assert headline(Evidence("AssertionError: assert False"), []) == "AssertionError: assert False"


# ---- What is shown ----


def test_the_way_names_the_last_place_and_the_reason() -> None:
    """Losses stand below their stream; those without a word name the last interface that counted any."""
    loss = Loss("dropped", "server/eth0", "NO_SOCKET", "__udp4_lib_rcv", 60)
    sending = Sending("udp client to server:9000", 100, 10, "client", "server", losses=(loss,), reached="server/eth0")
    (way,) = findings(Evidence("", sendings=(sending,)))
    assert way.lines == (
        "udp client to server:9000: 10 of 100 arrived",
        "    60 dropped at server/eth0: NO_SOCKET (in __udp4_lib_rcv)",
        "    30 lost without a word; the last that counted any is server/eth0",
    )


def test_a_terminal_is_not_moved_by_what_came_from_the_wire() -> None:
    """Control characters are replaced, lines are cut, and there are not many."""
    text = to_text([Finding("Maps", ("\x1b[2Jgone\r\x07" + "x" * 500, *(["line"] * 100)))])
    assert text.isprintable() or set(text) - {c for c in text if c.isprintable()} == {"\n"}
    assert len(text.splitlines()) <= MOST_LINES
    assert max(map(len, text.splitlines())) < 220


def test_a_damaged_note_shows_what_there_is_of_it() -> None:
    """The report leaves out findings that are none."""
    told = explained({"findings": [{"title": "Maps", "lines": ["a"]}, {"lines": 3}, "x", None], "replay": 7})
    assert [each.title for each in told.findings] == ["Maps"]


# ---- Steps, scripts, folders ----


def test_steps_are_kept_only_where_somebody_wants_them() -> None:
    """A journal without a clock keeps none, and gives 0 for the recorder's position."""
    with journal() as plain:
        step("run", frame=b"")
        assert now() == 0
    with journal() as kept:
        kept.clock = lambda: 7
        step("run", frame=b"")
        assert now() == 7
    assert (plain.steps, [each.kind for each in kept.steps]) == ([], ["run"])


@pytest.mark.parametrize(
    "topology",
    [
        Topology.pair("a", "b", offloads={"tx": False}),
        Topology.bridge("switch", 3, ipv6=None),
        Topology.of(
            [NamespaceSpec("a", loopback=("192.0.2.1/32",), routes=(Route("default", "10.9.0.2"),)), "b"],
            [Veth("a/x", "b/y", ipv4=("10.9.0.1/24", "10.9.0.2/24"))],
        ),
    ],
    ids=("pair", "bridge", "free"),
)
def test_a_topology_survives_json(topology: Topology) -> None:
    """The same description comes back, with the same addresses."""
    back = topology_from_dict(json.loads(json.dumps(topology_as_dict(topology))))
    assert back == topology
    assert back.interfaces == topology.interfaces


def test_a_scenario_that_did_too_much_leaves_no_half_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound nothing is kept, and a remark says so."""
    monkeypatch.setattr(script, "MOST_BYTES", 100)
    big = {"frames": [bytes(200)], "at": "a/eth0", "count": None, "received": {}}
    with journal() as kept:
        kept.clock = lambda: 0
        step("exchange", **big)
    made = script_of(kept, None)
    assert made.steps == []
    assert "more than a replay holds" in made.remarks[0]


def test_failures_are_whole_and_the_newest_only(tmp_path: Path) -> None:
    """41 failures leave 40, none of them half, and "last" is the newest."""
    about = {"nodeid": "t", "headline": "h", "maps": {}}
    names = [f"20261121T1200{second:02}-00000a" for second in range(KEPT + 1)]
    for name in names:
        keep(tmp_path, name, about, Script(None), b"")
    assert sorted(each.name for each in tmp_path.iterdir()) == names[1:]
    assert read_failure(tmp_path, "last").id == names[-1]


def test_a_pcapng_of_several_interfaces_can_be_read(tmp_path: Path) -> None:
    """Names, times and comments come out of scapy's reader as they went in."""
    from scapy.utils import PcapNgReader

    frame = bytes(ether() / IP(**ENDS) / UDP())
    file = tmp_path / "x.pcapng"
    packets = [Packet("b/eth0", frame, 1_700_000_000_000_000_001, False, comment="last seen here: dropped")]
    file.write_bytes(b"".join(pcapng_of(["a/eth0", "b/eth0"], packets)))
    (read,) = PcapNgReader(str(file))
    assert (bytes(read), read.sniffed_on, read.comment) == (frame, "b/eth0", b"last seen here: dropped")


def test_an_explanation_that_fails_hides_nothing(pytester: pytest.Pytester) -> None:
    """The assertion is shown as ever, and one line says why it could not be explained."""
    pytester.makeconftest("""
        import lab.plugin.scene, pytest

        @pytest.fixture
        def bpf(monkeypatch):
            monkeypatch.setattr(lab.plugin.scene.Scene, "evidence", lambda scene: 1 / 0)
        """)
    pytester.makepyfile("def test_it(bpf): assert 1 == 2")
    result = pytester.runpytest_subprocess("--no-lab-run")
    result.stdout.fnmatch_lines(["*assert 1 == 2*", "*could not be explained: ZeroDivisionError*"])


def test_the_headline_is_the_difference_that_failed() -> None:
    """Of a map assertion the entry, of an accused stream the loss and its reason; never a stream that arrived."""
    arrived = Sending("udp a to b:1", 5, 5, "a", "b", accused=True)
    by_map = Evidence("E", sendings=(arrived,), map_differences=(("seen", ("different   1: expected 5, is 6",)),))
    assert headline(by_map, findings(by_map)) == "map seen: different 1: expected 5, is 6"

    lost = Sending("udp a to b:1", 5, 0, "a", "b", losses=(Loss("dropped", "b/eth0", "XDP", "f", 5),), accused=True)
    by_loss = Evidence("E", sendings=(arrived, lost))
    assert headline(by_loss, findings(by_loss)) == "udp a to b:1: 0 of 5 arrived: 5 dropped at b/eth0: XDP (in f)"


# ---- What differs from replay to replay ----


@pytest.mark.parametrize(
    ("then", "now", "second", "is_same"),
    [
        ("0: 7", "0: 7", "0: 7", True),
        ("0: 7", "0: 8", "0: 8", False),
        ("0: 7", "0: 8", "0: 9", None),  # a counter that comes out otherwise each time proves nothing
        ("ns: 1000001, n: 7", "ns: 1000002, n: 7", "ns: 1000003, n: 7", True),
        ("ns: 1000001, n: 7", "ns: 1000002, n: 8", "ns: 1000003, n: 8", False),
        ("ns: 0, n: 7", "ns: 1000002, n: 7", "ns: 1000003, n: 7", True),
        ("", "ns: 1000002", "ns: 1000003", False),
        ("a: 1", "a: 1; b: 2", "a: 1", None),
        ("kind: ONE", "kind: TWO", "kind: ONE", None),
    ],
)
def test_only_what_two_replays_agree_on_counts(then: str, now: str, second: str, is_same: bool | None) -> None:
    """Times and random numbers are left out; where a map comes out otherwise in more than these, it is not compared."""
    found = compared("map x", then, now, second)
    assert (found.is_same if found else None) == is_same
