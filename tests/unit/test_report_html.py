"""The page: whole, self-contained, honest, and deaf to whatever a run's text would like it to do."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lab import Topology
from lab.errors import StoreError
from lab.model.measurement import Limit
from lab.report import html
from lab.report.drawing import safe_svg
from lab.report.text import summary
from tests.unit import sample_run as sample

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>{{ 7*7 }}&lt;\u2028]]>"
)
URLS = {"src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, text, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the element."""
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        """Ends a script."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Keeps what a reader sees apart from what runs."""
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, in one line."""
        return re.sub(r"\s+", " ", "".join(self.words))

    @property
    def data(self) -> dict[str, Any]:
        """The embedded measurements."""
        return dict(json.loads(self.scripts[0]))

    def having(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a class."""
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def page_of(tmp_path: Path, *runs: Any) -> Page:
    for run in runs:
        sample.store(run, tmp_path / "runs")
    return Page(html.write(tmp_path / "runs", tmp_path / "index.html").read_text())


def test_overview_says_what_failed(tmp_path: Path) -> None:
    """The title, the first heading and the squares agree on one failure, and it is linked with its reason."""
    page = page_of(tmp_path, sample.sample_run(1))

    assert "1 of 71 scenarios failed" in page.text
    functions = {each.nodeid.partition("[")[0] for each in sample.sample_run(1).results}
    assert len(page.having("square")) == len(functions) + 4  # the last four explain the symbols
    failed = [square for square in page.having("failed") if square.get("href")]
    assert len(failed) == 1
    assert str(failed[0]["href"]).removeprefix("#") in {attributes.get("id") for _, attributes in page.elements}
    assert "AssertionError: assert 3 == 0" in page.text
    assert "'XDP_DROP': Count(packets=3, bytes=180)" in page.text


def test_all_passed_says_so_and_counts(tmp_path: Path) -> None:
    """Without a failure the page says how many scenarios of how many programs passed."""
    run = sample.run_of(*(sample.scenario(program, name) for program in ("a", "b") for name in ("x", "y", "z")))

    assert "All 6 scenarios of 2 programs passed" in page_of(tmp_path, run).text


def test_examples_stand_behind_the_programs(tmp_path: Path) -> None:
    """What was run below examples/ is marked as such, follows the programs, and is counted apart from them."""
    example = sample.scenario("01_first", nodeid="examples/test_01_first.py::test_x")

    page = page_of(tmp_path, sample.run_of(example, sample.scenario("zebra")))

    assert "All 2 scenarios of 1 program and 1 example passed" in page.text
    assert "example, 1 passed" in page.text
    assert page.text.index("zebra") < page.text.index("01_first")


def test_variants_that_fail_alike_are_one_line(tmp_path: Path) -> None:
    """Three failed variants of four are named once at the head, and only the first of them stands open."""
    run = sample.run_of(
        *(sample.scenario(name=f"v[{each}]", title="Each.", outcome="failed", reason="E   no") for each in "abc"),
        sample.scenario(name="v[d]", title="Each."),
    )

    page = page_of(tmp_path, run)

    assert page.text.count("Each. (3 of 4 variants)") == 1
    assert len([test for test in page.having("test") if "open" in test]) == 1


def test_skipped_scenarios_are_no_passed_ones(tmp_path: Path) -> None:
    """A skip is neither counted as passed nor as failed, and its reason is shown."""
    run = sample.run_of(sample.scenario(), sample.scenario(name="other", outcome="skipped", reason="no TCX before 6.6"))

    text = page_of(tmp_path, run).text

    assert "1 of 2 scenarios of 1 program passed, none failed" in text
    assert "no TCX before 6.6" in text


@pytest.mark.parametrize("outcome", ["error", "exploded"])
def test_errors_and_unknown_outcomes_count_as_failures(tmp_path: Path, outcome: str) -> None:
    """An error in setup, or a word that this version does not know, is never taken for a pass."""
    run = sample.run_of(sample.scenario(outcome=outcome, reason="E   boom"))

    assert "1 of 1 scenario failed" in page_of(tmp_path, run).text


