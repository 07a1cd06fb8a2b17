"""The drawings name everything and fit any page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from lab.net.topology import NamespaceSpec, Topology, Veth, Vxlan

SVG = "{http://www.w3.org/2000/svg}"

TOPOLOGIES = {
    "pair": Topology.pair("client", "server"),
    "chain": Topology.chain("a", "b", "c", "d"),
    "star": Topology.star("hub", leaves=20),
    "bridge": Topology.bridge("switch", leaves=5),
    "alone": Topology.of(["only"], []),
    "apart": Topology.of(["here", "there"], []),
    "loop": Topology.of(["only"], [Veth("only/a", "only/b")]),
    "triangle": Topology.of(["a", "b", "c"], [Veth("a/b", "b/a"), Veth("b/c", "c/b"), Veth("c/a", "a/c")]),
    "overlay": Topology.pair("a", "b").extended(
        namespaces=[NamespaceSpec("b", loopback=("198.51.100.1/32",))],
        vxlans=[Vxlan("a/vx0", "a/eth0", "b/eth0", 7), Vxlan("b/vx0", "b/eth0", "a/eth0", 7)],
    ),
}


def boxes(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of each namespace."""
    found = [each for each in svg.iter(f"{SVG}rect") if "lab-box" in each.attrib["class"]]
    sizes = [[float(each.attrib[name]) for name in ("x", "y", "width", "height")] for each in found]
    return [(x, y, x + width, y + height) for x, y, width, height in sizes]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_svg_shows_every_name_and_address(name: str) -> None:
    """Each namespace, interface and address is there to read, with a wire for each veth."""
    topology = TOPOLOGIES[name]
    svg = ElementTree.fromstring(topology.to_svg())
    texts = [each.text or "" for each in svg.iter(f"{SVG}text")]
    for spec in topology.namespaces:
        assert spec.name in texts
        assert all(f"lo {each}" in texts for each in spec.loopback)
    for each in topology.interfaces:
        assert each.short_name in texts
        assert all(str(address) in texts for address in each.addresses)
    assert len([each for each in svg.iter(f"{SVG}path")]) == len(topology.veths)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_boxes_do_not_overlap_and_lie_on_the_page(name: str) -> None:
    """No two namespaces cover each other, and none leaves the view box."""
    svg = ElementTree.fromstring(TOPOLOGIES[name].to_svg())
    width, height = (float(each) for each in svg.attrib["viewBox"].split()[2:])
    found = boxes(svg)
    for place, (left, top, right, bottom) in enumerate(found):
        assert left >= 0 <= top
        assert right <= width
        assert bottom <= height
        for x1, y1, x2, y2 in found[place + 1 :]:
            assert right < x1 or x2 < left or bottom < y1 or y2 < top


def test_the_svg_takes_nothing_from_outside_and_styles_nothing_outside() -> None:
    """It has no link but its namespace, and each of its rules begins with a name of its own."""
    text = TOPOLOGIES["bridge"].to_svg()
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    style = ElementTree.fromstring(text).find(f"{SVG}style")
    assert style is not None
    selectors = re.split(r"{[^}]*}", style.text or "")[:-1]
    assert [each for each in selectors if not each.startswith(".lab-")] == []


def test_a_crowd_is_drawn_in_part_and_counted() -> None:
    """Of 500 leaves, 20 are drawn and 480 are counted."""
    svg = ElementTree.fromstring(Topology.star("hub", leaves=500).to_svg())
    assert len(boxes(svg)) == 21
    assert "and 480 more like these" in [each.text for each in svg.iter(f"{SVG}text")]


def test_names_cannot_break_the_drawing() -> None:
    """Signs that XML gives a meaning are escaped."""
    svg = ElementTree.fromstring(Topology.of(["a", "b"], [Veth("a/<&>", "b/\"x'")]).to_svg())
    assert {"<&>", "\"x'"} <= {each.text for each in svg.iter(f"{SVG}text")}


def test_mermaid_names_everything() -> None:
    """A subgraph for each namespace, a node with its addresses for each interface, an edge for each veth."""
    text = Topology.bridge("switch", leaves=1, ipv6=None).to_mermaid()
    assert text == (
        "flowchart LR\n"
        '  subgraph n0["switch"]\n'
        '    i2["eth0"]\n'
        '    i4["br0<br/>10.0.0.1/24"]\n'
        "  end\n"
        '  subgraph n1["leaf1"]\n'
        '    i3["eth0<br/>10.0.0.2/24"]\n'
        "  end\n"
        "  i2 --- i3\n"
        "  i2 -.- i4\n"
    )
