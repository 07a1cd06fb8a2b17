"""How often a test does what it does many times: less where time is dear."""

from __future__ import annotations

from lab.wait import factor

EFFORT = "LAB_EFFORT"
"""An environment variable: the share of the many times that is done (0.1 on an emulated machine); 1 without it."""


def effort(count: int) -> int:
    """`count`, or the share of it that $LAB_EFFORT tells; at least one."""
    return max(1, round(count * factor(EFFORT, mend=f"{EFFORT}=0.1 does a tenth of it")))
