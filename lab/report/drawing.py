"""Topology drawings, made safe to stand inside the page.

A drawing is rebuilt from a short list of elements, attributes and style properties: nothing that runs, loads, links or
reaches beyond the drawing survives. What is not well-formed, or too large, gives no drawing at all, and the page shows
the Mermaid text instead.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

LARGEST = 200_000
NAMESPACE = "{http://www.w3.org/2000/svg}"
ELEMENTS = {
    *("svg", "g", "defs", "title", "style", "desc", "marker", "symbol"),
    *("rect", "circle", "ellipse", "line", "polyline", "polygon", "path", "text", "tspan"),
}
ATTRIBUTES = {
    *("viewBox", "width", "height", "x", "y", "dx", "dy", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "d"),
    *("points", "transform", "preserveAspectRatio", "role", "aria-label"),
    *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap"),
    *("stroke-linejoin", "opacity", "font-size", "font-weight", "font-family", "font-style", "text-anchor"),
    *("dominant-baseline", "letter-spacing", "vector-effect"),
}
PROPERTIES = {
    *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap"),
    *("stroke-linejoin", "opacity", "font-size", "font-weight", "font-family", "font-style", "text-anchor"),
}
RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
SELECTOR = re.compile(r"\.lab-[a-z0-9-]+( +(\.lab-[a-z0-9-]+|text|tspan|rect|path|line|circle|g))*")
VALUE = re.compile(r"[\w\s#.,%()-]*")
OUTSIDE = re.compile(r"url\s*\(|javascript:|data:|expression", re.IGNORECASE)


def safe_svg(text: str) -> Markup | None:
    """The drawing with nothing in it but shapes and words, or None where there is none to be had."""
    if len(text) > LARGEST or "<!DOCTYPE" in text:
        return None
    try:
        clean = _clean(ElementTree.fromstring(text))
    except (ElementTree.ParseError, RecursionError):
        return None
    if clean is None or clean.tag != "svg":
        return None
    _fit(clean)
    return Markup(ElementTree.tostring(clean, encoding="unicode", short_empty_elements=True))


def _clean(element: ElementTree.Element) -> ElementTree.Element | None:
    name = str(element.tag).removeprefix(NAMESPACE)
    if name not in ELEMENTS:
        return None
    if name == "style":
        return _clean_style(element)
    clean = ElementTree.Element(name, {key: value for key, value in element.attrib.items() if _is_safe(key, value)})
    clean.text, clean.tail = element.text, element.tail
    for child in element:
        kept = _clean(child)
        if kept is not None:
            clean.append(kept)
    return clean


def _is_safe(name: str, value: str) -> bool:
    if name == "class":
        return all(word.startswith("lab-") for word in value.split())
    return name in ATTRIBUTES and not OUTSIDE.search(value)


def _clean_style(element: ElementTree.Element) -> ElementTree.Element:
    """Rules that speak of the drawing's own classes only, and set only how shapes and letters look."""
    clean = ElementTree.Element("style")
    kept = (_clean_rule(selectors, body) for selectors, body in RULE.findall(element.text or ""))
    clean.text = "".join(kept)
    return clean


def _clean_rule(selectors: str, body: str) -> str:
    if not all(SELECTOR.fullmatch(selector.strip()) for selector in selectors.split(",")):
        return ""
    pairs = (declaration.partition(":") for declaration in body.split(";"))
    kept = [f"{name.strip()}:{value}" for name, _, value in pairs if _is_safe_style(name.strip(), value)]
    return f"{selectors.strip()}{{{';'.join(kept)}}}"


def _is_safe_style(name: str, value: str) -> bool:
    return name in PROPERTIES and VALUE.fullmatch(value) is not None and not OUTSIDE.search(value)


def _fit(svg: ElementTree.Element) -> None:
    """A view box makes the drawing shrink with a narrow page, a width keeps it from growing beyond its own size."""
    width, height = svg.get("width", ""), svg.get("height", "")
    if "viewBox" not in svg.attrib and width and height:
        svg.set("viewBox", f"0 0 {width.removesuffix('px')} {height.removesuffix('px')}")
    box = svg.get("viewBox", "").replace(",", " ").split()
    if len(box) == 4 and not width:
        svg.set("width", box[2])
        svg.set("height", box[3])
    svg.set("role", "img")
