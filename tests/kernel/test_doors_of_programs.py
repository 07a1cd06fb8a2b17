"""The first four programs by their doors: rules and services from the command line, and what is shown of them."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from lab import Stream, Topology
from lab.bpf.companion import companion
from lab.host.endpoint import endpoint
from tests.kernel.door import door

NO_ENDPOINTS = ["", "x", "80:80:80", "0", "65536", "[10.0.0.1]:80", "fd00::1:80", "10.0.0.300:1", "²"]
ROOT = Path(__file__).parents[2]
TOPOLOGY = Topology.pair("client", "server", offloads={"tx": False})
LIVE = ("--json", "--every", "10ms", "--for", "20s")
ONCE = ("--once", "--every", "1ms", "--json")


def shown(lab: Any) -> Any:
    """The next line of JSON."""
    return json.loads(lab.line())


def test_xdp_filter_by_rules(net: Any, tmp_path: Path) -> None:
    """Rules of the command line and of a file decide, and are shown with what they counted."""
    rules = tmp_path / "rules"
    rules.write_text("# of a file\nallow udp to any port 9000   # a remark\n\n")
    words = ("--rule", "deny udp to any port 9001", "--rules", str(rules), "--default", "allow")
    with door(net["server"], ROOT, "xdp_filter", "-i", "eth0", *words, *LIVE) as lab:
        lab.attached()
        assert net.send(Stream.udp("client", "server", dst_port=9000, count=3)).received == 3
        assert net.send(Stream.udp("client", "server", dst_port=9001, count=4)).received == 0
        table = {"deny udp to any port 9001": 4, "allow udp to any port 9000": 3, "allow by default": 0}
        while (seen := {each["rule"]: each["packets"] for each in shown(lab)["rules"]})[next(iter(table))] != 4:
            pass
    assert {name: seen[name] for name in table} == table


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (("xdp_filter", "--rule", "deny it all"), "is no rule"),
        (("xdp_filter", "--rule", "deny from 10.0.0.1/8"), "bits set behind its prefix"),
        (("xdp_filter", "--rules", "RULES"), "line 2: 'drop it' is no rule"),
        (("xdp_filter", "--rules", "/no/such"), "/no/such"),
        (("tc_redirect_port", "--rule", "tcp/80"), "is no rule"),
        (("tc_redirect_port", "--rule", "tcp/80=0"), "a port is 1 to 65535"),
        (("xdp_balance", "--service", "tcp/80=10.0.0.1:80"), "is no service"),
        (("xdp_balance", "--service", "tcp/192.0.2.1:80=fd00::1:80"), "in brackets"),
    ],
)
def test_a_wrong_rule_is_a_sentence(net: Any, tmp_path: Path, words: tuple[str, ...], telling: str) -> None:
    """Status 2, and what is wrong with which part of it."""
    (tmp_path / "rules").write_text("allow tcp\ndrop it\n")
    given = [str(tmp_path / "rules") if each == "RULES" else each for each in words]
    with door(net["server"], ROOT, "attach", *given, "--interface", "eth0") as lab:
        _, said = lab.process.communicate(timeout=20)
    assert (lab.process.returncode, telling in said) == (2, True), said
    assert "Traceback" not in said


def test_a_rule_is_written_as_it_is_shown() -> None:
    """Every form that `str` of a rule has comes back as the same rule."""
    filter = companion("xdp_filter")
    for text in (
        "allow",
        "deny tcp",
        "deny protocol 99 from 10.0.0.0/8",
        "allow udp from 2001:db8::/32 port 53 to any ports 1024-65535",
        "deny tcp from any ports 1-1023 to 192.0.2.1/32 port 22 (priority -5)",
    ):
        assert str(filter.rule_of(text)) == text


def test_tc_redirect_port_by_rules(net: Any) -> None:
    """Both directions are attached: a connection to port 80 is answered by 8080, and counted both ways."""
    address = str(net.topology.address("server", 4))
    with (
        net["server"].socket(socket.AF_INET) as listener,
        door(net["server"], ROOT, "tc_redirect_port", "-i", "eth0", "--rule", "tcp/80=8080", *LIVE) as lab,
    ):
        listener.bind((address, 8080))
        listener.listen()
        assert {lab.attached().split(":")[0], lab.attached().split(":")[0]} == {
            "attached redirect_request to eth0",
            "attached redirect_reply to eth0",
        }
        with net["client"].socket(socket.AF_INET) as client:
            assert client.connect_ex((address, 80)) == 0
            while (rule := shown(lab)["rules"][0])["packets"] < 2:
                pass
    assert rule["rule"] == "tcp/*:80=*:8080"
    assert rule["reply packets"] >= 1


def test_xdp_track_flow_shows_flows(net: Any) -> None:
    """A row a flow, told from the side of the client."""
    with door(net["server"], ROOT, "xdp_track_flow", "-i", "eth0", *LIVE) as lab:
        lab.attached()
        net.send(Stream.udp("client", "server", src_port=4000, dst_port=9000, count=5))
        while not (flows := shown(lab)["flows"]) or flows[0]["packets"] < 5:
            pass
    client, server = (net.topology.address(name, 4) for name in ("client", "server"))
    assert (flows[0]["client"], flows[0]["server"]) == (f"{client}:4000", f"{server}:9000")
    assert (flows[0]["protocol"], flows[0]["state"], flows[0]["packets back"]) == ("udp", "ONE_WAY", 0)


def test_xdp_balance_by_services(net: Any) -> None:
    """A service of two backends, one weighted, stands there before any packet comes."""
    service = "tcp/192.0.2.1:80=10.0.0.7:8080,10.0.0.8:8080*3"
    with door(net["server"], ROOT, "xdp_balance", "-i", "eth0", "--service", service, *ONCE) as lab:
        said, errors = lab.process.communicate(timeout=20)
    assert lab.process.returncode == 0, errors
    rows = json.loads(said)["tcp/192.0.2.1:80"]
    assert [(row["backend"], row["state"], row["weight"]) for row in rows] == [
        ("10.0.0.7:8080", "ACTIVE", 1),
        ("10.0.0.8:8080", "ACTIVE", 3),
    ]


@pytest.mark.parametrize("text", NO_ENDPOINTS)
def test_what_is_no_endpoint(text: str) -> None:
    """ValueError, never another address than was meant."""
    with pytest.raises(ValueError, match=r"."):
        endpoint(text)
