"""`lab up`: the topology of a scenario, brought up for a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.net.topology import Topology


@click.command("up")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", "variable", default="TOPOLOGY", show_default=True, help="The name of the topology in FILE.")
def command(file: Path, variable: str) -> None:
    """Bring up the topology of FILE, a scenario or any Python file with a TOPOLOGY, and keep it until `lab down`."""
    topology = _topology(file, variable)
    from lab.keep.kept import keep
    from lab.net.network import Network

    network = Network(topology).up()
    try:
        kept = keep(str(file), network)
    finally:
        network.close()
    click.echo(kept.drawing)
    for namespace in kept.namespaces:
        click.echo(f"lab shell {kept.name} {namespace}")
    click.echo(f"lab down {kept.name}")


def _topology(file: Path, variable: str) -> Topology:
    from lab.bpf.companion import load_module
    from lab.net.topology import Topology

    found = getattr(load_module(file.resolve()), variable, None)
    if not isinstance(found, Topology):
        raise LabError(f"{file} has no topology {variable}", mend='TOPOLOGY = Topology.pair("client", "server") in it')
    return found
