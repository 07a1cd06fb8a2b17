"""tc_redirect_port sends requests for one address and port to another, and their replies back as if from the first."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Padding, Raw

from lab import Action, Direction, NamespaceSpec, Network, Stream, Topology, Veth, expect
from lab.bpf import load
from lab.bpf.companion import companion
from lab.bpf.loader import Loader
from lab.traffic import frames

redirect = companion("tc_redirect_port")

TOPOLOGY = Topology.chain("client", "dut", "server")
FRONT = {4: "192.0.2.1", 6: "2001:db8::1"}
BACK = {4: "192.0.2.99", 6: "2001:db8::99"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:1::7"}


def ether() -> Any:
    """With addresses: scapy would ask the host's neighbours for them."""
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


families = pytest.mark.parametrize("ip", (4, 6), ids=("ipv4", "ipv6"))
protocols = pytest.mark.parametrize("protocol", ("tcp", "udp"))


# ---- The verdict table: one frame in, a verdict and a whole frame out ----


@contextmanager
def loaded(**knobs: Any) -> Iterator[SimpleNamespace]:
    """The program with its rules: 80 → 8080 anywhere, the front's 443 → the back's 8443."""
    with load("tc_redirect_port", **knobs) as program:
        rules = redirect.Redirector(program.maps)
        for protocol in ("tcp", "udp"):
            rules.add(protocol, 80, to_port=8080)
            for ip in (4, 6):
                rules.add(protocol, 443, address=FRONT[ip], to_port=8443, to_address=BACK[ip])
        yield SimpleNamespace(
            request=program.programs["redirect_request"],
            reply=program.programs["redirect_reply"],
            maps=program.maps,
            rules=rules,
        )


