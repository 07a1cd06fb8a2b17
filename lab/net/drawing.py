"""Drawings of a topology: Mermaid text, and SVG. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.net.topology import Topology


def to_mermaid(topology: Topology) -> str:
    """A flowchart: a subgraph for each namespace, a node for each interface, an edge for each veth."""
    lines = ["flowchart LR"]
    for number, spec in enumerate(topology.namespaces):
        lines.append(f'  subgraph n{number}["{spec.name}"]')
        for each in topology.layout.of_namespace.get(spec.name, ()):
            label = "<br/>".join([each.short_name, *(str(address) for address in each.addresses)])
            lines.append(f'    i{each.ifindex}["{label}"]')
        lines.append("  end")
    indexes = {each.name: each.ifindex for each in topology.interfaces}
    lines += [f"  i{indexes[veth.a]} --- i{indexes[veth.b]}" for veth in topology.veths]
    lines += [f"  i{each.ifindex} -.- i{indexes[each.master]}" for each in topology.interfaces if each.master]
    lines += [
        f"  i{each.ifindex} -.- i{indexes[each.peer]}" for each in topology.interfaces if each.kind[0:2] in ("vl", "vx")
    ]
    return "\n".join(lines) + "\n"


def to_svg(topology: Topology) -> str:
    """One box a namespace."""
    width = 160 * len(topology.namespaces)
    boxes = "".join(
        f'<text x="{160 * place + 20}" y="40" fill="currentColor">{spec.name}</text>'
        for place, spec in enumerate(topology.namespaces)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 80">{boxes}</svg>'
