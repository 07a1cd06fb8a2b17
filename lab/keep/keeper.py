"""The process that keeps a network up: it holds descriptors, and tells who asks what they are.

Run as a program of its own that imports nothing of the lab: `python -I keeper.py ID < description`, with the
descriptors inherited. It listens on an abstract Unix socket, so that it leaves nothing behind however it ends; only
processes of its own user (SO_PEERCRED, unix(7)) are answered. A client sends one word: "describe" gives the
description and the namespaces' descriptors (SCM_RIGHTS), "down" ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys

ADDRESS = "\0bpflab-kept-"
LONGEST_SILENCE_S = 5.0
DESCRIPTORS_A_MESSAGE = 200  # SCM_MAX_FD is 253
_CREDENTIALS = struct.Struct("=iII")


def main() -> None:
    """Reads the description to its end, says "ready", and serves until told to stop."""
    name, *numbers = sys.argv[1:]
    namespaces = [int(number) for number in numbers]
    description = sys.stdin.buffer.read()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(ADDRESS + name)
    listener.listen()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.write(1, b"ready\n")
    _let_go_of_the_terminal()
    while True:
        client, _ = listener.accept()
        with client:
            client.settimeout(LONGEST_SILENCE_S)
            try:
                if _answer(client, description, namespaces):
                    return
            except OSError:
                continue  # the client went away


def _answer(client: socket.socket, description: bytes, namespaces: list[int]) -> bool:
    """Whether this is the end."""
    _, user, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user != os.geteuid():
        return False
    word = client.recv(16)
    if word == b"describe":
        for first in range(0, len(namespaces), DESCRIPTORS_A_MESSAGE):
            socket.send_fds(client, [b"n"], namespaces[first : first + DESCRIPTORS_A_MESSAGE])
        client.sendall(b"." + description)
    return word == b"down"


def _let_go_of_the_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


if __name__ == "__main__":
    main()