@pytest.fixture(scope="module", params=(True, False), ids=("by helper", "inline"))
def redirector(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    with loaded(offloaded_checksums=request.param) as made:
        yield made


def ip_header(ip: int, src: str, dst: str, **fields: Any) -> Any:
    return IP(src=src, dst=dst, **fields) if ip == 4 else IPv6(src=src, dst=dst, **fields)


def segment(protocol: str, sport: int, dport: int, payload: bytes = b"an odd one!") -> Any:
    header = TCP(sport=sport, dport=dport, flags="PA", seq=7) if protocol == "tcp" else UDP(sport=sport, dport=dport)
    return header / payload


def request_frame(ip: int, protocol: str, dst: str, dport: int, *, over: Any = None, **fields: Any) -> Any:
    """A client's frame; `over` goes between the IP header and the transport header."""
    layers = ether() / ip_header(ip, CLIENT[ip], dst, **fields)
    return (layers / over if over is not None else layers) / segment(protocol, 40_000, dport)


@families
@protocols
@pytest.mark.parametrize(
    ("to", "port", "then", "then_port"),
    [
        ("elsewhere", 80, "elsewhere", 8080),
        ("front", 443, "back", 8443),
    ],
    ids=["any address: only the port changes", "one address: both change"],
)
def test_a_request_is_rewritten_and_its_reply_back(
    redirector: SimpleNamespace, ip: int, protocol: str, to: str, port: int, then: str, then_port: int
) -> None:
    """The request leaves for the target, the reply comes from the first address; all checksums are right."""
    places = {"front": FRONT[ip], "back": BACK[ip], "elsewhere": FRONT[ip]}
    sent = request_frame(ip, protocol, places[to], port)
    wanted = request_frame(ip, protocol, places[then], then_port)
    check(redirector.request.run(sent), Action.TC_ACT_UNSPEC, wanted)

    reply = ether() / ip_header(ip, places[then], CLIENT[ip]) / segment(protocol, then_port, 40_000)
    wanted = ether() / ip_header(ip, places[to], CLIENT[ip]) / segment(protocol, port, 40_000)
    check(redirector.reply.run(reply), Action.TC_ACT_UNSPEC, wanted)


def check(result: Any, action: Action, wanted: Any) -> None:
    """Verdict and every byte of the frame: scapy computes the checksums that the program must have kept right."""
    assert result.action is action
    expect(result.frame).equals(bytes(wanted))


UNTOUCHED: dict[str, Callable[[int], Any]] = {
    "the port next to a rule's": lambda ip: request_frame(ip, "tcp", FRONT[ip], 81),
    "a rule's port at another address": lambda ip: request_frame(ip, "tcp", CLIENT[ip], 443),
    "a later fragment has no ports": lambda ip: fragment(ip, FRONT[ip], 80, offset=185),
    "ICMP": lambda ip: ether() / ip_header(ip, CLIENT[ip], FRONT[ip]) / (ICMP() if ip == 4 else Raw(bytes(8))),
    "ARP": lambda ip: ether() / ARP(),
    "three tags": lambda ip: ether() / Dot1Q() / Dot1Q() / Dot1Q() / request_frame(ip, "tcp", FRONT[ip], 80).payload,
}


@families
@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_no_rule_names_is_left_alone(redirector: SimpleNamespace, name: str, ip: int) -> None:
    """It goes on to the next program as it came, not a bit changed."""
    frame = UNTOUCHED[name](ip)
    check(redirector.request.run(frame), Action.TC_ACT_UNSPEC, frame)


def fragment(ip: int, dst: str, dport: int, *, offset: int) -> Any:
    """The first fragment (offset 0), or a later one, of a UDP datagram that was 1,488 bytes longer."""
    payload = segment("udp", 40_000, dport) if not offset else Raw(bytes(64))
    if ip == 4:
        return ether() / IP(src=CLIENT[4], dst=dst, flags="MF", frag=offset, proto=17) / payload
    return ether() / IPv6(src=CLIENT[6], dst=dst) / IPv6ExtHdrFragment(nh=17, offset=offset, m=1) / payload


REFUSED: dict[str, tuple[Callable[[int], Any], str]] = {
    "a first fragment whose address would change": (
        lambda ip: fragment(ip, FRONT[ip], 443, offset=0),
        "FRAGMENT_REFUSED",
    ),
    "straight to a target": (lambda ip: request_frame(ip, "tcp", BACK[ip], 8443), "DIRECT_REFUSED"),
    "straight to a target of any address": (lambda ip: request_frame(ip, "udp", CLIENT[ip], 8080), "DIRECT_REFUSED"),
    "TCP header cut short": (lambda ip: cut(request_frame(ip, "tcp", FRONT[ip], 80), 20), "MALFORMED"),
    "ports cut short": (lambda ip: cut(request_frame(ip, "udp", FRONT[ip], 80), 17), "MALFORMED"),
    "TCP data offset below 5": (lambda ip: short_tcp(ip), "MALFORMED"),
    "a length beyond the frame": (lambda ip: long_ip(ip), "MALFORMED"),
}


def cut(frame: Any, less: int) -> Any:
    """A packet that is `less` bytes too short, and says so in its IP header: 11 bytes are payload."""
    short = Ether(bytes(frame)[:-less])
    if short.haslayer(IP):
        short[IP].len = len(bytes(short)) - 14
        del short[IP].chksum
    else:
        short[IPv6].plen = len(bytes(short)) - 54
    return bytes(short).ljust(74, b"\xff")  # padding that looks like the rest of the header


def short_tcp(ip: int) -> Any:
    frame = request_frame(ip, "tcp", FRONT[ip], 80)
    frame[TCP].dataofs = 4
    return frame


def long_ip(ip: int) -> Any:
    return request_frame(ip, "tcp", FRONT[ip], 80, **({"len": 1000} if ip == 4 else {"plen": 1000}))


@families
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_redirected_rightly_is_dropped(redirector: SimpleNamespace, name: str, ip: int) -> None:
    """A decided verdict, and the reason is counted."""
    make, outcome = REFUSED[name]
    before = redirector.maps["outcomes"].total(outcome)
    assert redirector.request.run(make(ip)).action is Action.TC_ACT_SHOT
    assert redirector.maps["outcomes"].total(outcome) == before + 1


@protocols
@pytest.mark.parametrize("tags", (1, 2))
@families
def test_tags_are_looked_through(redirector: SimpleNamespace, protocol: str, tags: int, ip: int) -> None:
    """One VLAN tag or two leave as they came, with the packet inside redirected."""

    def tagged(packet: Any) -> Any:
        front = ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6) if tags == 2 else ether() / Dot1Q(vlan=5)
        return front / packet.payload

    sent = tagged(request_frame(ip, protocol, FRONT[ip], 443))
    wanted = tagged(request_frame(ip, protocol, BACK[ip], 8443))
    check(redirector.request.run(sent), Action.TC_ACT_UNSPEC, wanted)


