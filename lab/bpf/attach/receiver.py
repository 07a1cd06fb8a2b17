"""Makes a veth take the frames that XDP sends into it (see lab/bpf/attach/xdp.py for why it would not)."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from lab.errors import LabError
from lab.kernel import ethtool, netns


def make_poll(interface: Any, undo: ExitStack) -> str:
    """Turns GRO on at a veth's end, which has it poll (NAPI); what undoes it goes onto `undo`. Says what was done."""
    with netns.inside(interface.netns_fd):
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    undo.callback(control.close)
    if ethtool.offload(control, interface.short_name, "gro"):
        return f"{interface.name} has GRO on"
    ethtool.set_offload(control, interface.short_name, "gro", True)
    undo.callback(_quietly_off, control, interface.short_name)
    return f"GRO turned on at {interface.name}"


def _quietly_off(control: socket.socket, name: str) -> None:
    """The interface may have gone before the attachment: then there is nothing to restore."""
    try:
        ethtool.set_offload(control, name, "gro", False)
    except LabError:
        return
