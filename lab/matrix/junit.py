"""One JUnit file of a session on several kernels: a test suite a kernel, so that equal names do not meet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from lab.matrix.session import Lane, Matrix
from lab.model.run import Result

TAGS = {"failed": "failure", "error": "error", "xpassed": "failure", "skipped": "skipped", "xfailed": "skipped"}
LOST = "error"
"""JUnit has no word for it: an error whose type is "lost"."""
UNPRINTABLE = dict.fromkeys(set(range(32)) - {9, 10, 13})
"""XML 1.0 cannot hold them."""


def write(matrix: Matrix, out: Path) -> Path:
    """The file, whole."""
    root = ElementTree.Element("testsuites", name="bpflab matrix")
    root.extend(_suite(lane) for lane in matrix.lanes)
    out.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(out, encoding="utf-8", xml_declaration=True)
    return out


def _suite(lane: Lane) -> ElementTree.Element:
    kinds = Counter(TAGS.get(result.outcome, LOST) for result in lane.results if result.outcome != "passed")
    alone = [] if lane.run else [lane.lost or lane.complaint]
    suite = ElementTree.Element(
        "testsuite",
        name=f"kernel {lane.release}",
        tests=str(len(lane.results) + len(alone)),
        failures=str(kinds["failure"]),
        errors=str(kinds["error"] + len(alone)),
        skipped=str(kinds["skipped"]),
        time=f"{lane.run.duration_s if lane.run else 0:.3f}",
    )
    suite.extend(_case(result, lane) for result in lane.results)
    for reason in alone:
        case = ElementTree.SubElement(suite, "testcase", classname=f"kernel {lane.release}", name="machine")
        ElementTree.SubElement(case, LOST, type="lost", message=reason)
    return suite


def _case(result: Result, lane: Lane) -> ElementTree.Element:
    path, _, name = result.nodeid.partition("::")
    place = path.removesuffix(".py").replace("/", ".")
    case = ElementTree.Element("testcase", classname=place, name=name, time=f"{result.duration_s:.3f}")
    if result.outcome != "passed":
        kind = "lost" if result.outcome not in TAGS else result.outcome
        said = result.reason.translate(UNPRINTABLE)
        element = ElementTree.SubElement(
            case, TAGS.get(result.outcome, LOST), type=kind, message=said.partition("\n")[0]
        )
        element.text = said
    return case
