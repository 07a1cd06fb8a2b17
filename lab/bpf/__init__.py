"""BPF programs: from C to a loaded program whose maps are Python mappings.

from lab import bpf

with bpf.load("xdp_filter", default_allow=True) as program:      # bpf/xdp_filter.bpf.c, knobs set
    program.maps["deny_ports"][9000] = 1                          # typed by BTF: __be16 is converted
    print(program.run(bytes(60)).action)                          # BPF_PROG_RUN: XDP_DROP
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        ...
    print(program.maps["verdicts"].total("XDP_DROP"))             # a per-CPU value, summed
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.bpf.program import Program


def load(
    source: str | os.PathLike[str],
    /,
    *,
    program: str | None = None,
    max_entries: Mapping[str, int] | None = None,
    **knobs: Any,
) -> Program:
    """A program by its stem or by a path to a .bpf.c or .bpf.o; close it, or use it in a `with` block.

    See `lab.bpf.loader.Loader.load`.
    """
    from lab.bpf.loader import find, load_object

    return load_object(find(source), program, knobs, max_entries or {})


def companion(stem: str) -> Any:
    """The Python module beside a program's C file; see `lab.bpf.companion`."""
    from lab.bpf import companion as module

    return module.companion(stem)
