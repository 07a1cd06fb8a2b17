"""What the README and the tutorial show works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.bpf.loader import Loader
from lab.errors import VerifierError

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|c)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "examples/README.md"),
    *("docs/tutorial.md", "docs/design.md", "docs/measuring.md"),
]


def blocks(document: str) -> list[tuple[str, str]]:
    """The code blocks of a document: (language, text)."""
    return [(found[1], found[2]) for found in BLOCK.finditer((ROOT / document).read_text())]


def test_the_scenario_of_the_readme_passes(pytester: pytest.Pytester) -> None:
    """Word for word, in a folder of its own."""
    ((_, scenario),) = blocks("README.md")
    (pytester.mkdir("scenarios") / "test_first.py").write_text(scenario)
    pytester.runpytest_subprocess("scenarios").assert_outcomes(passed=1)


def test_the_tutorial_can_be_followed(pytester: pytest.Pytester) -> None:
    """Its program, its scenarios and its benchmark, written where it says."""
    (_, program), (_, scenario), (_, benchmark) = blocks("docs/tutorial.md")
    (pytester.mkdir("bpf") / "xdp_limit_ping.bpf.c").write_text(program)
    (pytester.mkdir("scenarios") / "test_xdp_limit_ping.py").write_text(scenario)
    (pytester.mkdir("benchmarks") / "bench_xdp_limit_ping.py").write_text(benchmark)
    pytester.runpytest_subprocess("scenarios").assert_outcomes(passed=7)
    pytester.runpytest_subprocess("benchmarks/bench_xdp_limit_ping.py").assert_outcomes(passed=2)


def test_the_tutorials_scenarios_catch_what_it_says(pytester: pytest.Pytester) -> None:
    """The off-by-one that it proposes turns just one row red."""
    (_, program), (_, scenario), _ = blocks("docs/tutorial.md")
    broken = program.replace("l4_bytes > sizeof", "l4_bytes >= sizeof")
    assert broken != program
    (pytester.mkdir("bpf") / "xdp_limit_ping.bpf.c").write_text(broken)
    (pytester.mkdir("scenarios") / "test_xdp_limit_ping.py").write_text(scenario)
    pytester.runpytest_subprocess("scenarios").assert_outcomes(passed=6, failed=1)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link names a file or folder of the project."""
    page = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_a_page_lead_to_its_headings(document: str) -> None:
    """Names are those that GitHub makes: in small letters, spaces as hyphens, without other marks."""
    text = (ROOT / document).read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def test_the_ladder_names_each_example_in_order() -> None:
    """examples/README.md has a step for every program there, and no other."""
    named = re.findall(r"^\d+\. \[`(\w+)`\]\(\1\.bpf\.c\)", (ROOT / "examples/README.md").read_text(), re.MULTILINE)
    there = sorted(each.name.removesuffix(".bpf.c") for each in (ROOT / "examples").glob("*.bpf.c"))
    assert named == there
    assert all((ROOT / "examples" / f"test_{each}.py").is_file() for each in there)


@pytest.mark.parametrize(
    "program", re.findall(r"^load (\w+): the verifier", (ROOT / "examples/README.md").read_text(), re.M)
)
def test_the_ladder_shows_what_the_lab_says(bpf: Loader, program: str) -> None:
    """The place, the line of C and the way out stand there word for word; the rest is the kernel's."""
    with pytest.raises(VerifierError) as refused:
        bpf.load(ROOT / "examples" / "25_rejections.bpf.c", program=program)

    page = (ROOT / "examples/README.md").read_text()
    assert "\n".join(refused.value.what.splitlines()[:2]) in page
    assert f"  mend:   {refused.value.mend}" in page
