"""One thing that was looked at, and what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Answer = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Check:
    """`detail` says what was seen, `gives` what the lab uses it for, `mend` how to get it ("" where it is there)."""

    name: str
    answer: Answer
    required: bool
    gives: str
    detail: str = ""
    mend: str = ""

    @property
    def blocks(self) -> bool:
        """True when nothing can run until this is mended."""
        return self.required and self.answer == "no"
