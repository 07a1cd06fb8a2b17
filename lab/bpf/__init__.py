"""BPF programs: from C to a loaded program whose maps are Python mappings.

from lab import bpf

with bpf.load("xdp_filter", default_allow=True) as program:      # bpf/xdp_filter.bpf.c, a knob set
    program.maps["deny_ports"][9000] = 1                          # typed by BTF: a __be16 is converted
    print(program.run(bytes(60)).action)                          # BPF_PROG_RUN: XDP_DROP
    with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
        ...
    program.maps["flows"].eventually().has(key, {"packets": 3})   # retries, shows the difference
    print(program.maps["verdicts"].total("XDP_DROP"))             # a per-CPU value, summed
    print(program.maps["events"].events(count=1))                 # of a ring buffer, as structs
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.bpf.map import Map
    from lab.bpf.program import Program


def load(
    source: str | os.PathLike[str],
    /,
    *,
    program: str | None = None,
    max_entries: Mapping[str, int] | None = None,
    share: Mapping[str, Map] | None = None,
    cflags: Sequence[str] = (),
    **knobs: Any,
) -> Program:
    """A program by its stem or by a path to a .bpf.c or .bpf.o; close it, or use it in a `with` block.

    A stem is found in bpf/ of the working directory or a folder above it, up to the project's root, then among the
    programs that come with the lab. `knobs` set its `const volatile` globals, `max_entries` the sizes of its maps by
    name, `share` gives it maps of another program in place of its own, and `cflags` are more words for clang, such as
    "-Ipath". Of an object with several programs all are loaded and the one named as the file is the entry; `program`
    chooses another, and loads that alone.
    BuildError, LoadError or VerifierError when it cannot be; NeedsRoot without the rights.
    """
    from lab.bpf.find import find
    from lab.bpf.loading import Wishes, load_file

    return load_file(find(source), Wishes(program, knobs, max_entries or {}, share or {}, cflags))


def companion(stem: str) -> Any:
    """The Python module beside a program's C file; see `lab.bpf.companion`."""
    from lab.bpf import companion as module

    return module.companion(stem)
