"""The page in a real browser: it draws, it asks for nothing, it complains of nothing, and it fits a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.report import html
from tests.kernel import chromium
from tests.unit import sample_numbers as numbers
from tests.unit import sample_run as sample
from tests.unit.test_report_html import HOSTILE, _hostile_run
from tests.unit.test_trend import runs_with_a_step

ALL_DRAWN = "document.querySelectorAll('.plot').length === document.querySelectorAll('.plot canvas').length"
WINDOWS = [
    pytest.param(1280, False, id="desktop light"),
    pytest.param(1280, True, id="desktop dark"),
    pytest.param(390, False, id="phone light"),
    pytest.param(390, True, id="phone dark"),
]


@pytest.fixture
def browser() -> Iterator[chromium.Browser]:
    """A fresh Chromium; skipped only where none of its usual names is on the path."""
    executable = chromium.find()
    if executable is None:
        assert not any(shutil.which(name) for name in chromium.NAMES)
        pytest.skip(f"no browser: none of {', '.join(chromium.NAMES)} is installed (Debian: apt-get install chromium)")
    with chromium.browser(executable) as page:
        yield page


def _page(tmp_path: Path, *runs: object) -> Path:
    for run in runs:
        sample.store(run, tmp_path / "runs")  # type: ignore[arg-type]
    return html.write(tmp_path / "runs", tmp_path / "index.html")


def _open_whole(browser: chromium.Browser, page: Path, width: int, *, dark: bool = False) -> None:
    """In a window as tall as the page, so that every plot comes into sight and is drawn."""
    browser.resize(width, 900, dark=dark)
    browser.open(page)
    browser.resize(width, browser.value("document.documentElement.scrollHeight"), dark=dark)
    browser.wait_for(ALL_DRAWN)


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
def test_the_page_draws_in_silence(browser: chromium.Browser, tmp_path: Path, width: int, dark: bool) -> None:
    """Every plot is drawn, no address but the page's own is asked for, and no error or warning is logged."""
    page = _page(tmp_path, sample.sample_run(1))
    _open_whole(browser, page, width, dark=dark)

    assert browser.value("document.querySelectorAll('.plot canvas').length") == 8
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


def test_views_tips_and_links_work(browser: chromium.Browser, tmp_path: Path) -> None:
    """All three views draw, a square tells its scenario under the pointer, and its link opens the folded part."""
    browser.resize(1280, 900)
    browser.open(_page(tmp_path, sample.sample_run(1)))
    browser.value("document.querySelector('.plot').scrollIntoView()")
    browser.wait_for("document.querySelector('.plot canvas') !== null")
    for view in (1, 2, 0):
        browser.value(f"document.querySelectorAll('.plot')[0].querySelectorAll('input')[{view}].click()")
        browser.wait_for("document.querySelector('.plot canvas').width > 300")

    square = "document.querySelector('a.square.passed')"
    browser.value(f"{square}.dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}}))")
    assert browser.value("document.querySelector('.tip').textContent").endswith(("ms", "s"))
    assert browser.value(f"document.querySelector({square}.getAttribute('href')).open") is False
    browser.value(f"{square}.click()")
    browser.wait_for(f"document.querySelector({square}.getAttribute('href')).open")

    assert browser.complaints() == []


def test_hostile_runs_do_nothing(browser: chromium.Browser, tmp_path: Path) -> None:
    """Text that tries to be a script opens no dialogue, adds no image, and still is readable."""
    page = _page(tmp_path, _hostile_run())
    _open_whole(browser, page, 1280)

    assert not [event for event in browser.events if event.get("method") == "Page.javascriptDialogOpening"]
    assert browser.value("document.images.length") == 0
    assert browser.value("document.querySelector('h2 span').textContent") == HOSTILE
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


def test_without_any_run_the_page_is_quiet_too(browser: chromium.Browser, tmp_path: Path) -> None:
    """An empty report loads without an error."""
    browser.open(_page(tmp_path))

    assert browser.value("document.querySelector('h1').textContent.trim()") == "No results yet"
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
def test_histories_fit_the_window(browser: chromium.Browser, tmp_path: Path, width: int, dark: bool) -> None:
    """A chart for each figure, as wide as its place and no wider, with a dashed line where the figure changed."""
    page = _page(tmp_path, *runs_with_a_step())
    _open_whole(browser, page, width, dark=dark)

    charts = (
        "[...document.querySelectorAll('.trend-plot svg')].map(each => Math.round(each.getBoundingClientRect().width))"
    )
    assert [150 < each < width for each in browser.value(charts)] == [True]
    assert browser.value("document.querySelectorAll('.trend-plot .change.worse').length") == 1
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
def test_figures_and_what_they_stand_on_fit_the_window(
    browser: chromium.Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    """Comparisons, calibration, bills, losses and four arms are drawn within the page, whatever its width."""
    (tmp_path / "calibration.json").write_text(json.dumps(numbers.calibration().as_dict()))
    several = (numbers.latency(noise=numbers.NOISY), numbers.cost(), numbers.cost(flows=65_536), numbers.rate())
    compared = numbers.compared(
        numbers.comparison(), numbers.comparison(-0.08, "faster", half=0.04, subject="a very long subject " * 8)
    )
    page = _page(tmp_path, numbers.benchmark(*several), compared)
    _open_whole(browser, page, width, dark=dark)

    drawn = (
        "['.forest .mark', '.forest .reach', '.forest .band', '.bill rect', '.losses circle', '.bars tr', '.noise']"
        ".map(kind => [...document.querySelectorAll(kind)].map(each => each.getBoundingClientRect()))"
        ".map(all => [all.length, Math.min(...all.map(box => box.left)), Math.max(...all.map(box => box.right))])"
    )
    for count, left, right in browser.value(drawn):
        assert count >= 2 and left >= 0 and right <= width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


def test_a_latency_is_drawn_with_all_arms_and_no_difference_in_the_tail(
    browser: chromium.Browser, tmp_path: Path
) -> None:
    """Four arms and what is added; the legend at the far end of the plot tells the arms, and no difference."""
    browser.resize(1280, 900)
    browser.open(_page(tmp_path, numbers.benchmark(numbers.latency())))
    browser.value("document.querySelector('.plot').scrollIntoView()")
    browser.wait_for("document.querySelector('.plot canvas') !== null")
    names = browser.value("[...document.querySelectorAll('.u-series .u-label')].map(each => each.textContent)")
    assert set(names) == {
        *("percentile", "with the program", "an empty program", "without", "without, once more", "added")
    }

    told = (
        "(place => { const over = document.querySelector('.u-over'), box = over.getBoundingClientRect();"
        " over.dispatchEvent(new MouseEvent('mousemove', {bubbles: true, clientX: box.left + place * box.width,"
        " clientY: box.top + 9}));"
        " return new Promise(done => requestAnimationFrame(() => done("
        "[...document.querySelectorAll('.u-series .u-value')].map(each => each.textContent)))); })"
    )
    middle, tail = browser.value(f"{told}(0.2)"), browser.value(f"{told}(0.98)")
    assert "–" not in middle  # noqa: RUF001
    assert tail[-1] == "–" and tail.count("–") == 1  # noqa: RUF001
    assert browser.complaints() == []
