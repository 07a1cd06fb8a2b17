"""What new_program adds to a TCP connection over loopback, from connect() to close()."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from typing import Any

import pytest


@pytest.mark.parametrize("attached", [False, True], ids=["without", "with"])
def test_a_connection(bpf: Any, benchmark: Any, attached: bool) -> None:
    """The two rows differ by what the program costs: read them side by side."""
    program = bpf.load("new_program")
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)

    def connect() -> None:
        with socket.create_connection(listener.getsockname()), listener.accept()[0]:
            pass

    with listener, program.attach() if attached else nullcontext():
        benchmark.pedantic(connect, rounds=200, warmup_rounds=20)
