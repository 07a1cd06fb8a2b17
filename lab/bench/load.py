"""Traffic beside what is measured: it keeps maps and caches as busy as they are on a machine at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.traffic.network import Network

BURST_S = 0.5
"""A flood's length: at the end of the block the thread is waited for, so long at most."""


@contextmanager
def load_from(network: Network, interface: str, frame: Any, *, flows: int, rate_pps: int) -> Iterator[None]:
    """From another thread frames of so many flows leave the interface, until the block ends; what it raised is raised.

    with load_from(elsewhere, "client/eth0", frame, flows=65_536, rate_pps=100_000):
        bench.added_latency(...)
    """
    over = threading.Event()
    raised: list[BaseException] = []

    def send() -> None:
        try:
            while not over.is_set():
                network.flood(interface, frame, flows=flows, seconds=BURST_S, rate_pps=rate_pps)
        except BaseException as error:  # told by the thread that waits
            raised.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if raised:
        raise raised[0]
