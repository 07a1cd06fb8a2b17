"""The verdicts that BPF network programs return, by their kernel names."""

from __future__ import annotations

from enum import Enum


class Action(Enum):
    """A verdict, named as in linux/bpf.h and linux/pkt_cls.h; `value` is (family, number).

    >>> Action.of("xdp", 2)
    Action.XDP_PASS
    >>> Action.TC_ACT_SHOT.number
    2
    """

    XDP_ABORTED = ("xdp", 0)
    XDP_DROP = ("xdp", 1)
    XDP_PASS = ("xdp", 2)
    XDP_TX = ("xdp", 3)
    XDP_REDIRECT = ("xdp", 4)

    TC_ACT_UNSPEC = ("tc", -1)
    TC_ACT_OK = ("tc", 0)
    TC_ACT_RECLASSIFY = ("tc", 1)
    TC_ACT_SHOT = ("tc", 2)
    TC_ACT_PIPE = ("tc", 3)
    TC_ACT_STOLEN = ("tc", 4)
    TC_ACT_QUEUED = ("tc", 5)
    TC_ACT_REPEAT = ("tc", 6)
    TC_ACT_REDIRECT = ("tc", 7)
    TC_ACT_TRAP = ("tc", 8)

    SK_DROP = ("sk", 0)
    SK_PASS = ("sk", 1)

    @property
    def number(self) -> int:
        """The number that the program returned."""
        return self.value[1]

    @classmethod
    def of(cls, family: str, number: int) -> Action:
        """The verdict that `number` means to a hook of `family` ("xdp", "tc" or "sk").

        Raises ValueError for a number that the kernel gives no meaning.
        """
        return cls((family, number))

    def __repr__(self) -> str:
        return f"Action.{self.name}"

    def __str__(self) -> str:
        return self.name


class Mode(Enum):
    """How XDP is attached (linux/if_link.h: XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE)."""

    NATIVE = "native"
    GENERIC = "generic"


class Direction(Enum):
    """Which way a frame passes an interface that a tc program sits on."""

    INGRESS = "ingress"
    EGRESS = "egress"
