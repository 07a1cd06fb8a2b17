"""Offloads of an interface, by the ethtool ioctl (linux/ethtool.h)."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct

from lab.errors import FeatureMissing, NetworkError

SIOCETHTOOL = 0x8946

# name: (get, set), the short names that ethtool(8) takes
_COMMANDS = {
    "rx": (0x14, 0x15),
    "tx": (0x16, 0x17),
    "sg": (0x18, 0x19),
    "tso": (0x1E, 0x1F),
    "gso": (0x23, 0x24),
    "gro": (0x2B, 0x2C),
}

SHORT_NAMES = tuple(_COMMANDS)


def offload(control: socket.socket, interface: str, name: str) -> bool:
    """Whether the offload is on; `control` is any socket opened in the interface's namespace."""
    return bool(_value(control, interface, _COMMANDS[name][0], 0, f"read offload {name} of {interface}"))


def set_offload(control: socket.socket, interface: str, name: str, on: bool) -> None:
    """Turns "rx", "tx" (checksums), "sg", "tso", "gso" or "gro" on or off, and looks whether the kernel did it.

    Some kernels and drivers ignore what they cannot do: that is an error here.
    """
    what = f"set offload {name} of {interface} {'on' if on else 'off'}"
    _value(control, interface, _COMMANDS[name][1], int(on), what)
    if offload(control, interface, name) != on:
        raise FeatureMissing(f"{what}: the driver keeps it {'off' if on else 'on'}")


def ask(control: socket.socket, interface: str, question: bytes) -> bytes:
    """What the driver made of a command's struct; OSError as of ioctl(2)."""
    data = array.array("B", question)
    fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), data.buffer_info()[0]))
    return data.tobytes()


def _value(control: socket.socket, interface: str, command: int, value: int, what: str) -> int:
    try:
        answer = ask(control, interface, struct.pack("=II", command, value))
    except OSError as error:
        raise NetworkError(f"{what}: {error.strerror}", kernel=os.strerror(error.errno or 0)) from error
    return int(struct.unpack_from("=I", answer, 4)[0])