def test_a_broken_limit_is_in_the_verdict(tmp_path: Path) -> None:
    """A promise that was not kept is a failure even where the test that measured it passed."""
    slow = sample.with_limit(sample.latency("xdp_filter", random.Random(1), 200), Limit("p99", 100.0))
    run = sample.run_of(sample.scenario(), sample.scenario(name="slow", kind="benchmark", measurements=(slow,)))

    text = page_of(tmp_path, run).text

    assert "1 limit broken" in text
    assert "limit below 100 ns: BROKEN" in text


def test_no_runs_give_a_page_that_says_what_to_do(tmp_path: Path) -> None:
    """An empty or absent folder is no error: the page names the command that fills it."""
    page = page_of(tmp_path)

    assert "No results yet" in page.text
    assert "make bench" in page.text


def test_broken_files_are_named(tmp_path: Path) -> None:
    """A half-written run is named on the page, and the others are shown."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "half.json").write_text('{"schema": 1,')

    page = page_of(tmp_path, sample.run_of(sample.scenario()))

    assert "Could not read half.json" in page.text
    assert "All 1 scenario of 1 program passed" in page.text


def test_unlike_environments_are_warned_of(tmp_path: Path) -> None:
    """Results of two kernels on one page come with a warning that names the difference and both values."""
    other = replace(sample.ENVIRONMENT, kernel="6.1.0-41-amd64")
    page = page_of(
        tmp_path,
        sample.run_of(sample.scenario("a"), minutes=0, environment=other),
        sample.run_of(sample.scenario("b"), minutes=5),
    )

    assert "The environments of the runs shown differ in kernel" in page.text
    assert "6.18.5 / 6.1.0-41-amd64" in page.text
    assert "from older run" in page.text


def test_like_environments_raise_no_warning(tmp_path: Path) -> None:
    """One machine, one commit: nothing to warn of."""
    assert "runs shown differ" not in page_of(tmp_path, sample.sample_run(1), sample.sample_run(2, minutes=5)).text


def _hostile_run() -> Any:
    measured = replace(
        sample.latency("xdp_filter", random.Random(1), 300),
        **dict.fromkeys(("metric", "method", "subject", "program"), HOSTILE),
        remarks=(HOSTILE,),
    )
    note = dict.fromkeys(
        ("name", "section", "title", "text", "stream", "map", "matcher", "expected", "row", "how"), HOSTILE
    )
    kinds = ("topology", "program", "attachment", "map_assertion", "delivery", "verdict", "evidence", HOSTILE)
    notes = {
        kind: [{**note, "svg": HOSTILE, "mermaid": HOSTILE, "maps": [HOSTILE], HOSTILE: HOSTILE}] for kind in kinds
    }
    findings = [
        {"title": title, "lines": [HOSTILE], "shown": shown}
        for title, shown in ((HOSTILE, 9), ("Likely", 9), (HOSTILE, 0))
    ]
    notes["failure"] = [{"headline": HOSTILE, "findings": findings, "replay": HOSTILE, "folder": HOSTILE}]
    result = sample.scenario(
        HOSTILE,
        HOSTILE,
        title=HOSTILE,
        outcome="failed",
        reason=f"E   {HOSTILE}",
        notes=notes,
        measurements=(measured,),
    )
    environment = replace(
        sample.ENVIRONMENT, kernel=HOSTILE, cpu=HOSTILE, commit=HOSTILE, bpf_jit=HOSTILE, tools={HOSTILE: HOSTILE}
    )
    return sample.run_of(result, environment=environment, command=(HOSTILE,) * 2)


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    """Markup in every field of a run adds no element that runs, loads or handles events: it is shown as it is."""
    page = page_of(tmp_path, replace(_hostile_run(), id="hostile"))

    assert len(page.scripts) == 3
    assert not set("<>&") & set(page.scripts[0])  # whatever a browser makes of "</script x" or "<!--"
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed", "foreignobject")]
    handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert handlers == []
    assert HOSTILE.partition("\u2028")[0] in page.text
    assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", page.text)
    (carried,) = page.data.values()
    assert carried["subject"] == HOSTILE


def test_a_picture_in_the_evidence_is_shown(tmp_path: Path) -> None:
    """The drawing of a note stands below its text, without what the report does not take."""
    drawn = '<svg viewBox="0 0 10 10"><rect width="4" height="2" fill="#4c9f70" onclick="alert(1)"/></svg>'
    result = sample.scenario("xdp_filter", "drawn", notes={"evidence": [{"title": "", "text": "words", "svg": drawn}]})
    page = page_of(tmp_path, sample.run_of(result))

    assert ("rect", {"width": "4", "height": "2", "fill": "#4c9f70"}) in [
        (tag, dict(each)) for tag, each in page.elements
    ]


def test_nothing_is_asked_from_anywhere(tmp_path: Path) -> None:
    """No address on the page leads out of it: only fragments and embedded data."""
    page = page_of(tmp_path, sample.sample_run(1))

    addresses = [value or "" for _, attributes in page.elements for name, value in attributes.items() if name in URLS]
    assert addresses
    assert [address for address in addresses if not address.startswith(("#", "data:,"))] == []
    assert "@import" not in (tmp_path / "index.html").read_text()


def test_only_our_scripts_may_run(tmp_path: Path) -> None:
    """The content security policy names the digests of the two scripts, and no other source."""
    page = page_of(tmp_path, sample.sample_run(1))

    (policy,) = (str(meta["content"]) for tag, meta in page.elements if tag == "meta" and "http-equiv" in meta)
    digests = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts[1:]}
    assert set(re.findall(r"sha256-([^']+)", policy)) == digests
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_a_realistic_page_is_small(tmp_path: Path) -> None:
    """Four programs with 16,000 samples a distribution stay below 1.5 MB."""
    page_of(tmp_path, sample.sample_run(1, samples=16_000))

    assert (tmp_path / "index.html").stat().st_size < 1_500_000


def test_endless_evidence_is_cut_and_said_so(tmp_path: Path) -> None:
    """Fifty failures with a megabyte of log each do not make a page of fifty megabytes."""
    results = [
        sample.scenario(name=f"fails_{number}", outcome="failed", reason="E   no\n" + "log line\n" * 120_000)
        for number in range(50)
    ]
    page = page_of(tmp_path, sample.run_of(*results))

    assert (tmp_path / "index.html").stat().st_size < 2_000_000
    assert "characters left out; all of it is in run" in page.text


def test_metrics_that_nobody_knows_are_shown(tmp_path: Path) -> None:
    """A measurement of one's own appears with name, unit, interval and method."""
    own = replace(sample.cost("x", random.Random(1), 1), metric="setup_time", unit="ms", method="stop_watch")
    own = replace(own, trials=tuple(replace(trial, facts={}) for trial in own.trials))
    text = page_of(tmp_path, sample.run_of(sample.scenario(kind="benchmark", measurements=(own,)))).text

    assert "Setup time" in text
    assert "stop watch" in text
    assert re.search(r"median\s+\d+(\.\d+)? ms", text)


