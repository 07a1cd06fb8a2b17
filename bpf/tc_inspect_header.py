"""What user space does with tc_inspect_header: reads its events, and says them as a line or as fields.

with bpf.load("tc_inspect_header", **wanted(host="10.0.0.0/8", port=443)) as program:
    ...                                             # attached to an interface, either way or both
    for frame in frames(program):
        print(frame)        # 08:51:28.120417 eth0 in 10.0.0.1.40000 > 10.0.0.2.443: TCP [S], seq 7, win 8192, ...
        frame.layers[1]["ttl"]
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Address, ip_network
from typing import Any

from lab.errors import WaitTimeout

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
TYPES = {"ipv4": 0x0800, "arp": 0x0806, "ipv6": 0x86DD}
TCP_FLAGS = "FSRP.UEWA"
"""FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE, as tcpdump writes them (but AE, which it writes e)."""
TCP_OPTIONS = {0: "eol", 1: "nop", 2: "mss", 3: "wscale", 4: "sackOK", 5: "sack", 8: "timestamps", 34: "tfo"}
IPV4_OPTIONS = {0: "eol", 1: "nop", 7: "rr", 68: "timestamp", 131: "lsrr", 137: "ssrr", 148: "router-alert"}
EXTENSIONS = {0: "hop-by-hop", 43: "routing", 44: "fragment", 51: "authentication", 60: "destination", 135: "mobility"}
ICMP_TYPES = {
    **{0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request", 11: "time exceeded"},
    **{12: "parameter problem", 13: "timestamp request", 14: "timestamp reply"},
}
ICMPV6_TYPES = {
    **{1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request"},
    **{129: "echo reply", 130: "listener query", 131: "listener report", 132: "listener done"},
    **{133: "router solicitation", 134: "router advertisement", 135: "neighbor solicitation"},
    **{136: "neighbor advertisement", 137: "redirect", 143: "listener report v2"},
}
WITH_TARGET = (135, 136, 137)
ARP_OPERATIONS = {1: "request who-has", 2: "reply"}
PAGE_S = 0.2

Layer = dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """One frame, as its headers were; the layers from the outside in, each a dict with its name under "layer".

    `ending` is "WHOLE", or why no more headers were read, and `ended_in` in which ("" for a whole one). Times are
    CLOCK_MONOTONIC.
    """

    ns: int
    interface: str
    direction: str
    frame_bytes: int
    segments: int
    layers: tuple[Layer, ...]
    payload_bytes: int
    missing_bytes: int
    ending: str
    ended_in: str

    def layer(self, name: str) -> Layer:
        """The first of that name; KeyError."""
        for each in self.layers:
            if each["layer"] == name:
                return each
        raise KeyError(name)

    def __str__(self) -> str:
        moment = self.ns + _wall_minus_monotonic()
        clock = time.strftime("%H:%M:%S", time.localtime(moment // 10**9))
        way = "in" if self.direction == "INGRESS" else "out"
        said = [f"{clock}.{moment % 10**9 // 1000:06} {self.interface} {way} {_line(self)}"]
        said += [f"length {self.payload_bytes}"]
        said += [f"{self.segments} segments"] if self.segments > 1 else []
        said += [f"{self.missing_bytes} bytes missing"] if self.missing_bytes else []
        said += [f"{self.ending.lower()} in {self.ended_in}"] if self.ended_in else []
        return ", ".join(said)


@dataclass(frozen=True)
class Lost:
    """So many events found no room since the last time."""

    lost: int

    def __str__(self) -> str:
        return f"-- {self.lost} events lost: nobody read them in time; --sample and the filters make them fewer"


# ---- Knobs ----


def wanted(*, host: str = "", port: int = 0, protocol: str = "", type: str = "", sample: int = 1) -> dict[str, Any]:
    """The knobs of a filter; a frame must fit all that is named. ValueError for what names nothing.

    `host` is an address or a prefix, `protocol` and `type` (of Ethernet) a name or a number.
    """
    if sample < 1:
        raise ValueError(f"sample {sample}: one frame of how many? 1 is all")
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} must be 1 to 65535")
    knobs: dict[str, Any] = {"sample": sample, "want_port": port}
    knobs["want_protocol"] = _number(protocol, PROTOCOLS, 255)
    knobs["want_type"] = _number(type, TYPES, 0xFFFF)
    if host:
        network = ip_network(host, strict=False)
        width, high = (96, 0xFFFF << 32) if isinstance(network, IPv4Network) else (0, 0)
        mask = (1 << 128) - (1 << 128 - width - network.prefixlen)
        knobs["want_address"] = str(IPv6Address(high | int(network.network_address)))
        knobs["want_mask"] = str(IPv6Address(mask))
        if not mask:
            raise ValueError(f"host {host} is every address")
    return knobs


def _number(name: str, names: Mapping[str, int], largest: int) -> int:
    if not name:
        return 0
    try:
        number = names[name.lower()] if name.lower() in names else int(name, 0)
    except ValueError:
        raise ValueError(f"{name!r} is neither a number nor one of {', '.join(names)}") from None
    if not 0 < number <= largest:
        raise ValueError(f"{name} must be 1 to {largest}")
    return number


# ---- Events to frames ----


def frames(program: Any) -> Iterator[Frame]:
    """Those that came since the last call."""
    for event in program.maps["events"].drain():
        yield frame_of(event)


def frame_of(event: Any) -> Frame:
    """A `struct event`."""
    return Frame(
        event.ns,
        _interface_name(event.ifindex),
        event.direction.name,
        event.frame_bytes,
        event.segments,
        tuple(_layers(event)),
        event.payload_bytes,
        event.missing_bytes,
        event.ending.name,
        event.layer.name if event.ending else "",
    )


def _layers(event: Any) -> Iterator[Layer]:
    read = {each.name for each in type(event.layer) if event.layers >> each & 1}
    if "ETHERNET" in read:
        yield _fields("ethernet", event.ethernet)
    for tag in event.tags[: event.tag_count]:
        yield _fields("vlan", tag)
    yield from _network(event, read)
    yield from _transport(event, read)


def _network(event: Any, read: set[str]) -> Iterator[Layer]:
    if "ARP" in read:
        yield _fields("arp", event.arp)
    if "IPV4" in read:
        yield {**_fields("ipv4", event.ipv4), "options": _options(event.ipv4_options, "IPV4_OPTION" in read)}
    if "IPV6" in read:
        yield _fields("ipv6", event.ipv6)
        for extension in event.extensions[: event.ipv6.extensions]:
            yield _extension(extension)


def _transport(event: Any, read: set[str]) -> Iterator[Layer]:
    if "TCP" in read:
        yield _tcp(event, "TCP_OPTION" in read)
    if "UDP" in read:
        yield _fields("udp", event.udp)
    if "ICMP" in read:
        yield {name: value for name, value in _fields("icmp", event.icmp).items() if name != "target"}
    if "ICMPV6" in read:
        has_target = event.icmp.type in WITH_TARGET
        layer = _fields("icmpv6", event.icmp)
        yield layer if has_target else {name: value for name, value in layer.items() if name != "target"}


LEFT_OUT = {"reserved", "unused", "extensions"}


def _fields(name: str, record: Any) -> Layer:
    layer = {"layer": name}
    for field, value in record.named():
        if field not in LEFT_OUT or (name == "tcp" and field == "reserved"):
            layer[field] = value.hex(":") if isinstance(value, bytes) else value
    return layer


EXTENSION_FIELDS = {
    "fragment": ("fragment_offset", "more_fragments", "id"),
    "routing": ("routing_type", "segments_left"),
    "authentication": ("id", "sequence"),
}


def _extension(record: Any) -> Layer:
    """With the fields that its kind has."""
    name = EXTENSIONS[record.header]
    fields = ("next_header", "bytes", *EXTENSION_FIELDS.get(name, ()))
    return {"layer": name, **{field: getattr(record, field) for field in fields}}


def _tcp(event: Any, has_options: bool) -> Layer:
    tcp = _fields("tcp", event.tcp)
    for field, has in (("window_scale", "has_window_scale"), ("timestamp", "has_timestamps")):
        tcp[field] = tcp[field] if tcp[has] else None
    tcp["timestamp_echo"] = tcp["timestamp_echo"] if tcp["has_timestamps"] else None
    tcp["sack"] = [(block.left, block.right) for block in event.tcp.sack[: event.tcp.sack_blocks]]
    tcp["mss"] = tcp["mss"] or None
    for field in ("has_window_scale", "has_timestamps", "sack_blocks"):
        del tcp[field]
    tcp["options"] = _options(event.tcp_options, has_options)
    return tcp


def _options(options: Any, there: bool) -> list[tuple[int, str]]:
    """Pairs of kind and data in hex, in order; the last may be one that is malformed, with what there is of it."""
    found: list[tuple[int, str]] = []
    at = 0
    for kind in options.kinds[: options.count if there else 0]:
        length = 1 if kind < 2 or at + 1 >= options.bytes else max(options.raw[at + 1], 2)
        found.append((kind, options.raw[at + 2 : min(at + length, options.bytes)].hex()))
        at += length
    return found


# ---- Frames to lines ----


def _line(frame: Frame) -> str:
    """The addresses, and what the innermost header says."""
    tags = [f"vlan {each['id']}, p {each['priority']}" for each in frame.layers if each["layer"] == "vlan"]
    network = next((each for each in frame.layers if each["layer"] in ("ipv4", "ipv6")), None)
    inner = frame.layers[-1] if frame.layers else {"layer": "nothing"}
    say = SAY.get(inner["layer"], _say_other)
    chain = [_say_extension(each) for each in frame.layers if each["layer"] in EXTENSIONS.values()]
    ports = [f".{inner[end]}" for end in ("source", "dest")] if inner["layer"] in ("tcp", "udp") else ["", ""]
    if network is None:
        return ", ".join([*tags, say(inner)])
    way = f"{network['source']}{ports[0]} > {network['dest']}{ports[1]}"
    options = [IPV4_OPTIONS.get(kind, f"option {kind}") for kind, _ in network.get("options", ())]
    return f"{', '.join([*tags, way])}: {', '.join([*options, *chain, *_say_fragment(network), say(inner)])}"


def _say_fragment(network: Layer) -> list[str]:
    if not network.get("more_fragments") and not network.get("fragment_offset"):
        return []
    more = "+" if network["more_fragments"] else ""
    return [f"fragment {network['id']} at {network['fragment_offset']}{more}"]


def _say_extension(extension: Layer) -> str:
    if extension["layer"] != "fragment":
        return str(extension["layer"])
    more = "+" if extension["more_fragments"] else ""
    return f"fragment {extension['id']} at {extension['fragment_offset']}{more}"


def _say_tcp(tcp: Layer) -> str:
    flags = "".join(letter for bit, letter in enumerate(TCP_FLAGS) if tcp["flags"] >> bit & 1)
    said = [f"TCP [{flags or 'none'}]", f"seq {tcp['sequence']}"]
    said += [f"ack {tcp['acknowledgement']}"] if "." in flags else []
    said += [f"win {tcp['window']}"]
    if tcp["options"]:
        said += [f"options [{','.join(_say_tcp_option(tcp, kind) for kind, _ in tcp['options'])}]"]
    return ", ".join(said)


def _say_tcp_option(tcp: Layer, kind: int) -> str:
    values = {
        2: tcp["mss"],
        3: tcp["window_scale"],
        5: " ".join(f"{left}-{right}" for left, right in tcp["sack"]),
        8: f"{tcp['timestamp']}/{tcp['timestamp_echo']}",
    }
    return f"{TCP_OPTIONS.get(kind, f'option {kind}')} {values.get(kind, '')}".rstrip()


def _say_icmp(icmp: Layer) -> str:
    names, kind = (ICMP_TYPES, "ICMP") if icmp["layer"] == "icmp" else (ICMPV6_TYPES, "ICMPv6")
    said = [f"{kind} {names.get(icmp['type'], 'type {}'.format(icmp['type']))}"]
    if "echo" in said[0]:
        return f"{said[0]}, id {icmp['id']}, seq {icmp['sequence']}"
    said += [f"code {icmp['code']}"] if icmp["code"] else []
    said += [f"mtu {icmp['id'] << 16 | icmp['sequence']}"] if said[0] == "ICMPv6 packet too big" else []
    said += [f"mtu {icmp['sequence']}"] if (kind, icmp["type"], icmp["code"]) == ("ICMP", 3, 4) else []
    said += [f"of {icmp['target']}"] if "target" in icmp else []
    return ", ".join(said)


def _say_arp(arp: Layer) -> str:
    operation = ARP_OPERATIONS.get(arp["operation"], f"operation {arp['operation']}")
    if arp["operation"] == 2:
        return f"ARP {operation} {arp['sender']} is-at {arp['sender_mac']}"
    return f"ARP {operation} {arp['target']} tell {arp['sender']}"


def _say_other(layer: Layer) -> str:
    if layer["layer"] in ("ethernet", "vlan"):
        ends = f"{layer['source']} > {layer['dest']}, " if layer["layer"] == "ethernet" else ""
        return f"{ends}type {layer['type']:#06x}"
    if layer["layer"] in ("ipv4", "ipv6", *EXTENSIONS.values()):
        return f"protocol {layer.get('protocol', layer.get('next_header'))}"
    return str(layer["layer"])


SAY: dict[str, Callable[[Layer], str]] = {
    "arp": _say_arp,
    "tcp": _say_tcp,
    "udp": lambda udp: "UDP",
    "icmp": _say_icmp,
    "icmpv6": _say_icmp,
}


@cache
def _wall_minus_monotonic() -> int:
    return time.time_ns() - time.monotonic_ns()


@cache
def _interface_name(ifindex: int) -> str:
    """In the namespace of the calling thread; its number where it has none there."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"if{ifindex}"


