"""The contexts that programs see, as far as BPF_PROG_RUN takes and gives them (linux/bpf.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from lab.errors import LoadError

XDP_MD = {
    name: (place * 4, "I")
    for place, name in enumerate(
        ("data", "data_end", "data_meta", "ingress_ifindex", "rx_queue_index", "egress_ifindex")
    )
}
SK_BUFF = {
    "len": (0, "I"),
    "pkt_type": (4, "I"),
    "mark": (8, "I"),
    "queue_mapping": (12, "I"),
    "protocol": (16, "I"),
    "vlan_present": (20, "I"),
    "vlan_tci": (24, "I"),
    "vlan_proto": (28, "I"),
    "priority": (32, "I"),
    "ingress_ifindex": (36, "I"),
    "ifindex": (40, "I"),
    "tc_index": (44, "I"),
    "cb": (48, "5I"),
    "hash": (68, "I"),
    "tc_classid": (72, "I"),
    "napi_id": (84, "I"),
    "tstamp": (152, "Q"),
    "wire_len": (160, "I"),
    "gso_segs": (164, "I"),
    "gso_size": (176, "I"),
    "hwtstamp": (184, "Q"),
}
LAYOUTS: dict[str, tuple[int, dict[str, tuple[int, str]]]] = {
    "xdp": (24, XDP_MD),
    "sched_cls": (192, SK_BUFF),
    "sched_act": (192, SK_BUFF),
    "cgroup_skb": (192, SK_BUFF),
}


def encode_context(program_type: str, fields: Mapping[str, Any], frame_bytes: int) -> bytes:
    """The context of a program type; fields that are left out are 0. XDP's data_end is the frame's length."""
    if program_type not in LAYOUTS:
        raise LoadError(f"give a context to a program of type {program_type}: BPF_PROG_RUN takes none")
    size, known = LAYOUTS[program_type]
    room = bytearray(size)
    given: dict[str, Any] = dict(fields)
    if program_type == "xdp":
        given.setdefault("data_end", frame_bytes)
    for name, value in given.items():
        if name not in known:
            raise LoadError(f"give {name!r} in a context: unknown", mend=f"there are {', '.join(known)}")
        at, code = known[name]
        values = value if isinstance(value, tuple | list) else (value,)
        struct.pack_into("=" + code, room, at, *values)
    return bytes(room)


def decode_context(program_type: str, raw: bytes) -> dict[str, Any]:
    """The fields of a context as the program left them; {} where there is none."""
    if program_type not in LAYOUTS or not raw:
        return {}
    found: dict[str, Any] = {}
    for name, (at, code) in LAYOUTS[program_type][1].items():
        if at + struct.calcsize("=" + code) <= len(raw):
            values = struct.unpack_from("=" + code, raw, at)
            found[name] = values if len(values) > 1 else values[0]
    return found