def test_every_plot_has_its_data(tmp_path: Path) -> None:
    """Each place for a plot names a measurement that the page carries, with a curve for each arm."""
    page = page_of(tmp_path, sample.sample_run(1))

    plots = [str(attributes["data-measurement"]) for _, attributes in page.elements if "data-measurement" in attributes]
    assert len(plots) == 8
    assert all(set(page.data[key]["curves"]) == {"with", "without"} for key in plots)


def test_names_on_the_page_are_unique(tmp_path: Path) -> None:
    """No two elements share an id, so that every link leads to one place."""
    page = page_of(tmp_path, sample.sample_run(1))

    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    links = {str(attributes["href"])[1:] for tag, attributes in page.elements if tag in ("a", "use")}
    assert len(ids) == len(set(ids))
    assert links <= set(ids)


def test_a_page_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    """A folder in the way is a StoreError with the kernel's words and a mend, and leaves no temporary file."""
    (tmp_path / "out" / "index.html").mkdir(parents=True)

    with pytest.raises(StoreError, match="could not be written"):
        html.write(tmp_path / "runs", tmp_path / "out" / "index.html")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]


def test_drawings_keep_shapes_and_words() -> None:
    """A drawing survives with its shapes, words and a view box to shrink by."""
    drawn = safe_svg(sample.SVG)

    assert drawn is not None
    assert drawn.count("<rect") == 2
    assert "10.0.0.1/24" in drawn
    assert 'stroke="currentColor"' in drawn
    assert 'viewBox="0 0 420 110"' in drawn