# ---- `lab tc_inspect_header` ----


def load(
    bpf: Any, *, host: str = "", port: int = 0, protocol: str = "", type: str = "", sample: int = 1, **knobs: Any
) -> Any:
    """The program with a filter.

    host: only from or to this address or prefix
    port: only TCP and UDP from or to this port
    protocol: only this IP protocol: tcp, udp, icmp, icmpv6 or a number
    type: only this Ethernet type: ipv4, ipv6, arp or a number
    sample: one frame of so many
    """
    chosen = wanted(host=host, port=port, protocol=protocol, type=type, sample=sample)
    return bpf.load("tc_inspect_header", **{**chosen, **knobs})


def watch(program: Any, *, count: int = 0) -> Iterator[Frame | Lost | None]:
    """Each frame as it comes, and how many were missed.

    count: ends after so many frames
    """
    lost = seen = 0
    while True:
        try:
            came = program.maps["events"].events(within_s=PAGE_S)
        except WaitTimeout:
            came = []
            yield None
        for event in came:
            yield frame_of(event)
            seen += 1
            if seen == count:
                return
        missed = program.maps["counts"].total("LOST") - lost
        if missed:
            lost += missed
            yield Lost(missed)


def summary(program: Any) -> str:
    """What became of the frames, in a sentence."""
    count = program.maps["counts"].total
    return (
        f"{count('SEEN')} frames, {count('SENT')} shown, {count('NOT_WANTED')} filtered out, "
        f"{count('NOT_SAMPLED')} not sampled, {count('LOST')} lost"
    )