@protocols
def test_ipv4_options_are_looked_through(redirector: SimpleNamespace, protocol: str) -> None:
    """Ports are found behind ten words of options, and the header checksum covers these too."""
    options = {"options": [IPOption(b"\x01" * 40)]}
    sent = request_frame(4, protocol, FRONT[4], 443, **options)
    check(redirector.request.run(sent), Action.TC_ACT_UNSPEC, request_frame(4, protocol, BACK[4], 8443, **options))


@protocols
def test_ipv6_extension_headers_are_looked_through(redirector: SimpleNamespace, protocol: str) -> None:
    """Hop-by-hop and destination options stand before the ports and stay there."""

    def over() -> Any:
        return IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()

    sent = request_frame(6, protocol, FRONT[6], 443, over=over())
    wanted = request_frame(6, protocol, BACK[6], 8443, over=over())
    check(redirector.request.run(sent), Action.TC_ACT_UNSPEC, wanted)


def test_too_many_extension_headers_are_left_alone(redirector: SimpleNamespace) -> None:
    """Behind the seventh nobody looks."""
    chain = IPv6ExtHdrDestOpt()
    for _ in range(6):
        chain = chain / IPv6ExtHdrDestOpt()
    frame = request_frame(6, "tcp", FRONT[6], 80, over=chain)
    check(redirector.request.run(frame), Action.TC_ACT_UNSPEC, frame)


@families
def test_a_first_fragment_changes_its_port_if_nothing_else_does(redirector: SimpleNamespace, ip: int) -> None:
    """The rest of the datagram needs no change then, and its checksum, which stands here, stays right."""
    sent, wanted = fragment(ip, FRONT[ip], 80, offset=0), fragment(ip, FRONT[ip], 8080, offset=0)
    check(redirector.request.run(sent), Action.TC_ACT_UNSPEC, wanted)


@families
def test_a_udp_checksum_of_zero_stays_zero(redirector: SimpleNamespace, ip: int) -> None:
    """RFC 768: there is none, and none is made up."""

    def bare(dst: str, dport: int) -> Any:
        frame = request_frame(ip, "udp", dst, dport)
        frame[UDP].chksum = 0
        return frame

    check(redirector.request.run(bare(FRONT[ip], 443)), Action.TC_ACT_UNSPEC, bare(BACK[ip], 8443))


@families
def test_a_udp_checksum_that_becomes_zero_is_sent_as_all_ones(redirector: SimpleNamespace, ip: int) -> None:
    """RFC 768: 0 would say that there is none."""
    wanted = ether() / ip_header(ip, CLIENT[ip], BACK[ip]) / UDP(sport=40_000, dport=8443) / b"\0\0"
    wanted[Raw].load = bytes(wanted)[-4:-2]  # the checksum itself as payload brings the sum to all ones
    assert bytes(wanted)[-4:-2] == b"\xff\xff"
    sent = wanted.copy()
    sent[IP if ip == 4 else IPv6].dst = FRONT[ip]
    sent[UDP].dport = 443
    check(redirector.request.run(sent), Action.TC_ACT_UNSPEC, wanted)


@families
@protocols
def test_padding_is_no_payload(redirector: SimpleNamespace, ip: int, protocol: str) -> None:
    """Ethernet pads to 60 bytes; the checksum does not cover that."""

    def padded(dst: str, dport: int) -> Any:
        inner = ether() / ip_header(ip, CLIENT[ip], dst) / segment(protocol, 40_000, dport, b"")
        return Ether(bytes(inner)) / Padding(b"\xee" * 12)

    check(redirector.request.run(padded(FRONT[ip], 443)), Action.TC_ACT_UNSPEC, padded(BACK[ip], 8443))


def test_direct_traffic_passes_if_the_user_says_so() -> None:
    """The knob direct_allowed lifts the refusal."""
    with loaded(direct_allowed=True) as made:
        frame = request_frame(4, "tcp", BACK[4], 8443)
        check(made.request.run(frame), Action.TC_ACT_UNSPEC, frame)


def test_hits_are_counted_both_ways(redirector: SimpleNamespace) -> None:
    """Packets and bytes of requests and of replies, by rule; a neighbour's stay where they are."""
    rule, other = redirector.rules.rules[0], redirector.rules.rules[1]
    before, before_other = redirector.rules.hit(rule), redirector.rules.hit(other)
    sent = request_frame(4, "tcp", FRONT[4], 80)
    redirector.request.run(sent)
    redirector.reply.run(ether() / ip_header(4, FRONT[4], CLIENT[4]) / segment("tcp", 8080, 40_000))
    after = redirector.rules.hit(rule)
    assert (after.packets - before.packets, after.reply_packets - before.reply_packets) == (1, 1)
    assert after.bytes - before.bytes == len(bytes(sent))
    assert redirector.rules.hit(other) == before_other


