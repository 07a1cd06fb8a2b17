"""A program that another process has loaded and attached: its maps, found by the kernel's ids, nothing pinned.

with running("segment_ingress", "tc_segment") as instance:
    instance.maps["stats_map"].items()
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from lab.bpf.build import build
from lab.bpf.find import find
from lab.bpf.map import Map
from lab.bpf.map_kinds import open_map
from lab.bpf.object_file import MapTypes, ObjectFile
from lab.errors import LoadError
from lab.kernel import bpf, bpf_ids
from lab.kernel.function_types import btf_of_program

NAME_BYTES = 15


@dataclass(frozen=True)
class Running:
    """An instance; `maps` are typed by the source that is here now, and so must be the ones of the same version."""

    program_id: int
    maps: Mapping[str, Map]


@contextmanager
def running(program: str, stem: str, program_id: int = 0) -> Iterator[Running]:
    """The instance of a program, by its name (of `program_id`, if there are several); LoadError where there is none."""
    found = list(instances(program))
    chosen = [each for each in found if program_id in (0, each)]
    if not chosen:
        there = f"those that run: {', '.join(map(str, found))}" if found else f"`lab {stem}` runs one"
        raise LoadError(f"{stem}: no instance {program_id or ''} runs".replace("  ", " "), mend=there)
    if len(chosen) > 1:
        raise LoadError(f"{stem}: {len(chosen)} instances run", mend=f"--id, of {', '.join(map(str, chosen))}")
    with ExitStack() as stack:
        yield Running(chosen[0], _maps(chosen[0], stem, stack))


def instances(program: str) -> Iterator[int]:
    """The ids of the programs of that name; one of several that share maps (copies of one load) stands for all."""
    seen: set[tuple[int, ...]] = set()
    for number in bpf_ids.program_ids():
        with suppress(FileNotFoundError):  # it may end meanwhile
            fd = bpf.fd_of_program(number)
            try:
                if bpf_ids.program_name(fd) != program[:NAME_BYTES]:
                    continue
                maps = tuple(sorted(bpf_ids.map_ids(fd)))
            finally:
                os.close(fd)
            if maps not in seen:
                seen.add(maps)
                yield number


def _maps(program_id: int, stem: str, stack: ExitStack) -> dict[str, Map]:
    file = ObjectFile(build(find(stem)))
    names = {each[:NAME_BYTES]: each for each in file.maps}
    program = bpf.fd_of_program(program_id)
    stack.callback(os.close, program)
    types = -1
    with suppress(FileNotFoundError):  # it was loaded without
        types = btf_of_program(program)
        stack.callback(os.close, types)
    found: dict[str, Map] = {}
    for number in bpf_ids.map_ids(program):
        fd = bpf.fd_of_map(number)
        stack.callback(os.close, fd)
        name = names.get(bpf_ids.map_name(fd))
        if name is not None:
            found[name] = open_map(fd, name, file.btf, file.maps.get(name, MapTypes()), types)
            stack.callback(found[name].close)
    return found
