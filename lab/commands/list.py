"""`lab list`: the programs that can be loaded by their stem, by what they hook into, and the examples."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.commands.table import print_table
from lab.errors import LabError
from lab.program_list import Source, example_folder, program_folders, programs_in

FAMILIES = {
    "XDP": ("xdp",),
    "TC": ("tc", "tcx", "classifier", "netkit"),
    "CGROUPS": ("cgroup", "cgroup_skb", "sockops"),
    "SOCKETS": ("sk_lookup", "sk_reuseport", "sk_msg", "sk_skb", "socket"),
    "TRACING": ("tracepoint", "tp", "raw_tp", "raw_tracepoint", "tp_btf", "kprobe", "kretprobe", "fentry", "fexit"),
}
"""Headings, and how the sections below each begin."""
SEVERAL, OTHER, EXAMPLES = "SEVERAL HOOKS", "OTHER", "EXAMPLES"


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for other programs.")
def command(as_json: bool) -> None:
    """The programs at hand: what `bpf.load` finds by its stem, where each hooks in, what it does.

    Looks into bpf/ of the project around the current folder, then into what comes with the lab, then into examples/.
    """
    folders = program_folders(Path.cwd())
    groups = grouped([*programs_in(folders), *programs_in([example_folder(Path.cwd())])])
    if not groups:
        raise LabError(f"list: no program in {folders[0]}", mend="lab new <name> --hook xdp writes one")
    if as_json:
        every = [_as_dict(source, heading) for heading, sources in groups.items() for source in sources]
        click.echo(json.dumps(every, indent=2))
        return
    print_table(("program", "hook", "what it does"), _rows(groups))


def grouped(sources: list[Source]) -> dict[str, list[Source]]:
    """Sources under their headings, in the headings' order; the examples last."""
    found: dict[str, list[Source]] = {heading: [] for heading in (*FAMILIES, SEVERAL, OTHER, EXAMPLES)}
    for source in sources:
        found[_heading(source)].append(source)
    return {heading: each for heading, each in found.items() if each}


def _heading(source: Source) -> str:
    if source.is_example:
        return EXAMPLES
    families = set(map(_family, source.sections)) - {OTHER}
    return families.pop() if len(families) == 1 else SEVERAL if families else OTHER


def _family(section: str) -> str:
    beginning = section.lstrip("?").partition("/")[0].partition(".")[0]
    return next((heading for heading, known in FAMILIES.items() if beginning in known), OTHER)


def _rows(groups: dict[str, list[Source]]) -> list[tuple[str, str, str]]:
    rows = []
    for heading, sources in groups.items():
        rows += [("", "", ""), (heading, "", "")]
        rows += [(source.stem, short_hooks(source.sections), source.summary) for source in sources]
    return rows


def short_hooks(sections: tuple[str, ...]) -> str:
    """One section as it is; of several what they have in common: "tc", "cgroup", "xdp, tc".

    >>> short_hooks(("cgroup/connect4", "cgroup/connect6", "sockops"))
    'cgroup, sockops'
    """
    if len(sections) == 1:
        return sections[0]
    return ", ".join(dict.fromkeys(section.lstrip("?").partition("/")[0] for section in sections))


def _as_dict(source: Source, heading: str) -> dict[str, object]:
    return {
        "stem": source.stem,
        "path": str(source.path),
        "group": heading.lower(),
        "sections": list(source.sections),
        "summary": source.summary,
    }
