"""The contexts that programs see, as far as BPF_PROG_RUN takes and gives them (linux/bpf.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from lab.errors import RunError

Field = tuple[int, str]
"""Offset in bytes, and a struct-module code with its byte order; "A4" and "A6" are addresses in wire order."""

XDP_MD: dict[str, Field] = {
    name: (place * 4, "=I")
    for place, name in enumerate(
        ("data", "data_end", "data_meta", "ingress_ifindex", "rx_queue_index", "egress_ifindex")
    )
}
SK_BUFF: dict[str, Field] = {
    "len": (0, "=I"),
    "pkt_type": (4, "=I"),
    "mark": (8, "=I"),
    "queue_mapping": (12, "=I"),
    "protocol": (16, ">H"),
    "vlan_present": (20, "=I"),
    "vlan_tci": (24, "=I"),
    "vlan_proto": (28, ">H"),
    "priority": (32, "=I"),
    "ingress_ifindex": (36, "=I"),
    "ifindex": (40, "=I"),
    "tc_index": (44, "=I"),
    "cb": (48, "=5I"),
    "hash": (68, "=I"),
    "tc_classid": (72, "=I"),
    "napi_id": (84, "=I"),
    "tstamp": (152, "=Q"),
    "wire_len": (160, "=I"),
    "gso_segs": (164, "=I"),
    "gso_size": (176, "=I"),
    "hwtstamp": (184, "=Q"),
}
SK_LOOKUP: dict[str, Field] = {
    "cookie": (0, "=Q"),
    "family": (8, "=I"),
    "protocol": (12, "=I"),
    "remote_ip4": (16, "A4"),
    "remote_ip6": (20, "A6"),
    "remote_port": (36, ">H"),
    "local_ip4": (40, "A4"),
    "local_ip6": (44, "A6"),
    "local_port": (60, "=I"),
    "ingress_ifindex": (64, "=I"),
}
FLOW_KEYS: dict[str, Field] = {
    "nhoff": (0, "=H"),
    "thoff": (2, "=H"),
    "addr_proto": (4, "=H"),
    "is_frag": (6, "=?"),
    "is_first_frag": (7, "=?"),
    "is_encap": (8, "=?"),
    "ip_proto": (9, "=B"),
    "n_proto": (10, ">H"),
    "sport": (12, ">H"),
    "dport": (14, ">H"),
    "ipv4_src": (16, "A4"),
    "ipv4_dst": (20, "A4"),
    "ipv6_src": (16, "A6"),
    "ipv6_dst": (32, "A6"),
    "flags": (48, "=I"),
    "flow_label": (52, ">I"),
}
CONTEXTS: dict[str, tuple[int, dict[str, Field]]] = {
    "xdp": (24, XDP_MD),
    **dict.fromkeys(
        ("sched_cls", "sched_act", "cgroup_skb", "socket_filter", "lwt_in", "lwt_out", "lwt_xmit"), (192, SK_BUFF)
    ),
    "sk_lookup": (72, SK_LOOKUP),
}
"""Size and fields, by program type."""


def encode_context(program_type: str, given: Any, frame_bytes: int) -> bytes:
    """The context of a program type; fields that are left out are 0. XDP's data_end is the frame's length.

    Raw tracepoints take their arguments, up to 12 numbers; SYSCALL programs take bytes.
    """
    if isinstance(given, bytes | bytearray):
        return bytes(given)
    if isinstance(given, tuple | list):
        return struct.pack(f"={len(given)}Q", *given)
    if program_type not in CONTEXTS:
        raise RunError(f"give fields of a context to a program of type {program_type}: it has none", mend="give bytes")
    size, fields = CONTEXTS[program_type]
    room = bytearray(size)
    if program_type == "xdp":
        given = {"data_end": frame_bytes, **given}
    for name, value in given.items():
        if name not in fields:
            raise RunError(f"run with {name}={value!r}: no such field", mend=f"there are {', '.join(fields)}")
        _write(room, name, fields[name], value)
    return bytes(room)


class Context(Mapping[str, Any]):
    """The fields of a context as the program left them, as far as the kernel gave bytes; decoded when looked at."""

    def __init__(self, fields: Mapping[str, Field], raw: bytes) -> None:
        self._fields = fields
        self.raw = raw

    def __getitem__(self, name: str) -> Any:
        at, code = self._fields[name]
        if code[0] == "A":
            return ip_address(self.raw[at : at + ADDRESS_BYTES[code]])
        values = struct.unpack_from(code, self.raw, at)
        return values if len(values) > 1 else values[0]

    def __iter__(self) -> Iterator[str]:
        return (name for name, (at, code) in self._fields.items() if at + _width(code) <= len(self.raw))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def decode_context(program_type: str, raw: bytes) -> Context:
    """The context of a program type; one without known fields has its bytes as `raw`."""
    return Context(CONTEXTS[program_type][1] if program_type in CONTEXTS else {}, raw)


ADDRESS_BYTES = {"A4": 4, "A6": 16}


def _width(code: str) -> int:
    return ADDRESS_BYTES[code] if code[0] == "A" else struct.calcsize(code)


def _write(room: bytearray, name: str, field: Field, value: Any) -> None:
    at, code = field
    try:
        if code[0] == "A":
            address = value if isinstance(value, IPv4Address | IPv6Address) else ip_address(value)
            if len(address.packed) != ADDRESS_BYTES[code]:
                raise ValueError(f"{address} is of the other family")
            room[at : at + len(address.packed)] = address.packed
        else:
            struct.pack_into(code, room, at, *(value if isinstance(value, tuple | list) else (value,)))
    except (struct.error, ValueError) as error:
        raise RunError(f"run with {name}={value!r}: {error}") from None
