"""A program that is ready for its packets: loaded, its maps filled, and the frame that it is to meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.traffic.flow_fields import PORT_BITS

if TYPE_CHECKING:
    from lab.bpf.loader import Loader
    from lab.bpf.program import Program


@dataclass(frozen=True)
class Workload:
    """What a benchmark measures and a comparison repeats.

    `frame` is a scapy packet or bytes, UDP or TCP; 2 ** `port_bits` of its flows share a source address.
    """

    program: Program
    frame: Any
    port_bits: int = PORT_BITS


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: a name for people, and how to make its workload anew with a loader."""

    name: str
    make: Callable[[Loader], Workload]
