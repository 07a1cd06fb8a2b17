"""What a keeper holds besides namespaces, in the kernel's own words (its /proc/<pid>/fdinfo)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.kernel import bpf

NAME = struct.Struct("=64x16s")  # struct bpf_prog_info: name is its 64th byte and the 15 after it


@dataclass(frozen=True)
class Held:
    """One attachment: a bpf_link that is held open."""

    kind: str
    """The kernel's word for it: "xdp", "tcx", "cgroup"."""
    program: str
    program_id: int
    ifindex: int
    """0 where it is not at an interface."""


def attachments(pid: int) -> list[Held]:
    """Every bpf_link that the process has open, in the order in which they were made."""
    found = {}
    for facts in _links(pid):
        name = ""
        with suppress(OSError):
            descriptor = bpf.fd_of_program(int(facts["prog_id"]))
            try:
                name = NAME.unpack_from(bpf.object_info(descriptor))[0].rstrip(b"\0").decode()
            finally:
                os.close(descriptor)
        held = Held(facts["link_type"], name, int(facts["prog_id"]), int(facts.get("ifindex", 0)))
        found[int(facts["link_id"])] = held
    return [found[number] for number in sorted(found)]


def _links(pid: int) -> Iterator[dict[str, str]]:
    process = Path(f"/proc/{pid}")
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if str(descriptor.readlink()) == "anon_inode:bpf_link":
                lines = (process / "fdinfo" / descriptor.name).read_text().splitlines()
                yield {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
