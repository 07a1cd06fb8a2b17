"""Several loads of one program: where its code lies in memory is part of what it costs.

Two loads of the same object differ by 0.5 to 1.5 ns, and no number of packets through one of them tells that. So a cost
is the mean over several, and its interval is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.bpf.program import Program

FEWEST, MOST = 6, 16


@contextmanager
def copies_of(program: Program, budget_s: float) -> Iterator[list[Program]]:
    """Loads of the program that share its maps, as many as the budget allows; itself alone if BCC loaded it."""
    with ExitStack() as stack:
        if not program.can_load_again:
            yield [program]
            return
        made: list[Program] = []
        end = time.monotonic() + budget_s
        while len(made) < FEWEST or (len(made) < MOST and time.monotonic() < end):
            made.append(stack.enter_context(program.again()))
        yield made
