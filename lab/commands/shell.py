"""`lab shell`: inside a namespace of a kept network."""

from __future__ import annotations

import click

from lab.errors import LabError
from lab.keep.kept import Kept, every_kept, find


@click.command("shell", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[NAME] [NAMESPACE] [COMMAND ...]")
def command(words: tuple[str, ...]) -> None:
    """A shell inside NAMESPACE (default: the first) of the kept network NAME (default: the only one).

    With a COMMAND, that one, and its exit status. `ip`, `tcpdump`, `ss` and `bpftool net` show what is there. Without
    a terminal the shell reads its commands from the standard input.

    \b
    lab shell                            the first namespace of the only network
    lab shell kqzt server                that one
    lab shell kqzt server ip -s link     a command there
    """
    kept, rest = _network(words)
    namespace, argv = next(iter(kept.namespaces)), rest
    if rest:
        namespace, argv = rest[0], rest[1:]
    if namespace not in kept.namespaces:
        raise LabError(f"{kept.name} has no namespace {namespace!r}", mend=", ".join(kept.namespaces))
    from lab.keep.inside import become

    with kept.opened() as descriptors:
        become(kept.name, namespace, descriptors[namespace], argv)


def _network(words: tuple[str, ...]) -> tuple[Kept, tuple[str, ...]]:
    """The network, and the words after its name: it may be left out where there is one only."""
    names = {each.name for each in every_kept()}
    if words and (words[0] in names or len(names) != 1):
        return find(words[0]), words[1:]
    return find(""), words
