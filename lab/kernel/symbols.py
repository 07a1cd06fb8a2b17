"""Which function of the kernel an address lies in: /proc/kallsyms, read once, about 100 ms."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")


def function_at(address: int) -> str:
    """Its name ("veth_xdp_rcv_skb"); "" where the kernel does not tell its addresses (kptr_restrict)."""
    starts, names = _symbols()
    place = bisect_right(starts, address) - 1
    return names[place] if address and place >= 0 else ""


@cache
def _symbols() -> tuple[list[int], list[str]]:
    found = []
    with KALLSYMS.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            address, kind, name = line.split(None, 3)[:3]
            if kind in "tTwW" and (start := int(address, 16)):
                found.append((start, name))
    found.sort()
    return [start for start, _ in found], [name for _, name in found]