def test_a_removed_rule_redirects_no_more() -> None:
    """The request is left alone, the target answers as itself, and the rest of the rules go on."""
    with loaded() as made:
        rule = made.rules.rules[0]
        made.rules.remove(rule)
        frame = request_frame(4, "tcp", FRONT[4], 80)
        check(made.request.run(frame), Action.TC_ACT_UNSPEC, frame)
        direct = request_frame(4, "tcp", FRONT[4], 8080)
        check(made.request.run(direct), Action.TC_ACT_UNSPEC, direct)
        wanted = request_frame(4, "udp", FRONT[4], 8080)
        check(made.request.run(request_frame(4, "udp", FRONT[4], 80)), Action.TC_ACT_UNSPEC, wanted)


@pytest.mark.blind("the companion refuses it: the program is not asked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "sctp", "port": 80, "to_port": 81}, "neither tcp nor udp"),
        ({"protocol": "tcp", "port": 0, "to_port": 81}, "1 to 65535"),
        ({"protocol": "tcp", "port": 80}, "to itself"),
        ({"protocol": "tcp", "port": 80, "to_port": 81, "to_address": "10.0.0.1"}, "cannot change it"),
        ({"protocol": "tcp", "port": 80, "address": "10.0.0.1", "to_address": "fd00::1"}, "one family"),
        ({"protocol": "tcp", "port": 90, "to_port": 8080}, "has that target"),
        ({"protocol": "tcp", "port": 80, "to_port": 9999}, "has that address and port"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(redirector: SimpleNamespace, options: dict[str, Any], words: str) -> None:
    """One sentence says why, and no map was touched."""
    before = redirector.maps["redirects"].items()
    with pytest.raises(ValueError, match=words):
        redirector.rules.add(**options)
    assert redirector.maps["redirects"].items() == before


# ---- A live network: real connections ----


@contextmanager
def redirecting(net: Network, bpf: Loader, place: str, **knobs: Any) -> Iterator[Any]:
    """Both programs on one interface; gives what adds rules."""
    program = bpf.load("tc_redirect_port", **knobs)
    interface = net.interface(place)
    with (
        program.programs["redirect_request"].attach(interface, direction=Direction.INGRESS),
        program.programs["redirect_reply"].attach(interface, direction=Direction.EGRESS),
    ):
        yield redirect.Redirector(program.maps)


@families
@protocols
def test_a_moved_service_is_reached_at_its_old_port(net: Network, bpf: Loader, protocol: str, ip: int) -> None:
    """The server listens on 8080; clients of 80 reach it, with the partial checksums of a local sender."""
    make = Stream.tcp if protocol == "tcp" else Stream.udp
    with redirecting(net, bpf, "server/eth0") as rules:
        rule = rules.add(protocol, 80, to_port=8080)
        delivery = net.send(make("client", "server", dst_port=8080, to_port=80, count=100, flows=4, ip=ip))
        assert (delivery.offered, delivery.received) == (100, 100)
        assert rules.hit(rule).packets >= 100


COMPLETE = Topology.chain("client", "dut", "server", offloads={"tx": False})


@pytest.mark.topology(COMPLETE)
@families
def test_a_router_of_complete_checksums_keeps_them_inline(net: Network, bpf: Loader, ip: int) -> None:
    """Frames that are only forwarded, their checksums complete: the cheaper arithmetic is right."""
    front, back = str(net.topology.address("dut/eth0", ip)), str(net.topology.address("server", ip))
    with redirecting(net, bpf, "dut/eth0", offloaded_checksums=False) as rules:
        rules.add("tcp", 80, address=front, to_port=8080, to_address=back)
        stream = Stream.tcp("client", "server", dst_port=8080, to_address=front, to_port=80, count=50, ip=ip)
        assert net.send(stream).lost == 0


@pytest.mark.topology(COMPLETE)
@families
def test_a_local_sender_needs_the_helper(net: Network, bpf: Loader, ip: int) -> None:
    """At egress a local socket's checksum is still partial: inline arithmetic loses all, the helper nothing."""
    stream = Stream.tcp("client", "server", dst_port=8080, to_port=80, count=5, ip=ip)
    with redirecting(net, bpf, "server/eth0", offloaded_checksums=False) as rules:
        rules.add("tcp", 80, to_port=8080)
        assert net.send(stream).received == 0
    with redirecting(net, bpf, "server/eth0") as rules:
        rules.add("tcp", 80, to_port=8080)
        assert net.send(stream).lost == 0


MIXED = Topology.of(
    namespaces=[NamespaceSpec("client"), NamespaceSpec("dut", forwarding=True), NamespaceSpec("server")],
    veths=[Veth("client/eth0", "dut/eth0"), Veth("dut/eth1", "server/eth0", offloads={"tx": False})],
)


@pytest.mark.topology(MIXED)
@families
def test_a_partial_checksum_is_completed_for_the_new_address(net: Network, bpf: Loader, ip: int) -> None:
    """The client leaves the checksum to hardware; the router's other side has none, so the kernel computes it there."""
    front, back = str(net.topology.address("dut/eth0", ip)), str(net.topology.address("server", ip))
    with redirecting(net, bpf, "dut/eth0") as rules:
        rules.add("tcp", 80, address=front, to_port=8080, to_address=back)
        stream = Stream.tcp("client", "server", dst_port=8080, to_address=front, to_port=80, count=20, ip=ip)
        assert net.send(stream).lost == 0


@pytest.mark.topology(Topology.pair("client", "server", mtu_bytes=9000))
def test_headers_outside_the_linear_part_are_found(net: Network, bpf: Loader) -> None:
    """A packet socket's frame of 6,000 bytes has nothing but its Ethernet header where a program looks first."""
    frame = frames.udp(net, "client", "server", dst_port=80, payload=bytes(6000))
    with redirecting(net, bpf, "server/eth0") as rules:
        rules.add("udp", 80, to_port=8080)
        with net["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("", 8080))
            receiver.settimeout(2)
            net.exchange(frame, at="client/eth0")
            assert receiver.recv(10_000) == bytes(6000)


@families
@protocols
def test_another_machine_is_reached_by_way_of_an_address(net: Network, bpf: Loader, protocol: str, ip: int) -> None:
    """The router redirects its own address to the server behind it, before it routes."""
    make = Stream.tcp if protocol == "tcp" else Stream.udp
    front, back = str(net.topology.address("dut/eth0", ip)), str(net.topology.address("server", ip))
    with redirecting(net, bpf, "dut/eth0") as rules:
        rules.add(protocol, 443, address=front, to_port=8443, to_address=back)
        delivery = net.send(
            make("client", "server", dst_port=8443, to_address=front, to_port=443, count=60, flows=3, ip=ip)
        )
    assert (delivery.offered, delivery.received) == (60, 60)


def test_the_port_next_to_it_still_works(net: Network, bpf: Loader) -> None:
    """Only the rule's port is redirected, and the target's own port is refused from outside."""
    with redirecting(net, bpf, "server/eth0") as rules:
        rules.add("udp", 80, to_port=8080)
        assert net.send(Stream.udp("client", "server", dst_port=81)).lost == 0
        assert net.send(Stream.udp("client", "server", dst_port=8080)).received == 0
        assert net.send(Stream.tcp("client", "server", dst_port=8080)).lost == 0


@families
def test_a_whole_http_transfer_passes(net: Network, bpf: Loader, ip: int) -> None:
    """A page of a megabyte, from a real server to a real client, comes out byte for byte."""
    page = os.urandom(1 << 20)
    address = str(net.topology.address("server", ip))
    with redirecting(net, bpf, "server/eth0") as rules, http_server(net, ip, 8080, page):
        rules.add("tcp", 80, to_port=8080)
        assert http_get(net, address, 80) == page


class _Server(http.server.ThreadingHTTPServer):
    """Serves on a socket that was made in a namespace."""

    def __init__(self, made: socket.socket, page: bytes) -> None:
        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: Any) -> None:
                """Silence."""

        super().__init__(("", 0), Page, bind_and_activate=False)
        self.socket.close()
        self.socket = made


@contextmanager
def http_server(net: Network, ip: int, port: int, page: bytes) -> Iterator[None]:
    made = net["server"].socket(socket.AF_INET if ip == 4 else socket.AF_INET6)
    made.bind(("", port))
    made.listen()
    server = _Server(made, page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def http_get(net: Network, address: str, port: int) -> bytes:
    with ExitStack() as stack:
        connection = http.client.HTTPConnection(address, port, timeout=5)
        stack.callback(connection.close)
        net["client"].run(connection.connect)
        connection.request("GET", "/")
        return connection.getresponse().read()
