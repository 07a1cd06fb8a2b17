"""What this thread may do beyond an ordinary user: capabilities(7), as /proc/thread-self/status tells them."""

from __future__ import annotations

import re
from pathlib import Path

# linux/capability.h. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON too: namespaces need it anyway.
NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}


def lacking() -> list[str]:
    """The capabilities that the lab needs and this thread does not have: none for root, but in a container."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/thread-self/status").read_text(), re.MULTILINE)
    effective = int(found.group(1), 16) if found else 0
    return [name for name, bit in NEEDED.items() if not effective >> bit & 1]