def test_drawings_of_the_lab_keep_their_look() -> None:
    """What Topology draws comes through with its classes and every rule of its style."""
    drawn = Topology.star("hub", leaves=3).to_svg()

    safe = safe_svg(drawn)

    assert safe is not None
    for kept in (r"<text", r"<rect", r"<path", r'class="lab-', r"\{", r"currentColor"):
        assert len(re.findall(kept, safe)) == len(re.findall(kept, drawn)), kept


@pytest.mark.parametrize(
    "style",
    [
        "body{fill:red}",
        ".lab-x,*{fill:red}",
        ".lab-x ~ div{fill:red}",
        ".lab-x{position:fixed;inset:0}",
        ".lab-x{fill:url(http://example.org)}",
        ".lab-x{fill:ur\\6c(http://example.org)}",
        "@import 'http://example.org';",
        "@media all{body{fill:red}}",
        ".lab-x{fill:red}</style><script>alert(1)</script>",
    ],
)
def test_drawings_style_nothing_but_themselves(style: str) -> None:
    """A rule that reaches beyond the drawing, moves it or loads something is dropped."""
    drawn = safe_svg(f"<svg xmlns='http://www.w3.org/2000/svg'><style><![CDATA[{style}]]></style></svg>")

    assert drawn is not None
    for bad in ("body", "*", "~", "position", "inset", "http", "@", "script"):
        assert bad not in drawn


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<rect onload="alert(1)"/>',
        '<a href="javascript:alert(1)"><text>x</text></a>',
        '<image href="http://example.org/x.png"/>',
        '<use href="http://example.org/x.svg#a"/>',
        "<style>* { background: url(http://example.org) }</style>",
        '<rect fill="url(http://example.org/#a)"/>',
        '<rect style="fill: url(http://example.org)"/>',
        "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml' onload='alert(1)'/></foreignObject>",
        '<animate attributeName="href" values="javascript:alert(1)"/>',
        '<set attributeName="onmouseover" to="alert(1)"/>',
        '<h:script xmlns:h="http://www.w3.org/1999/xhtml">alert(1)</h:script>',
        "<title><![CDATA[</title><script>alert(1)</script>]]></title>",
    ],
)
def test_drawings_lose_what_runs_or_loads(inside: str) -> None:
    """Nothing of a hostile drawing is left but shapes and escaped words."""
    drawn = safe_svg(f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{inside}<rect width="1"/></svg>')

    for bad in ("<script", "javascript:", "http:", "onload", "onmouseover", "style=", "<image", "<a", "<use", "url("):
        assert bad not in (drawn or "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no svg",
        "<svg",
        "<html/>",
        "<!DOCTYPE svg [<!ENTITY a 'aaaa'>]><svg>&a;</svg>",
        "<g>" * 60_000,
        "x" * 300_000,
    ],
)
def test_what_is_no_drawing_gives_none(text: str) -> None:
    """Broken, endless or entity-laden text is refused instead of half drawn."""
    assert safe_svg(text) is None


def test_summary_for_the_terminal(tmp_path: Path) -> None:
    """The text names each program with its tally, its numbers as on the page, and what failed."""
    sample.store(sample.sample_run(1), tmp_path)

    text = summary(tmp_path)

    assert text.startswith("1 of 71 scenarios failed.")
    assert re.search(r"FAIL xdp_filter +20 passed, 1 failed", text)
    assert re.search(r"p99 [\d.]+ .s \(95 %: .* to .*s\), limit below 10 .s: kept", text)
    assert re.search(r"[\d.]+ ns \([\d.]+ to [\d.]+\) at 1,048,576", text)
    assert "Method of cost: BPF PROG RUN" in text
    assert "FAIL scenarios/test_xdp_filter.py::test_rules_change_while_traffic_flows_and" in text


def test_summary_without_runs_is_a_sentence(tmp_path: Path) -> None:
    """Nothing stored is said, not raised."""
    assert summary(tmp_path) == f"No stored run in {tmp_path}."
